"""A wrong recipe ends with 78 and one complete message, however many processes read it."""

import shutil
from pathlib import Path

import pytest

from pipeline.__main__ import main
from tests.e2e.running import overrides, train

MISTAKES = {
    "train__num_step": 5,
    "guidance__heads": "{next: 3, sideways: 2}",
    "checkpoint__keep_every_steps": 6,
    "optimizer__learning_rate": "fast",
    "model__max_positions": 16,
}
MESSAGES = [
    "has 6 problems",
    "train.num_step: unknown key; did you mean train.num_steps?",
    "unknown pattern 'sideways'",
    "5 guided heads",
    "6 is not a multiple of 4, so nothing would be kept; write 8",
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


ONE_BY_ONE = {
    "unknown key": ({"gudance.weight": 1}, "gudance: unknown key; did you mean guidance?"),
    "too many heads": ({"guidance.heads": "{next: 9}"}, "9 guided heads"),
    "rows too long": ({"model.max_positions": 16}, "the model takes 16 tokens but the corpus's rows have 32"),
    "missing corpus": ({"corpus": "nowhere"}, "corpus nowhere does not exist; make it with"),
    "heads against width": ({"model.num_heads": 5}, "32 cannot be split over 5 heads"),
    "unknown pattern": ({"guidance.heads": "{nxt: 1}"}, "unknown pattern 'nxt'; the patterns are next"),
    "preset for larger models": ({"guidance.heads": "paper"}, "6 guided heads"),
    "layer named twice": (
        {"guidance.heads": "{0-1: {next: 1}, 1-1: {first: 1}}"},
        "layer 1 is in '1-1' and in an earlier range",
    ),
    "token that is none": (
        {"guidance.heads": "{sentence_ends: 1}", "guidance.sentence_ends": "[., full stop]"},
        "is 'full stop'; write a text that is one token",
    ),
    "key without effect": ({"guidance.alpha": 100}, "guidance.weight: has no effect: alpha is the weight"),
    "layer beyond the last": ({"guidance.layers": "[0, 7]"}, "[7] are beyond the last layer, 1"),
    "fp16 on CPU": ({"train.precision": "fp16"}, "fp16 needs a CUDA device"),
    "unknown DeepSpeed file": ({"train.deepspeed": "zero9"}, "write a path or one of zero0, zero1"),
    "warm-up too long": ({"schedule.warmup": 99}, "do not fit into 12 steps"),
    "wrong type": ({"train.num_steps": "many"}, "found 'many', should be a valid integer"),
}


@pytest.mark.parametrize("mistake", ONE_BY_ONE)
def test_each_mistake_ends_with_78_and_says_what_to_write(recipe_file, tmp_path, capfd, mistake):
    settings, message = ONE_BY_ONE[mistake]
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert main(["train", str(recipe_file()), "--set", f"run_dir={tmp_path / 'run'}", *options]) == 78
    printed = capfd.readouterr().err
    assert printed.count("has 1 problem") == 1
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_in_the_corpus_is_noticed(recipe_file, tiny_corpus, tmp_path, capfd):
    corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
    tokenizer = corpus / "tokenizer" / "tokenizer.json"
    other = tokenizer.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true')
    tokenizer.write_text(other)
    settings = overrides(run_dir=tmp_path / "run", corpus=corpus)
    assert main(["train", str(recipe_file()), *settings]) == 78
    assert "is not the tokenizer of the shards" in capfd.readouterr().err


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_other_launchers_train(recipe_file, tmp_path, launcher):
    recipe = recipe_file(train={"num_steps": 2})
    finished = train(recipe, *overrides(run_dir=tmp_path / "run"), launcher=launcher)
    assert finished.code == 0, finished.output
