"""Minimal pairs and the probe on a real run."""

import json

import pytest

from pipeline.__main__ import main
from tests.e2e.running import last_evaluation, overrides, train


@pytest.fixture(scope="module")
def run_dir(recipe_file, tmp_path_factory):
    recipe = recipe_file(train={"num_steps": 2})
    path = tmp_path_factory.mktemp("tasks") / "run"
    finished = train(recipe, *overrides(run_dir=path))
    assert finished.code == 0, finished.output
    return path


def test_minimal_pairs_of_a_run(run_dir, tmp_path, capsys):
    texts = {"sentence_good": "It works.", "sentence_bad": "It work."}
    line = {**texts, "linguistics_term": "agreement", "field": "syntax", "UID": "verbs"}
    (tmp_path / "verbs.jsonl").write_text(json.dumps(line))
    command = ["evaluate", str(run_dir), "--task", "blimp", "--data", str(tmp_path)]
    assert main(command) == 0
    assert last_evaluation(run_dir, "blimp")["numbers"]["accuracy"] in (0.0, 1.0)
    assert "blimp of" in capsys.readouterr().out


def test_probe_of_a_run_looks_at_its_held_out_rows_and_tokens(run_dir):
    assert main(["evaluate", str(run_dir), "--task", "probe", "--limit", "5", "--only", "patterns"]) == 0
    found = last_evaluation(run_dir, "probe")
    assert found["units"]["patterns"]["text"] == "held-out rows"
    assert found["units"]["patterns"]["num_rows"] == 5
    assert found["units"]["patterns"]["mass"]["sentence_ends"] is not None
    assert 0 < found["numbers"]["entropy/relative"] <= 1
    assert (run_dir / "evaluation" / "probe.png").is_file()
