"""A run goes on with another number of processes or ZeRO stage, and stays the same run to rounding."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import find_damage
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import overrides, read_metrics, train

SIZES, STAGES = (1, 2, 4), (1, 2, 3)
STOP_AT, NUM_STEPS = 4, 8
# Of a float32 run whose sums are taken in another order; the gradients of a step differ by about 1e-6.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(
        guidance={"heads": {"next": 1, "first": 1}, "dense": 3, "layers_per_step": 1},
        train={"num_steps": NUM_STEPS, "global_batch_size": 8, "micro_batch_size": 4},
        checkpoint={"every_steps": 100},
        logging={"every_steps": 1},
    )


def go_on(
    recipe: Path, run_dir: Path, size: int, stage: int, *arguments: str, precision: str = "fp32"
) -> None:
    settings = overrides(run_dir=run_dir, train__deepspeed=f"zero{stage}", train__precision=precision)
    launcher = "none" if size == 1 else "processes"
    finished = train(recipe, *arguments, *settings, launcher=launcher, processes=size)
    assert finished.code == (75 if arguments else 0), finished.output


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    go_on(recipe, run_dir, 1, 1)
    return read_metrics(run_dir)


@pytest.fixture(scope="module")
def stopped(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """Run directories of runs stopped half-way, by number of processes and stage; made once."""
    made: dict[tuple[int, int], Path] = {}

    def find(size: int, stage: int) -> Path:
        if (size, stage) not in made:
            run_dir = tmp_path_factory.mktemp(f"stopped-{size}-{stage}") / "run"
            go_on(recipe, run_dir, size, stage, "--stop-at", str(STOP_AT))
            made[size, stage] = run_dir
        return made[size, stage]

    return find


def assert_same_run(run_dir: Path, undisturbed: list[dict]) -> None:
    lines = read_metrics(run_dir)
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert [line["rows_digest"] for line in lines] == [line["rows_digest"] for line in undisturbed]
    for line, other in zip(lines, undisturbed):
        assert line["loss"] == pytest.approx(other["loss"], rel=ROUNDING)
        assert line["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
        assert line["guidance_loss"] == pytest.approx(other["guidance_loss"], rel=1e-3)
        assert line["tokens"] == other["tokens"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_another_number_of_processes(recipe, stopped, undisturbed, tmp_path, before, after, stage):
    run_dir = Path(shutil.copytree(stopped(before, stage), tmp_path / "run"))
    go_on(recipe, run_dir, after, stage)
    assert_same_run(run_dir, undisturbed)
    events = [event["event"] for event in RunDir(run_dir).read_events()]
    assert ("converted" in events) == (before != after)


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STAGES, 2)))
def test_another_stage(recipe, stopped, undisturbed, tmp_path, before, after):
    run_dir = Path(shutil.copytree(stopped(2, before), tmp_path / "run"))
    go_on(recipe, run_dir, 2, after)
    assert_same_run(run_dir, undisturbed)


@pytest.mark.parametrize(("stage_before", "stage_after"), [(2, 3), (3, 1)])
def test_bf16_goes_on_from_its_float32_copies(recipe, tmp_path, stage_before, stage_after):
    """One process runs through; two stop half-way and one goes on at another stage."""
    through, run_dir = tmp_path / "through", tmp_path / "run"
    go_on(recipe, through, 1, stage_after, precision="bf16")
    go_on(recipe, run_dir, 2, stage_before, "--stop-at", str(STOP_AT), precision="bf16")
    go_on(recipe, run_dir, 1, stage_after, precision="bf16")
    ours, theirs = read_metrics(run_dir), read_metrics(through)
    assert [line["rows_digest"] for line in ours] == [line["rows_digest"] for line in theirs]
    for line, other in zip(ours, theirs):
        assert line["loss"] == pytest.approx(other["loss"], rel=2e-3)


def test_a_conversion_is_used_again_while_it_is_whole(recipe, stopped, tmp_path):
    run_dir = Path(shutil.copytree(stopped(2, 2), tmp_path / "run"))
    converted = run_dir / "checkpoints" / "converted" / f"step-{STOP_AT:08d}"
    settings = overrides(run_dir=run_dir, train__deepspeed="zero2")

    def start_alone() -> str:
        """Go on from the checkpoint of two processes, by one step; what the run said."""
        finished = train(recipe, "--stop-at", str(STOP_AT + 1), *settings)
        assert finished.code == 75, finished.output
        shutil.rmtree(run_dir / "checkpoints" / f"step-{STOP_AT + 1:08d}")
        return finished.output

    assert "converted in" in start_alone()
    first = {path.name: path.stat().st_mtime_ns for path in converted.rglob("*") if path.is_file()}
    said = start_alone()
    assert f"using {converted}, converted before" in said
    assert "converted in" not in said
    assert {path.name: path.stat().st_mtime_ns for path in converted.rglob("*") if path.is_file()} == first

    (converted / "zero" / "optimizer_state.pt").write_bytes(b"broken")
    said = start_alone()
    assert "converting again" in said
    assert "optimizer_state.pt has 6 bytes" in said
    assert find_damage(converted) is None
