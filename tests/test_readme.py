"""What the README tells a user to type works as it stands there."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from data_prep import errors as prep_errors
from data_prep.__main__ import main as data_prep
from pipeline import errors
from pipeline.config.schema import GuidanceSection
from tests.processes import run_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The README's run is of RoBERTa-base's size; only its size is changed here.
SMALL = {
    "model.num_layers": 2,
    "model.hidden_size": 32,
    "model.num_heads": 8,
    "model.intermediate_size": 64,
    "train.num_steps": 2,
    "train.global_batch_size": 8,
    "train.micro_batch_size": 4,
    "evaluation.max_rows": 8,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A user's directory with texts of their own."""
    path = tmp_path_factory.mktemp("user")
    assert data_prep(["sample", str(path / "my_texts" / "docs.jsonl"), "--max-bytes", "1500000"]) == 0
    return path


def test_commands_work_in_the_order_written(directory):
    assert len(commands()) >= 9
    for command in commands():
        assert command[:2] == ["python", "-m"]
        if command[2:4] == ["pipeline", "train"]:
            command += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
        finished = run_command([sys.executable, *command[1:]], cwd=directory)
        assert finished.code == 0, f"{shlex.join(command)}\n{finished.output}"
    assert (directory / "runs/mine/export/model.safetensors").is_file()
    assert (directory / "runs/mine/report/report.html").is_file()


def test_guidance_section_is_valid():
    (section,) = blocks("yaml")
    GuidanceSection.model_validate(yaml.safe_load(section)["guidance"])


def test_exit_codes_are_those_of_the_code():
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    classes = [
        *(errors.UsageError, errors.DataError, errors.CheckpointError),
        *(errors.RecipeError, errors.LostProcessError, errors.DivergedError),
    ]
    assert told == {
        0,
        prep_errors.EXIT_INTERNAL,
        prep_errors.EXIT_INTERRUPTED,
        errors.EXIT_STOPPED,
        *(error.exit_code for error in classes),
    }


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)|<img src=\"([^\"]+)\"", README)
    local = [target for pair in targets for target in pair if target and "://" not in target]
    assert local
    for target in local:
        assert (ROOT / target).exists(), target
