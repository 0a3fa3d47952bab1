"""A run with phases trains the same, whoever trains it and wherever it is interrupted."""

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.__main__ import main
from pipeline.accounting.metrics import MEASURED_FIELDS
from pipeline.checkpoints.manifest import list_checkpoints, newest_usable
from pipeline.runs.run_dir import RunDir
from pipeline.weights import read_weights
from tests.e2e.poison import Poison
from tests.e2e.running import losses, overrides, read_metrics, run_command, train

BORDERS = (3, 7)
NUM_STEPS = 10


@pytest.fixture(scope="module")
def make(recipe_file, short_corpus) -> Callable[..., Path]:
    """Rows of 16 tokens in batches of 4, then of 12, then rows of 32 in batches of 8.

    On one process that is one, three and four micro-batches, on two one, two and two.
    """

    def write(**sections: dict) -> Path:
        settings = {
            "model": {"dropout": 0.1, "attention_dropout": 0.1},
            "guidance": {"error": "squared", "weight": 7.0, "plateau": 1.0, "dense": 4, "layers_per_step": 1},
            "train": {"num_steps": NUM_STEPS, "micro_batch_size": 2, "deepspeed": "zero2"},
            "data": {"num_workers": 1},
            "evaluation": {"every_steps": 5},
            "checkpoint": {"every_steps": 2, "asynchronous": False},
            "logging": {"every_steps": 2},
        }
        for name, values in sections.items():
            settings[name] = settings[name] | values
        first, second = BORDERS
        phases = [
            {"until": first, "corpus": str(short_corpus), "global_batch_size": 4, "micro_batch_size": 4},
            {"until": second, "corpus": str(short_corpus), "global_batch_size": 12, "micro_batch_size": 4},
        ]
        return recipe_file(curriculum=phases, **settings)

    return write


@pytest.fixture(scope="module")
def recipe(make) -> Path:
    """With dropout; a line of the log is about two steps, one of each phase at a border."""
    return make()


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> Path:
    """On two processes."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = train(recipe, *overrides(run_dir=run_dir), launcher="processes")
    assert finished.code == 0, finished.output
    return run_dir


def log_of(run_dir: Path) -> list[dict]:
    lines = read_metrics(run_dir) + read_metrics(run_dir, "valid")
    return [{key: line[key] for key in line.keys() - MEASURED_FIELDS} for line in lines]


def events(run_dir: Path, kind: str) -> list[dict]:
    return [event for event in RunDir(run_dir).read_events() if event["event"] == kind]


def assert_same_bits(run_dir: Path, other: Path) -> None:
    assert log_of(run_dir) == log_of(other)
    ours, theirs = (read_weights(newest_usable(path / "checkpoints")[0]) for path in (run_dir, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_phase_is_told_where_it_begins(undisturbed, short_corpus, tiny_corpus):
    told = events(undisturbed, "phase")
    assert [(event["phase"], event["step"], event["end_step"]) for event in told] == [
        *((0, 0, 3), (1, 3, 7), (2, 7, NUM_STEPS)),
    ]
    assert [event["corpus"] for event in told] == [str(short_corpus), str(short_corpus), str(tiny_corpus)]
    assert [(event["global_batch_size"], event["sequence_length"]) for event in told] == [
        *((4, 16), (12, 16), (8, 32)),
    ]
    assert [line["phase"] for line in read_metrics(undisturbed)] == [0, 1, 1, 2, 2]


def test_killed_in_each_phase_and_at_each_border(recipe, undisturbed, tmp_path):
    """One kill after the other in one run, whose checkpoints are of even steps."""
    settings = overrides(run_dir=tmp_path)
    for step in (2, 3, 5, 7, 9):
        command = [sys.executable, "-m", "tests.e2e.broken_rank", "kill", "all", str(step), str(recipe)]
        killed = run_command([*command, *settings])
        assert killed.code == 128 + signal.SIGKILL, killed.output
    finished = train(recipe, *settings, launcher="processes")
    assert finished.code == 0, finished.output
    resumed = [event["step"] for event in events(tmp_path, "resume")]
    assert resumed == [2, 2, 4, 6, 8]
    assert_same_bits(tmp_path, undisturbed)


@pytest.mark.parametrize("border", BORDERS)
def test_stopped_right_at_a_border(recipe, undisturbed, tmp_path, border):
    settings = overrides(run_dir=tmp_path)
    stopped = train(recipe, "--stop-at", str(border), *settings, launcher="processes")
    assert stopped.code == 75, stopped.output
    finished = train(recipe, *settings, launcher="processes")
    assert finished.code == 0, finished.output
    assert [event["step"] for event in events(tmp_path, "resume")] == [border]
    assert [event["step"] for event in events(tmp_path, "phase")] == [0, *BORDERS]
    assert f"step {NUM_STEPS}/{NUM_STEPS}  phase 2  loss" in finished.output
    assert_same_bits(tmp_path, undisturbed)


def test_taken_back_over_a_border(recipe, tmp_path):
    """From the last phase into the one before it; the run is that of who knew which steps to pass over."""
    poison = Poison(steps=[8, 9], rows=None)
    settings = overrides(run_dir=tmp_path / "back", recovery__max_bad_steps=2)
    command = [sys.executable, "-m", "tests.e2e.poison", poison.to_json(), "2", str(recipe)]
    finished = run_command([*command, *settings])
    assert finished.code == 0, finished.output
    (rollback,) = events(tmp_path / "back", "rollback")
    assert (rollback["from_step"], rollback["to_step"], rollback["skipping"]) == (9, 6, [8, 9])
    assert [event["phase"] for event in events(tmp_path / "back", "phase")] == [0, 1, 2, 2]

    (tmp_path / "known").mkdir()
    shutil.copy(tmp_path / "back" / "skipped_steps.json", tmp_path / "known")
    finished = train(recipe, *overrides(run_dir=tmp_path / "known"), launcher="processes")
    assert finished.code == 0, finished.output
    assert_same_bits(tmp_path / "known", tmp_path / "back")


@pytest.fixture(scope="module")
def exact(make) -> Path:
    """Without dropout, which is drawn by process; every step has its line."""
    return make(
        model={"dropout": 0.0, "attention_dropout": 0.0},
        logging={"every_steps": 1},
        checkpoint={"every_steps": 100},
    )


@pytest.fixture(scope="module")
def whole_batches(exact, tmp_path_factory) -> Path:
    """One process that takes every batch at once: what all divisions of the work must give."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    recipe = run_dir.parent / "recipe.yaml"
    text = exact.read_text(encoding="utf-8").replace("micro_batch_size: 4", "micro_batch_size: 12")
    recipe.write_text(text.replace("micro_batch_size: 2", "micro_batch_size: 12"), encoding="utf-8")
    finished = train(recipe, *overrides(run_dir=run_dir))
    assert finished.code == 0, finished.output
    return run_dir


def assert_same_run(run_dir: Path, whole_batches: Path) -> None:
    lines, others = read_metrics(run_dir), read_metrics(whole_batches)
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    for key in ("rows_digest", "tokens", "epoch", "phase", "guidance_weight", "guided_layers"):
        assert [line[key] for line in lines] == [line[key] for line in others], key
    assert losses(run_dir) == pytest.approx(losses(whole_batches), rel=2e-5)
    for key in ("gradient_norm", "guidance_loss"):
        assert [line[key] for line in lines] == pytest.approx([line[key] for line in others], rel=1e-3)


@pytest.mark.parametrize(
    ("stage", "processes"),
    [
        ("zero0", 2),
        ("zero1", 2),
        ("zero2", 2),
        ("zero3", 2),
        ("zero0", 1),
        ("zero2_offload", 1),
        ("zero3", 1),
    ],
)
def test_every_stage_accumulates_as_the_phase_needs(exact, whole_batches, tmp_path, stage, processes):
    settings = overrides(run_dir=tmp_path, train__deepspeed=stage)
    launcher = "none" if processes == 1 else "processes"
    finished = train(exact, *settings, launcher=launcher)
    assert finished.code == 0, finished.output
    assert_same_run(tmp_path, whole_batches)


@pytest.fixture(scope="module")
def stopped(exact, tmp_path_factory) -> Path:
    """Two processes, stopped in the middle of the second phase."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    finished = train(exact, "--stop-at", "5", *overrides(run_dir=run_dir), launcher="processes")
    assert finished.code == 75, finished.output
    return run_dir


@pytest.mark.parametrize("processes", [1, 4])
def test_another_number_of_processes_goes_on(exact, whole_batches, stopped, tmp_path, processes):
    run_dir = Path(shutil.copytree(stopped, tmp_path / "run"))
    launcher = "none" if processes == 1 else "processes"
    finished = train(exact, *overrides(run_dir=run_dir), launcher=launcher, processes=processes)
    assert finished.code == 0, finished.output
    assert_same_run(run_dir, whole_batches)


def test_the_first_phase_is_a_run_with_its_values(exact, whole_batches, short_corpus, tmp_path):
    """To the bit: the rows, the guidance weight of their length, the positions of the longest."""
    settings = {"corpus": short_corpus, "train__global_batch_size": 4, "train__micro_batch_size": 12}
    plain = overrides(run_dir=tmp_path, curriculum="[]", model__max_positions=32, **settings)
    finished = train(exact, "--stop-at", str(BORDERS[0]), *plain)
    assert finished.code == 75, finished.output
    assert log_of(tmp_path) == log_of(whole_batches)[: BORDERS[0]]


def test_guidance_follows_the_length(whole_batches):
    weights = [line["guidance_weight"] for line in read_metrics(whole_batches)]
    assert weights == pytest.approx([7.0 * 16 / 512] * 7 + [7.0 * 32 / 512] * 3)


def test_what_comes_after_training_takes_the_longest_rows(whole_batches, capsys):
    for command in ("export", "report"):
        assert main([command, str(whole_batches)]) == 0
    assert "same logits as the run" in capsys.readouterr().out
    page = (whole_batches / "report" / "report.html").read_text(encoding="utf-8")
    assert f"passes over {RunDir(whole_batches).read_recipe().corpus}" in page


def test_a_changed_curriculum_is_refused_and_can_be_accepted(recipe, undisturbed, tiny_corpus, tmp_path):
    run_dir = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    for path in list_checkpoints(run_dir / "checkpoints")[:1]:
        shutil.rmtree(path)
    phases = f"[{{until: 3, corpus: {tiny_corpus}, global_batch_size: 4}}]"
    options = overrides(run_dir=run_dir, curriculum=phases)
    refused = train(recipe, *options, launcher="processes")
    assert refused.code == 78
    assert "curriculum: [{'until': 3, 'global_batch_size': 4}], the run was started with" in refused.output
    assert "curriculum.0.corpus: 'content " in refused.output

    accepted = train(recipe, *options, "--accept-changes", launcher="processes")
    assert accepted.code == 0, accepted.output
    again = train(recipe, *options, launcher="processes")
    assert again.code == 0, again.output
