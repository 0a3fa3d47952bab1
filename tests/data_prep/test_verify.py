"""verify finds every kind of damage, and tells all of it at once."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.blocks import read_blocks
from data_prep.format import PackedRows, ShardWriter, read_manifest, write_manifest
from tests.shard_files import write_rows

TRAIN = "train-00001-of-00003.arrow"
VALID = "valid-00000-of-00001.arrow"
T = 64


def problems(corpus: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["verify", str(corpus)]) == 65
    return capsys.readouterr().err


def test_a_good_corpus_is_ok(made_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made_corpus)]) == 0
    assert "ok, 4 shards" in capsys.readouterr().out


@pytest.mark.parametrize("position", [0, 300, 100_000, -1])
def test_a_flipped_bit(corpus_copy: Path, capsys: pytest.CaptureFixture[str], position: int) -> None:
    path = corpus_copy / TRAIN
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert f"{TRAIN}: its bytes have changed" in problems(corpus_copy, capsys)


def test_all_damage_is_told_at_once(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus_copy / VALID).unlink()
    os.truncate(corpus_copy / TRAIN, 1000)
    (corpus_copy / "train-00000-of-00009.arrow").touch()
    tokenizer = corpus_copy / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true')
    )
    told = problems(corpus_copy, capsys)
    assert f"{VALID}: missing" in told
    assert f"{TRAIN}: 1,000 bytes, the manifest says" in told
    assert "train-00000-of-00009.arrow: not in the manifest" in told
    assert "not the tokenizer of this corpus" in told
    assert told.count("\n  ") == 4


def test_a_missing_tokenizer(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus_copy / "tokenizer" / "tokenizer.json").unlink()
    assert "no tokenizer.json" in problems(corpus_copy, capsys)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "has no manifest.json; make it with"),
        ("{}", "is not a corpus manifest"),
        ("\x00", "is not a corpus manifest"),
    ],
)
def test_a_bad_manifest(
    corpus_copy: Path, capsys: pytest.CaptureFixture[str], content: str | None, told: str
) -> None:
    (corpus_copy / "manifest.json").unlink()
    if content is not None:
        (corpus_copy / "manifest.json").write_text(content)
    assert told in problems(corpus_copy, capsys)


@pytest.mark.parametrize(
    ("field", "told"),
    [
        (["splits", "train", "tokens"], "train tokens, but the shards hold"),
        (["vocab_size"], "400 ids, the manifest says 401"),
        (["settings", "seed"], "block 0: its documents, packed again, give other rows or another order"),
    ],
)
def test_a_wrong_number_in_the_manifest(
    corpus_copy: Path, capsys: pytest.CaptureFixture[str], field: list[str], told: str
) -> None:
    def edit(value: dict) -> None:
        for key in field[:-1]:
            value = value[key]
        value[field[-1]] += 1

    edit_manifest(corpus_copy, edit)
    assert told in problems(corpus_copy, capsys)


def test_documents_that_do_not_add_up(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(corpus_copy, lambda value: value["documents"].update(read=2999))
    told = problems(corpus_copy, capsys)
    assert "2,999 documents read, but 3,000 accounted for" in told
    assert "2,999 documents read, but its inputs hold 3,000" in told


def test_a_wrong_row_count(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_manifest(corpus_copy).shards[1].rows
    edit_manifest(corpus_copy, lambda value: value["shards"][1].update(rows=rows - 1))
    assert f"{TRAIN}: {rows:,} rows, the manifest says {rows - 1:,}" in problems(corpus_copy, capsys)


def test_rows_in_another_order(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that are right one by one, and yet not those that the seed gives."""
    path = corpus_copy / VALID
    info = read_manifest(corpus_copy).shards_of("valid")[0]
    (block,) = read_blocks(path, info)
    assert (block.num_pieces[:2] > 0).all()
    first = int(block.num_pieces[0] + block.num_pieces[1])
    order = [*range(int(block.num_pieces[0]), first), *range(int(block.num_pieces[0]))]
    order += range(first, len(block.segments))
    rows = [1, 0, *range(2, len(block.input_ids))]
    pieces = [column[order] for column in (block.segments, block.documents, block.offsets)]
    writer = ShardWriter(path, T, np.dtype(np.uint16))
    writer.write(PackedRows(block.input_ids[rows], block.num_pieces[rows], *pieces))
    writer.close()
    adopt(corpus_copy, path, rows=info.rows, blocks=info.blocks)
    assert f"{VALID}: block 0: its documents, packed again" in problems(corpus_copy, capsys)


def edit_manifest(corpus: Path, edit: Callable[[dict], None]) -> None:
    path = corpus / "manifest.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def good_row() -> tuple[np.ndarray, list[int]]:
    ids = np.full(T, 1, dtype=np.uint16)
    ids[:10] = [0, 50, 51, 52, 2, 0, 60, 61, 62, 2]
    return ids, [5, 5]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda ids, segments: ids.__setitem__(3, 400), "row 1,030: an id beyond the vocabulary"),
        (
            lambda ids, segments: segments.clear(),
            "row 1,030: its segments must be positive and sum to at most 64",
        ),
        (lambda ids, segments: segments.append(55), "row 1,030: its segments must be positive"),
        (lambda ids, segments: segments.append(0), "row 1,030: its segments must be positive"),
        (lambda ids, segments: ids.__setitem__(10, 2), "row 1,030: a token behind the last segment"),
        (lambda ids, segments: ids.__setitem__(63, 50), "row 1,030: a token behind the last segment"),
        (lambda ids, segments: ids.__setitem__(5, 50), "row 1,030: a piece that does not begin with cls"),
        (lambda ids, segments: ids.__setitem__(4, 50), "row 1,030: a piece that does not begin with cls"),
    ],
)
def test_rows_that_break_the_format(
    corpus_copy: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[np.ndarray, list[int]], None],
    told: str,
) -> None:
    """Shards whose hash is right: a writer with a defect, or one of someone else."""
    path = corpus_copy / VALID
    rows = [good_row() for _ in range(1100)]
    change(*rows[1030])
    blocks = write_rows(path, T, np.uint16, rows)
    adopt(corpus_copy, path, rows=1100, blocks=blocks)
    assert f"{VALID}: {told}" in problems(corpus_copy, capsys)


def test_rows_of_another_length_or_type(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = corpus_copy / VALID
    blocks = write_rows(path, 32, np.uint32, [(good_row()[0][:32], [5, 5])])
    adopt(corpus_copy, path, rows=1, blocks=blocks)
    assert f"{VALID}: input_ids are" in problems(corpus_copy, capsys)


def adopt(corpus: Path, path: Path, rows: int, blocks: list[int]) -> None:
    """Write a shard's new size and hash into the manifest."""
    manifest = read_manifest(corpus)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    new = {"rows": rows, "blocks": blocks, "bytes": path.stat().st_size, "sha256": digest}
    shards = [info.model_copy(update=new) if info.name == path.name else info for info in manifest.shards]
    write_manifest(corpus, manifest.model_copy(update={"shards": shards}))
