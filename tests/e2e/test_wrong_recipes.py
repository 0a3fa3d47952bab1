"""A wrong recipe ends with 78 and one complete message, however many processes read it."""

import pytest

from tests.e2e.running import overrides, train

MISTAKES = {
    "train__num_step": 5,
    "guidance__heads": "{next: 3, sideways: 2}",
    "train__global_batch_size": 7,
    "optimizer__learning_rate": "fast",
    "model__max_positions": 16,
}
MESSAGES = [
    "has 6 problems",
    "train.num_step: unknown key; did you mean train.num_steps?",
    "unknown pattern 'sideways'",
    "5 guided heads",
    "7 rows cannot go to",
    "found 'fast', should be a valid number",
    "the model takes 16 tokens but the corpus's rows have 32",
]


@pytest.mark.parametrize("launcher", ["none", "processes", "torchrun", "deepspeed"])
def test_every_mistake_is_told_once(recipe_file, tmp_path, launcher):
    recipe = recipe_file()
    finished = train(recipe, *overrides(run_dir=tmp_path / "run", **MISTAKES), launcher=launcher)
    for message in MESSAGES:
        assert finished.output.count(message) == 1, finished.output
    assert not (tmp_path / "run").exists()
    if launcher == "torchrun":
        # torchrun ends with 1 and a summary and traceback of its own; none of its frames is ours.
        assert finished.code == 1
        assert "exitcode  : 78" in finished.output
        assert "pipeline/__main__.py" not in finished.output
    else:
        assert finished.code == 78
        assert "Traceback" not in finished.output


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_other_launchers_train(recipe_file, tmp_path, launcher):
    recipe = recipe_file(train={"num_steps": 2})
    finished = train(recipe, *overrides(run_dir=tmp_path / "run"), launcher=launcher)
    assert finished.code == 0, finished.output
