"""The encoding of a text without a mark, as its statistics tell it."""

from data_prep.inputs.damage import DamagedFile
from data_prep.inputs.encodings import text_encoding

# Two encodings whose texts differ in oddity by less cannot be told apart. The library would take the first
# one by name, so that Spanish becomes Polish.
_MARGIN = 0.03
_SHOWN_ENCODINGS = 3


def guess_encoding(head: bytes) -> str:
    """What the beginning of a file, which is no UTF-8, looks like.

    Raises:
        DamagedFile: Like nothing, or like several that give different texts.
    """
    from charset_normalizer import from_bytes

    whole_lines = head[: head.rfind(b"\n") + 1] or head
    matches = from_bytes(whole_lines)
    best = matches.best()
    if best is None:
        raise DamagedFile("another encoding", "its encoding cannot be guessed; name it with --encoding")
    rivals = [
        match.encoding for match in matches if match.chaos < best.chaos + _MARGIN and str(match) != str(best)
    ]
    if rivals:
        names = ", ".join([best.encoding, *rivals][:_SHOWN_ENCODINGS])
        raise DamagedFile(
            "another encoding", f"its encoding can be {names} or another one; name it with --encoding"
        )
    return text_encoding(best.encoding)
