"""Where a run begins. The files on disk decide, and nothing is ever trained from scratch by mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoints.loading import Source
from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError, RecipeError, UsageError, UserError
from pipeline.runs.run_dir import RunDir
from pipeline.runs.start import Start, StartOptions, choose_start
from tests.pipeline.checkpoints.test_manifest import everything_in, flip_a_bit, make_checkpoint

MakeRecipe = Callable[..., Recipe]


def begin(
    recipe: Recipe, *, fresh: bool = False, accept_changes: bool = False, world_size: int = 1, stage: int = 1
) -> Start:
    options = StartOptions(fresh=fresh, accept_changes=accept_changes)
    return choose_start(RunDir(recipe.run_dir), recipe, options, {"world_size": world_size}, stage)


def event_names(recipe: Recipe) -> list[str]:
    return [event["event"] for event in RunDir(recipe.run_dir).read_events()]


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe()


@pytest.fixture
def checkpoints(recipe: Recipe) -> Path:
    """The checkpoints directory of a run that was started and has published steps 10 and 20."""
    begin(recipe)
    run = RunDir(recipe.run_dir)
    for step in (10, 20):
        make_checkpoint(run.checkpoints, step)
        run.add_event("checkpoint", step=step)
    return run.checkpoints


def test_first_start_makes_the_directory_a_run(recipe: Recipe) -> None:
    assert begin(recipe) == Start(0, None)

    assert RunDir(recipe.run_dir).read_recipe() == recipe
    assert event_names(recipe) == ["start"]


def test_started_again_it_resumes_at_the_newest(recipe: Recipe, checkpoints: Path) -> None:
    assert begin(recipe) == Start(20, Source(checkpoints / "step-00000020", None, 1))
    assert event_names(recipe)[-1] == "resume"


def test_damaged_newest_is_kept_aside_and_reported(recipe: Recipe, checkpoints: Path) -> None:
    flip_a_bit(checkpoints / "step-00000020")

    assert begin(recipe) == Start(10, Source(checkpoints / "step-00000010", None, 1))

    assert event_names(recipe)[-2:] == ["corrupt checkpoint", "resume"]
    assert (checkpoints / "damaged-1-step-00000020").is_dir()


def test_what_a_killed_save_left_takes_no_room_for_ever(recipe: Recipe, checkpoints: Path) -> None:
    """Of a step that may never be saved again."""
    for name in (".partial-step-00000023", ".deleted-step-00000005"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "half.pt").write_text("half", encoding="utf-8")

    begin(recipe)

    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000010", "step-00000020"]


def test_nothing_usable_stops_and_changes_nothing(recipe: Recipe, checkpoints: Path) -> None:
    for step in (10, 20):
        flip_a_bit(checkpoints / f"step-000000{step}")
    before = everything_in(Path(recipe.run_dir))

    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is usable"):
        begin(recipe)

    assert everything_in(Path(recipe.run_dir)) == before


def test_checkpoints_that_vanished_are_missed(recipe: Recipe, checkpoints: Path) -> None:
    for path in checkpoints.glob("step-*"):
        path.rename(path.with_name(f"moved-{path.name}"))

    with pytest.raises(CheckpointError, match="had published step 20"):
        begin(recipe)


def test_checkpoints_without_a_recipe_are_no_place_to_start(recipe: Recipe, checkpoints: Path) -> None:
    (checkpoints.parent / "recipe.yaml").unlink()

    with pytest.raises(CheckpointError, match=r"no recipe\.yaml"):
        begin(recipe)


def test_other_corpus_in_the_same_place_is_refused(recipe: Recipe) -> None:
    """Its rows have other numbers: the resumed run would see some twice and others never."""
    run = RunDir(recipe.run_dir)
    options = StartOptions(fresh=False, accept_changes=False)
    choose_start(run, recipe, options, {"world_size": 1, "corpus_sha256": "a" * 64}, 1)
    make_checkpoint(run.checkpoints, 10)

    with pytest.raises(UserError, match="corpus"):
        choose_start(run, recipe, options, {"world_size": 1, "corpus_sha256": "b" * 64}, 1)


def test_other_corpus_of_a_phase_is_a_change_that_can_be_accepted(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"curriculum": [{"until": 3, "corpus": "short"}]})
    run = RunDir(recipe.run_dir)

    def start(content: str, **options: bool) -> Start:
        environment = {"world_size": 1, "corpus_sha256": "a" * 64, "curriculum_sha256": [content * 64]}
        return choose_start(run, recipe, StartOptions(**options), environment, 1)

    start("b")
    make_checkpoint(run.checkpoints, 10)
    start("b")
    with pytest.raises(
        RecipeError, match=r"curriculum\.0\.corpus: 'content cccccccccccc', .* 'content bbbbbbbbbbbb'"
    ):
        start("c")
    start("c", accept_changes=True)
    start("c")


def test_run_killed_before_its_first_checkpoint_starts_over(recipe: Recipe) -> None:
    begin(recipe)

    assert begin(recipe) == Start(0, None)


def test_fresh_refuses_a_directory_that_holds_a_run(recipe: Recipe, checkpoints: Path) -> None:
    before = everything_in(checkpoints)

    with pytest.raises(UsageError, match="--fresh"):
        begin(recipe, fresh=True)

    assert everything_in(checkpoints) == before


def test_fresh_is_fine_in_a_new_directory(recipe: Recipe) -> None:
    assert begin(recipe, fresh=True) == Start(0, None)


@pytest.mark.usefixtures("checkpoints")
def test_changed_recipe_is_refused_with_both_values(make_recipe: MakeRecipe) -> None:
    changed = make_recipe({"optimizer.learning_rate": 2e-3})

    with pytest.raises(RecipeError, match=r"optimizer\.learning_rate: 0\.002, .* with 0\.001") as caught:
        begin(changed)

    assert "--accept-changes" in str(caught.value)


@pytest.mark.usefixtures("checkpoints")
def test_accepted_change_is_noted(make_recipe: MakeRecipe) -> None:
    changed = make_recipe({"optimizer.learning_rate": 2e-3})

    assert begin(changed, accept_changes=True).step == 20

    changes = [e for e in RunDir(changed.run_dir).read_events() if e["event"] == "recipe changed"]
    assert "0.002" in changes[0]["changes"][0]


@pytest.mark.usefixtures("checkpoints")
def test_a_stage_there_is_no_way_to_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match=r"written at ZeRO stage 1 and cannot go on at stage 0"):
        begin(recipe, stage=0)


@pytest.mark.usefixtures("checkpoints")
def test_a_checkpoint_that_cannot_be_converted_stops_the_start(recipe: Recipe) -> None:
    """DeepSpeed finds none of its files in the made-up one."""
    with pytest.raises(CheckpointError, match=r"cannot convert .*step-00000020.*optim_states"):
        begin(recipe, world_size=2)
    assert not list(Path(recipe.run_dir).glob("checkpoints/converted/*step*"))


def test_required_resume_never_begins_at_step_zero(recipe: Recipe) -> None:
    run, options = RunDir(recipe.run_dir), StartOptions(must_resume=True)
    with pytest.raises(CheckpointError, match="holds no run"):
        choose_start(run, recipe, options, {"world_size": 1}, 1)
    assert not run.path.exists()

    begin(recipe)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        choose_start(run, recipe, options, {"world_size": 1}, 1)

    make_checkpoint(run.checkpoints, 10)
    assert choose_start(run, recipe, options, {"world_size": 1}, 1).step == 10


def test_refused_start_leaves_the_recipe_as_it_was(recipe: Recipe, checkpoints: Path) -> None:
    changed = recipe.model_copy(update={"seed": 99})
    with pytest.raises(UsageError, match="was written at"):
        begin(changed, accept_changes=True, stage=0)
    assert RunDir(recipe.run_dir).read_recipe() == recipe

    begin(changed, accept_changes=True)
    assert RunDir(recipe.run_dir).read_recipe().seed == 99
