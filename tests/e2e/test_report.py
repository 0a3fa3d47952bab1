"""evaluate and report on a real run."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import normalizers

from pipeline import export
from pipeline.__main__ import main
from pipeline.accounting.metrics import MEASURED_FIELDS
from pipeline.evaluation.attention_snapshot import Snapshot, read_snapshots
from pipeline.report import page
from pipeline.report.attention_maps import SentenceAttention
from pipeline.tokenizer import auto_tokenizer
from tests.e2e.running import last_evaluation, overrides, train

FIGURES = ["loss", "guidance_mass", "guidance_error", "forming", "attention_maps", "rates", "throughput"]


@pytest.fixture(scope="module")
def run_dir(recipe_file, tmp_path_factory):
    recipe = recipe_file(
        guidance={"heads": {"next": 1, "first": 2}},
        train={"num_steps": 6},
        evaluation={"every_steps": 2},
        logging={"every_steps": 1, "tensorboard": True},
    )
    path = tmp_path_factory.mktemp("report") / "run"
    finished = train(recipe, *overrides(run_dir=path))
    assert finished.code == 0, finished.output
    return path


def test_evaluate_agrees_with_the_run_and_names_the_unigram_loss(run_dir, capsys):
    assert main(["evaluate", str(run_dir), "--limit", "16"]) == 0
    result = last_evaluation(run_dir, "held_out")["numbers"]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert result["loss"] == pytest.approx([x for x in lines if x["kind"] == "valid"][-1]["loss"], rel=1e-5)
    printed = capsys.readouterr().out
    assert f"{result['unigram_loss']:.4g}" in printed
    assert 2.0 < result["unigram_loss"] < 7.0


def test_report_has_every_figure_and_escapes_the_corpus(run_dir, monkeypatch):
    uniform = np.full((2, 4, 4, 4), 0.25, dtype=np.float32)
    hostile = SentenceAttention(
        token_ids=np.array([5, 6, 7, 8]),
        tokens=["<script>alert(1)</script>", "$\\frac{", "&amp;", "end"],
        snapshots=[Snapshot(0, uniform), Snapshot(6, uniform)],
    )
    monkeypatch.setattr(page, "attend_to_sentence", lambda trained: hostile)
    assert main(["report", str(run_dir)]) == 0
    text = (run_dir / "report" / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    for name in FIGURES:
        assert f"{name}.png" in text
        with Image.open(run_dir / "report" / f"{name}.png") as image:
            assert min(image.size) > 200


def test_report_of_a_run_that_knew_less_and_of_one_that_knows_its_mfu(run_dir, tmp_path):
    """Lines written before there was any accounting; and lines of a GPU."""
    added = MEASURED_FIELDS - {"time", "seconds", "tokens_per_second", "step_seconds"}
    added -= {"guidance_share", "loader_share"}
    for name, change in (("old", lambda line: None), ("gpu", lambda line: line | {"mfu": 0.4321})):
        copied = Path(shutil.copytree(run_dir, tmp_path / name))
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        changed = [change(line) or {k: v for k, v in line.items() if k not in added} for line in lines]
        (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
        assert main(["report", str(copied)]) == 0
        text = (copied / "report" / "report.html").read_text()
        assert ("43.2 %" in text) == ("model TFLOP/s" in text) == (name == "gpu")
    figures = [(tmp_path / name / "report" / "throughput.png").read_bytes() for name in ("old", "gpu")]
    assert figures[0] != figures[1]


def test_run_keeps_what_its_heads_looked_at_early_on(run_dir):
    """At its start and after a hundredth of its steps, here the first."""
    snapshots = read_snapshots(run_dir / "attention")

    assert sorted(path.name for path in (run_dir / "attention").iterdir()) == [
        "step-00000000.npz",
        "step-00000001.npz",
    ]
    assert [snapshot.step for snapshot in snapshots] == [0, 1]
    assert snapshots[0].probs.shape[:2] == (2, 4)
    for snapshot in snapshots:
        assert np.allclose(snapshot.probs.sum(-1), 1.0, atol=2e-3)
    assert not np.array_equal(snapshots[0].probs, snapshots[1].probs)


def test_report_draws_the_attention_of_a_real_sentence(run_dir, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        page.figures, "draw_forming", lambda path, sentence, _: drawn.update(forming=sentence)
    )
    assert main(["report", str(run_dir)]) == 0
    sentence = drawn["forming"]
    assert [snapshot.step for snapshot in sentence.snapshots] == [0, 1, 6]
    assert {snapshot.probs.shape[-1] for snapshot in sentence.snapshots} == {len(sentence.tokens)}
    shown = html.unescape((run_dir / "report" / "report.html").read_text())
    assert " ".join(sentence.tokens) in shown


def test_tensorboard_has_the_losses(run_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_directory_without_a_run_is_refused(tmp_path, capsys):
    for command in ("evaluate", "export", "report"):
        assert main([command, str(tmp_path)]) == 64
        assert re.search("holds (no|neither a) run", capsys.readouterr().err)


def test_export_whose_tokenizer_reads_otherwise_is_not_published(run_dir, tmp_path, monkeypatch, capsys):
    def lower(path):
        tokenizer = auto_tokenizer(path)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        return tokenizer

    out = tmp_path / "export"
    monkeypatch.setattr(export, "auto_tokenizer", lower)
    assert main(["export", str(run_dir), "--out", str(out)]) == 74
    assert "the exported tokenizer, opened by transformers, is another one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert main(["export", str(run_dir), "--out", str(out)]) == 0
    assert "same logits as the run on 4 rows, and the same tokens" in capsys.readouterr().out
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["model_max_length"]) == ("PreTrainedTokenizerFast", 32)
    files = {path.name for path in out.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
