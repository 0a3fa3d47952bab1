"""Trained tokenizers: special tokens in place, the same in transformers, the same every time."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from data_prep.__main__ import main

TEXT = "Karo <mask> miten\n\nsul  ba, \u00dcber <s>\U0001f600"


@pytest.fixture(scope="module")
def wordpiece_dir(tmp_path_factory: pytest.TempPathFactory, documents_file: Path) -> Path:
    out = tmp_path_factory.mktemp("tokenizers") / "wordpiece"
    arguments = ["tokenizer", str(documents_file), "--out", str(out), "--vocab-size", "200"]
    assert main([*arguments, "--kind", "wordpiece", "--lowercase"]) == 0
    return out


def test_byte_level_bpe_in_transformers(tokenizer_dir: Path) -> None:
    auto = AutoTokenizer.from_pretrained(tokenizer_dir)
    assert auto.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    roles = (auto.bos_token_id, auto.cls_token_id, auto.eos_token_id, auto.sep_token_id)
    assert roles == (0, 0, 2, 2)
    assert (auto.pad_token_id, auto.unk_token_id, auto.mask_token_id) == (1, 3, 4)
    assert auto.model_max_length == 512
    assert auto.vocab_size == 400
    ids = auto(TEXT)["input_ids"]
    assert ids == Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json")).encode(TEXT).ids
    assert (ids[0], ids[-1]) == (0, 2)
    assert auto("a", "b")["input_ids"] == [
        0,
        *auto.encode("a", add_special_tokens=False),
        2,
        2,
        ids_of_b(auto),
        2,
    ]
    assert auto.decode(auto("sul  ba, \u00dcber \U0001f600")["input_ids"], skip_special_tokens=True) == (
        "sul  ba, \u00dcber \U0001f600"
    )


def ids_of_b(auto: object) -> int:
    (token,) = auto.encode("b", add_special_tokens=False)  # type: ignore[attr-defined]
    return token


def test_the_mask_takes_the_space_before_it(tokenizer_dir: Path) -> None:
    auto = AutoTokenizer.from_pretrained(tokenizer_dir)
    assert auto("karo <mask>")["input_ids"] == auto("karo<mask>")["input_ids"]
    assert auto("<mask> karo")["input_ids"] != auto("<mask>karo")["input_ids"]


def test_wordpiece_in_transformers(wordpiece_dir: Path) -> None:
    auto = AutoTokenizer.from_pretrained(wordpiece_dir)
    assert auto.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    roles = (auto.pad_token_id, auto.unk_token_id, auto.cls_token_id, auto.sep_token_id, auto.mask_token_id)
    assert roles == (0, 1, 2, 3, 4)
    assert auto.bos_token_id is None
    ids = auto(TEXT)["input_ids"]
    assert ids == Tokenizer.from_file(str(wordpiece_dir / "tokenizer.json")).encode(TEXT).ids
    assert (ids[0], ids[-1]) == (2, 3)
    assert auto("KARO")["input_ids"] == auto("karo")["input_ids"]
    assert auto.decode(auto("Karomi sul.")["input_ids"], skip_special_tokens=True) == "karomi sul."
    pair = auto("karo", "sul")
    assert pair["token_type_ids"][-1] == 1
    assert set(auto.backend_tokenizer.get_added_tokens_decoder()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_training_again_gives_the_same_bytes(
    run_cli: Callable[..., CompletedProcess[str]],
    request: pytest.FixtureRequest,
    documents_file: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    """In a process of its own: the library's hash tables are seeded anew in each."""
    size, flags = ("400", []) if kind == "bpe" else ("200", ["--lowercase"])
    arguments = ["--vocab-size", size, "--kind", kind, *flags]
    result = run_cli("tokenizer", str(documents_file), "--out", str(tmp_path / "again"), *arguments)
    assert result.returncode == 0, result.stderr
    first = request.getfixturevalue("tokenizer_dir" if kind == "bpe" else "wordpiece_dir")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()


def test_another_tokenizer_is_not_replaced_unasked(
    documents_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tok"
    arguments = ["tokenizer", str(documents_file), "--out", str(out), "--vocab-size"]
    assert main([*arguments, "300"]) == 0
    before = (out / "tokenizer.json").read_bytes()
    assert main([*arguments, "300"]) == 0
    assert main([*arguments, "310"]) == 64
    assert f"{out} holds another tokenizer" in capsys.readouterr().err
    assert (out / "tokenizer.json").read_bytes() == before
    assert main([*arguments, "310", "--overwrite"]) == 0
    assert Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab_size() == 310


def test_mistakes_are_told(documents_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("   \n")
    (tmp_path / "file").touch()
    inputs = str(documents_file)
    assert main(["tokenizer", inputs, "--out", str(tmp_path / "a"), "--vocab-size", "100"]) == 64
    assert "--vocab-size 100 is too small" in capsys.readouterr().err
    assert main(["tokenizer", inputs, "--out", str(tmp_path / "taken")]) == 64
    assert "is not empty and holds no tokenizer" in capsys.readouterr().err
    assert main(["tokenizer", inputs, "--out", str(tmp_path / "file")]) == 64
    assert "is a file" in capsys.readouterr().err
    assert main(["tokenizer", str(tmp_path / "taken"), "--out", str(tmp_path / "b")]) == 65
    assert "no text to learn from" in capsys.readouterr().err
    assert main(["tokenizer", inputs, "--out", str(tmp_path / "c"), "--vocab-size", "100000"]) == 0
    assert "warning: 100,000 were asked for" in capsys.readouterr().err


def test_the_smallest_vocabulary_told_is_accepted(
    documents_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("bpe", "wordpiece"):
        arguments = ["tokenizer", str(documents_file), "--out", str(tmp_path / kind), "--kind", kind]
        assert main([*arguments, "--vocab-size", "10"]) == 64
        smallest = capsys.readouterr().err.split("alone take ")[1].split(";")[0]
        assert main([*arguments, "--vocab-size", smallest]) == 0
