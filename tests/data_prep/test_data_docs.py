"""What docs/data.md shows works, and what it says in numbers is so."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from data_prep.__main__ import build_parser, main
from data_prep.cleaning.minhash import NUM_BANDS
from data_prep.inputs.damage import DamageReason
from data_prep.inputs.mixture import read_mixture
from data_prep.inputs.parts import MAX_RECORD_BYTES
from data_prep.packing import PACKINGS
from data_prep.part_file import SIGNATURE

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def table_after(heading: str) -> list[list[str]]:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.removeprefix("|") for line in section.splitlines() if line.startswith("|")]
    cells = [re.split(r" (?<!\\)\|(?: |$)", line) for line in lines[2:]]
    return [[cell.strip() for cell in line] for line in cells]


def test_commands_work_in_the_order_written(tmp_path: Path) -> None:
    assert main(["sample", str(tmp_path / "my_texts" / "docs.jsonl"), "--max-bytes", "800000"]) == 0
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        assert command[:3] == ["python", "-m", "data_prep"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        finished = subprocess.run(
            [sys.executable, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert finished.returncode == 0, f"{shlex.join(command)}\n{finished.stdout}\n{finished.stderr}"


def test_the_mixture_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("corpora/books/a.txt", "listed.jsonl", "more/b.jsonl.zst"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "web.list").write_text("listed.jsonl\n")
    (block,) = blocks("yaml")
    (tmp_path / "mix.yaml").write_text(block)
    books, web = read_mixture(tmp_path / "mix.yaml")
    assert (books.repeat, books.text_documents, len(books.files)) == (3, "block", 1)
    assert (web.repeat, web.text_fields, len(web.files)) == (0.5, ("title", "body"), 2)


def test_the_filter_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("python")
    (tmp_path / "my_filters.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_filters", raising=False)
    keep_english = importlib.import_module("my_filters").keep_english
    assert keep_english("the house of the king in a wood") is None
    assert keep_english("mo f\u1eb9\u0301 j\u1eb9un") == "not English"


def test_every_damage_it_names_is_one_of_the_code() -> None:
    named = {reason for row in table_after("Damage") for reason in re.findall(r"`([^`]+)`", row[1])}
    assert named == set(get_args(DamageReason))


def test_defaults_and_limits_are_those_of_the_code() -> None:
    arguments = build_parser().parse_args(["shard", "a", "--tokenizer", "t", "--out", "o", "--length", "512"])
    options = [
        option for row in table_after("Cleaning, and what is left out") for option in row[2].split(", ")
    ]
    for name, value in re.findall(r"`--([a-z-]+) ([\d.]+)`", " ".join(options)):
        assert getattr(arguments, name.replace("-", "_")) == float(value)
    assert f"`--unicode {arguments.unicode}`" in TEXT
    assert [row[0].split("`")[1] for row in table_after("Rows")] == list(PACKINGS)
    assert f"`{arguments.packing}` (default)" in TEXT
    assert f"more than {MAX_RECORD_BYTES >> 20} MiB" in TEXT
    assert f"{NUM_BANDS * SIGNATURE.itemsize} bytes per document" in " ".join(TEXT.split())


def test_the_chances_of_a_near_duplicate_are_those_of_the_formula() -> None:
    told = re.findall(r"(?:of )(0\.\d)(?: are found)? with (?:a probability of )?(0\.\d+)", TEXT)
    assert len(told) == 3
    for similarity, chance in told:
        assert 1 - (1 - float(similarity) ** 8) ** NUM_BANDS == pytest.approx(float(chance), abs=0.005)


def test_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
