"""Several corpora at once, repeated, sampled, and without what they have in common."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.format import read_manifest
from tests.shard_files import texts_in

WORDS = ["ka", "romi", "ten", "sul", "baqui", "dor", "etan", "lo", "ves", "miten", "karo", "quiba"]


def made_up(count: int, seed: int, num_words: int = 60) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=num_words)) for _ in range(count)]


def write_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


@pytest.fixture
def prepare(tokenizer_dir: Path, tmp_path: Path):
    def run(*arguments: str) -> Path:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        fixed = ["--tokenizer", str(tokenizer_dir), "--length", "64", "--workers", "1", "--out", str(out)]
        assert main(["shard", *fixed, *arguments]) == 0
        return out

    return run


def test_sources_are_repeated_and_sampled(prepare, tmp_path: Path, capsys) -> None:
    books, web = made_up(40, seed=1), made_up(400, seed=2)
    write_lines(tmp_path / "books.jsonl", books, field="body")
    write_lines(tmp_path / "web.jsonl", [*web, books[0]])
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        f"- name: books\n  inputs: {tmp_path}/books.jsonl\n  text_field: body\n  repeat: 3\n"
        f"- name: web\n  inputs: [{tmp_path}/web.jsonl]\n  repeat: 0.5\n"
    )
    out = prepare("--mix", str(mix), "--valid-fraction", "0")
    found = Counter(texts_in(out))
    assert all(found[text] == 3 for text in books)
    sampled = [text for text in web if found[text]]
    assert all(found[text] == 1 for text in sampled)
    assert 160 < len(sampled) < 240
    manifest = read_manifest(out)
    documents = manifest.documents
    assert documents.read == 441
    assert documents.train == 40 + len(sampled)
    assert documents.dropped["not sampled"] + documents.duplicates == 401 - len(sampled)
    of_books, of_web = manifest.sources
    assert (of_books.name, of_books.repeat, of_books.read, of_books.kept) == ("books", 3, 40, 40)
    assert (of_web.name, of_web.repeat, of_web.read, of_web.kept) == ("web", 0.5, 401, len(sampled))
    assert manifest.splits["train"].documents == 120 + len(sampled)
    assert "source     books: 40 of 40 documents, x 3" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 0


def test_held_out_documents_are_not_repeated(prepare, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", made_up(200, seed=3))
    (tmp_path / "mix.yaml").write_text(f"- name: a\n  inputs: {tmp_path}/a.jsonl\n  repeat: 2\n")
    manifest = read_manifest(prepare("--mix", str(tmp_path / "mix.yaml"), "--valid-fraction", "0.2"))
    assert manifest.splits["valid"].documents == manifest.documents.valid > 20
    assert manifest.splits["train"].documents == 2 * manifest.documents.train


def test_one_of_each_group_of_near_duplicates_stays(prepare, tmp_path: Path) -> None:
    texts = made_up(60, seed=4, num_words=200)
    edited = []
    for text in texts[:20]:
        words = text.split()
        words[100] = "xyzzy"
        edited.append(" ".join(words))
    other = made_up(20, seed=5, num_words=200)
    write_lines(tmp_path / "a.jsonl", [*texts, *edited, texts[5], *other])
    out = prepare(str(tmp_path / "a.jsonl"), "--valid-fraction", "0", "--near-duplicates")
    found = Counter(texts_in(out))
    assert {*texts[20:], *other} <= set(found)
    for text, copy in zip(texts, edited):
        assert (text in found) != (copy in found)
    documents = read_manifest(out).documents
    assert (documents.near_duplicates, documents.duplicates, documents.train) == (20, 1, 80)
    lines = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"near duplicate"}
    assert len(lines) == 5
    backwards = write_lines(tmp_path / "b.jsonl", [*other, texts[5], *edited, *texts][::-1])
    again = prepare(str(backwards), "--valid-fraction", "0", "--near-duplicates")
    assert Counter(texts_in(again)) == found
    without = prepare(str(tmp_path / "a.jsonl"), "--valid-fraction", "0")
    assert read_manifest(without).documents.train == 100


def test_a_filter_of_the_users_own(prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "mixing_filters.py"
    module.write_text("def no_sul(text):\n    return 'not my language' if text.startswith('sul') else None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    texts = ["sul ten ka", "ka ten", "lo ves", "sul"]
    write_lines(tmp_path / "a.jsonl", texts)
    out = prepare(str(tmp_path / "a.jsonl"), "--valid-fraction", "0", "--filter", "mixing_filters:no_sul")
    manifest = read_manifest(out)
    assert manifest.documents.dropped == {"not my language": 2}
    assert str(manifest.settings["filter"]).startswith("mixing_filters:no_sul")
    assert set(texts_in(out)) == {"ka ten", "lo ves"}


@pytest.mark.parametrize("order", [["once", "thrice"], ["thrice", "once"]])
@pytest.mark.parametrize("options", [[], ["--near-duplicates"]])
def test_a_text_of_two_sources_stands_as_often_as_the_larger_repeat(
    prepare, tmp_path: Path, order: list[str], options: list[str]
) -> None:
    texts = made_up(30, seed=6)
    entries = {}
    for name, repeat in (("once", 1), ("thrice", 3)):
        path = write_lines(tmp_path / f"{name}.jsonl", texts)
        entries[name] = f"- name: {name}\n  inputs: {path}\n  repeat: {repeat}\n"
    (tmp_path / "mix.yaml").write_text("".join(entries[name] for name in order))
    out = prepare("--mix", str(tmp_path / "mix.yaml"), "--valid-fraction", "0", *options)
    assert Counter(texts_in(out)) == dict.fromkeys(texts, 3)
    documents = read_manifest(out).documents
    assert (documents.read, documents.train, documents.duplicates) == (60, 30, 30)
    assert main(["verify", str(out)]) == 0
