"""Which documents are kept, and where they go."""

from data_prep.selection import Selection


def test_every_document_is_counted_once() -> None:
    selection = Selection(valid_fraction=0.5, min_chars=3, keep_duplicates=False)
    texts = ["", " \n", "ab", *(f"document {number}" for number in range(100)), "document 7", "control"]
    splits = [selection.choose(text) for text in texts]
    assert splits[:3] == [None, None, None]
    assert splits[-2] is None
    last = splits[-1]
    assert last is not None
    selection.drop_untokenizable(last)
    counts = selection.counts()
    assert counts.read == len(texts)
    assert counts.train + counts.valid == 100
    assert counts.duplicates == 1
    assert counts.dropped == {"empty": 2, "no tokens": 1, "too short": 1}


def test_the_split_depends_on_the_text_alone_and_grows_with_the_fraction() -> None:
    texts = [f"document {number}" for number in range(4000)]

    def held_out(fraction: float, order: list[str]) -> set[str]:
        selection = Selection(fraction, 0, keep_duplicates=False)
        return {text for text in order if selection.choose(text) == "valid"}

    small, large = held_out(0.1, texts), held_out(0.3, texts)
    assert small == held_out(0.1, texts[::-1])
    assert small < large
    assert 320 < len(small) < 480
    assert held_out(0.0, texts) == set()


def test_kept_duplicates_share_a_split() -> None:
    selection = Selection(0.5, 0, keep_duplicates=True)
    for number in range(50):
        assert selection.choose(f"document {number}") == selection.choose(f"document {number}")
    assert selection.counts().duplicates == 0
    assert selection.counts().read == 100
