"""Guidance in real runs: the measured dense phase, tables of layers, a bias, the published loss."""

from pathlib import Path

import pytest

from benchmarks.resume import compare_logs
from pipeline.__main__ import main
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import last_evaluation, losses, overrides, read_metrics, train


def finish(recipe: Path, run_dir: Path, *arguments: str, launcher: str = "none", code: int = 0) -> RunDir:
    finished = train(recipe, *arguments, *overrides(run_dir=run_dir), launcher=launcher)
    assert finished.code == code, finished.output
    return RunDir(run_dir)


def assert_same_lines(run: RunDir, undisturbed: RunDir) -> None:
    compared, differences = compare_logs(run, undisturbed)
    assert differences == []
    assert compared >= 8


# The measured end of the dense phase


FORMED_AT = 20  # of 30 steps; patterns are looked at every 10


@pytest.fixture(scope="module")
def forming(recipe_file) -> Path:
    """About an eighth of the attention is on target at step 10, more than a third at step 20."""
    return recipe_file(
        guidance={"heads": {"self": 1}, "weight": 200.0, "plateau": 1.0, "formed_mass": 0.25},
        optimizer={"learning_rate": 1e-2},
        train={"num_steps": 30},
        evaluation={"every_steps": 15},
        checkpoint={"every_steps": 30},
        logging={"every_steps": 1},
    )


@pytest.fixture(scope="module")
def formed(forming, tmp_path_factory) -> RunDir:
    """The undisturbed run of one process."""
    return finish(forming, tmp_path_factory.mktemp("formed") / "run")


def formed_events(run: RunDir) -> list[dict]:
    return [event for event in run.read_events() if event["event"] == "patterns formed"]


def guided_layers(run: RunDir) -> list[int]:
    return [line["guided_layers"] for line in read_metrics(run.path)]


def test_layers_are_sampled_as_soon_as_the_patterns_have_formed(formed):
    (event,) = formed_events(formed)
    assert event["step"] == FORMED_AT
    assert 0.25 < event["mean_mass"] < 1.0
    # All layers until then, a quarter of them (rounded up) from then on.
    assert guided_layers(formed) == [2] * FORMED_AT + [1] * (30 - FORMED_AT)
    mass = read_metrics(formed.path)[FORMED_AT - 1]["guidance_mass"]["self"]
    assert event["mean_mass"] == pytest.approx(sum(mass) / 2, abs=1e-4)


def test_two_processes_see_the_patterns_form_at_the_same_step(forming, formed, tmp_path):
    two = finish(forming, tmp_path / "run", launcher="processes")

    (event,), (expected,) = formed_events(two), formed_events(formed)
    assert event["step"] == expected["step"]
    assert event["mean_mass"] == pytest.approx(expected["mean_mass"], abs=2e-3)
    assert guided_layers(two) == guided_layers(formed)


def test_resumed_run_knows_that_the_patterns_have_formed(forming, formed, tmp_path):
    """It would look at all layers again until step 30, where it would see it anew."""
    run = finish(forming, tmp_path / "run", "--stop-at", "23", code=75)
    assert len(formed_events(run)) == 1

    finish(forming, tmp_path / "run")

    assert [event["step"] for event in run.read_events() if event["event"] == "resume"] == [23]
    assert len(formed_events(run)) == 1
    assert_same_lines(run, formed)


# Tables of layers, sets of tokens, sampled layers and rows


def test_two_processes_train_a_table_with_sampled_rows_as_one(recipe_file, tmp_path):
    heads = {"0-0": {"delimiters": 1, "next": 1}, "1-": {"sentence_ends": 2, "delimiters": 1}}
    recipe = recipe_file(
        guidance={"heads": heads, "weight": 50.0, "dense": 3, "layers_per_step": 1, "row_stride": 4},
        train={"micro_batch_size": 2},
        logging={"every_steps": 1},
    )

    one = finish(recipe, tmp_path / "one")
    two = finish(recipe, tmp_path / "two", launcher="processes")

    assert losses(two.path) == pytest.approx(losses(one.path), rel=2e-5)
    expected, found = read_metrics(one.path), read_metrics(two.path)
    assert [line["guided_layers"] for line in expected] == [2] * 3 + [1] * 9
    for line, other in zip(expected, found, strict=True):
        assert other["guidance_loss"] == pytest.approx(line["guidance_loss"], rel=1e-3)
        assert other["guidance_mass"].keys() == {"delimiters", "next", "sentence_ends"}
        for name, mass in line["guidance_mass"].items():
            assert mass == [
                m if m is None else pytest.approx(m, rel=1e-3) for m in other["guidance_mass"][name]
            ]
    looked_at = [line["guidance_mass"]["delimiters"] for line in expected[3:]]
    assert {tuple(share is None for share in shares) for shares in looked_at} == {
        (True, False),
        (False, True),
    }
    valid = read_metrics(one.path, "valid")[-1]["guidance_mass"]
    assert valid["sentence_ends"][0] is None  # no head of layer 0 has it
    assert valid["next"][1] is None
    assert read_metrics(two.path, "valid")[-1]["guidance_mass"]["delimiters"] == pytest.approx(
        valid["delimiters"], rel=1e-3
    )


# A bias instead of the loss


@pytest.fixture(scope="module")
def biased(recipe_file, tmp_path_factory) -> tuple[Path, RunDir]:
    """An undisturbed run whose bias falls to zero at its eighth step."""
    heads = {"next": 1, "delimiters": 2}
    recipe = recipe_file(
        guidance={"heads": heads, "weight": None, "method": "bias", "bias": 6.0, "plateau": 4, "end": 8},
        model={"dropout": 0.1, "attention_dropout": 0.1},
        train={"num_steps": 10},
        evaluation={"every_steps": 5},
        logging={"every_steps": 1},
    )
    return recipe, finish(recipe, tmp_path_factory.mktemp("biased") / "run")


def test_bias_decays_and_no_layer_is_looked_at(biased):
    _, run = biased
    lines = read_metrics(run.path)
    assert [line["guidance_bias"] for line in lines] == [6.0] * 5 + [4.5, 3.0, 1.5, 0.0, 0.0]
    for line in lines:
        assert (line["guided_layers"], line["guidance_weight"], line["guidance_loss"]) == (0, 0.0, 0.0)
        assert line["guidance_mass"]["next"] == [None, None]
    # While held-out text is looked at as by the exported model, without the bias.
    assert all(0.0 < share < 0.2 for share in read_metrics(run.path, "valid")[-1]["guidance_mass"]["next"])


def test_run_with_a_bias_resumes_as_if_nothing_had_happened(biased, tmp_path):
    recipe, undisturbed = biased
    finish(recipe, tmp_path / "run", "--stop-at", "6", code=75)
    run = finish(recipe, tmp_path / "run")
    assert_same_lines(run, undisturbed)


def test_run_with_a_bias_is_evaluated_exported_and_reported(biased, capsys):
    _, run = biased
    for command in ("evaluate", "export", "report"):
        assert main([command, str(run.path)]) == 0
    assert "same logits as the run" in capsys.readouterr().out
    last = read_metrics(run.path, "valid")[-1]
    found = last_evaluation(run.path, "held_out")["units"]["held-out"]
    assert found["guidance_mass"].keys() == last["guidance_mass"].keys() == {"next", "delimiters"}
    for name in ("forming.png", "attention_maps.png", "guidance_mass.png"):
        assert (run.report / name).is_file()
    assert not (run.report / "guidance_error.png").exists()


# The published loss


def test_published_loss_trains_with_attention_dropout(recipe_file, tmp_path):
    """alpha times a sum over layers and types of means over n x n, here 2 layers x 2 types, n = 32."""
    heads = {"next": 1, "first": 2}
    recipe = recipe_file(
        guidance={"heads": heads, "normalization": "authors", "weight": None, "alpha": 100.0, "dense": 12},
        model={"attention_dropout": 0.1},
        optimizer={"learning_rate": 1e-2},
        logging={"every_steps": 1},
    )

    run = finish(recipe, tmp_path / "run")

    lines = read_metrics(run.path)
    for line in lines[:7]:  # half the run
        assert line["guidance_weight"] == pytest.approx(100.0 * 4 / 32)
    for line in lines:
        errors = line["guidance_error"]
        # Both types weigh the same, though one has two heads.
        assert line["guidance_loss"] == pytest.approx(
            line["guidance_weight"] * (errors["next"] + errors["first"]) / 2, rel=1e-4
        )
    # Of uniform attention over 32 keys: 1 - 2/32 + 1/32/0.9, and less for the last row of "next".
    assert lines[0]["guidance_error"]["first"] == pytest.approx(1 - 2 / 32 + 1 / 32 / 0.9, rel=0.02)
    assert lines[-1]["guidance_error"]["first"] < 0.5 * lines[0]["guidance_error"]["first"]
    assert lines[-1]["guidance_error"]["first"] > 0.1  # the floor that dropout leaves


# A pull that is too strong


def held_back_events(run: RunDir) -> list[dict]:
    return [event for event in run.read_events() if event["event"] == "guidance holds back"]


def test_a_pull_that_leaves_the_objective_nothing_is_told_once(recipe_file, tmp_path):
    recipe = recipe_file(
        guidance={"heads": {"self": 2}, "weight": 1e9, "plateau": 1.0},
        optimizer={"learning_rate": 1e-2},
        train={"num_steps": 240},
        evaluation={"every_steps": 10},
        checkpoint={"every_steps": 240},
    )
    finished = train(recipe, *overrides(run_dir=tmp_path / "run"), "--stop-at", "220")
    assert finished.code == 75, finished.output
    assert finished.output.count("is still that of a model that knows only") == 1
    run = finish(recipe, tmp_path / "run")
    (event,) = held_back_events(run)
    assert event["formed_step"] == formed_events(run)[0]["step"]
    assert event["step"] == max(200, 4 * event["formed_step"])
    assert event["loss"] > 0.97 * event["unigram_loss"]
    told = next(line for line in read_metrics(run.path, "valid") if line["step"] == event["step"])
    assert told["loss"] == event["loss"]
