"""What docs/cluster.md says in names and numbers is so."""

import re
from pathlib import Path

import pytest

from pipeline import errors
from pipeline.__main__ import build_parser
from pipeline.accounting.metrics import MEASURED_FIELDS
from pipeline.config.schema import CheckpointSection, RecoverySection
from pipeline.runs.lock import DEAD_SECONDS
from pipeline.runs.requeue import judge

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "slurm").iterdir()}


def test_exit_codes_are_requeued_as_told() -> None:
    rows = re.findall(r"^\| (\d+) \| .* \| (yes|no) \|$", TEXT, flags=re.MULTILINE)
    told = {int(code): answer == "yes" for code, answer in rows}
    assert told.keys() >= {0, errors.EXIT_LOST, errors.EXIT_STOPPED, errors.DivergedError.exit_code, 130}
    assert told == {code: judge(code, 10, [], 3).requeue for code in told}
    assert judge(128 + 9, 10, [], 3).requeue, "told in words"


@pytest.mark.parametrize("key", re.findall(r"`(?:recovery|checkpoint)\.\w+`", TEXT))
def test_recipe_keys_exist(key: str) -> None:
    section, name = key.strip("`").split(".")
    assert name in {"recovery": RecoverySection, "checkpoint": CheckpointSection}[section].model_fields


def test_values_called_defaults_are_the_defaults() -> None:
    told = re.findall(r"`recovery\.(\w+)`[^\n(]*\((\d+)\)", TEXT)
    assert {name for name, _ in told} == {"max_bad_steps", "max_rollbacks"}
    for name, value in told:
        assert RecoverySection.model_fields[name].default == int(value)
    assert f"(`recovery.spike_sigmas`, {RecoverySection().spike_sigmas:g}, above" in TEXT
    assert DEAD_SECONDS == 30.0
    assert "half a minute" in TEXT


def test_variables_are_those_of_the_scripts() -> None:
    variables = re.findall(r"^\| `([A-Z_]+)`(?:, `([A-Z_]+)`)? \|", TEXT, flags=re.MULTILINE)
    for name in (name for pair in variables for name in pair if name and not name.endswith("_")):
        assert any(f"${{{name}:-" in script for script in SCRIPTS.values()), name
    assert "#SBATCH --signal=USR2@300" in SCRIPTS["train.sbatch"]


def test_options_of_train_exist() -> None:
    arguments = ["train", "demo", "--stop-signal", "SIGUSR1"]
    assert build_parser().parse_args(arguments).stop_signal == "SIGUSR1"


def test_fields_told_are_those_of_a_line() -> None:
    section = TEXT.split("## How well the machines are used\n")[1].split("\n## ")[0]
    fields = set(re.findall(r"`(\w+)`", section))
    assert fields == MEASURED_FIELDS - {"time", "seconds", "step_seconds", "guidance_share"}
    assert build_parser().parse_args(["train", "demo", "--profile", "5"]).profile_steps == 5


def test_links_and_scripts_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert "://" in target or (ROOT / "docs" / target).exists()
    for script in re.findall(r"slurm/[\w.]+", TEXT):
        assert (ROOT / script).is_file(), script
