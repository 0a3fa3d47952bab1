"""Documents that teach a model nothing, told by their length, their characters and their repetition.

The limits are for any language and far milder than those used for web pages (Gopher, C4, FineWeb, which want
English prose and drop verse, lists, manuals and code): what they drop is broken. Stricter rules are hooks
(see `hook`). The filters read a few hundred megabytes per second.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zstandard

from data_prep.cleaning.hook import load_hook
from data_prep.errors import UsageError

_SYMBOLS = b"#*+<=>@[\\]^_`{|}~"
_NOT_SYMBOLS = bytes(byte for byte in range(256) if byte not in _SYMBOLS)

# Levels below zero only replace what came before and leave the rest as it is: the size saved is the
# repetition. From level 1 on, rarer bytes also get longer codes, which would favour some scripts.
_REPETITION_LEVEL = -7
_MOSTLY_ASCII = 1.05  # bytes per character


@dataclass(frozen=True)
class FilterOptions:
    """What a document must be like to be kept. A share of 1 switches its filter off.

    Attributes:
        min_chars: Fewest characters. 0, since titles and single lines are documents of some corpora;
            Gopher wants 50 words, C4 five sentences.
        max_chars: Most characters. None, since whole books are good documents; Gopher stops at 100,000 words.
        max_symbols: Largest `symbol_share`. Gopher allows a tenth as many "#" as words and a fifth of the
            words without a letter, C4 no "{" at all; source code has a share of 0.05 to 0.25.
        max_repetition: Largest `repetition`. Gopher allows a fifth of the text in repeated lines; prose has
            0.05 to 0.4, tables and lists to 0.75, a line or phrase over and over more than 0.85.
        hook: "package.module:function", asked last.
    """

    min_chars: int = 0
    max_chars: int | None = None
    max_symbols: float = 0.4
    max_repetition: float = 0.8
    hook: str | None = None

    def __post_init__(self) -> None:
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise UsageError(
                f"documents of at least {self.min_chars} and at most {self.max_chars} characters: "
                "there are none"
            )


def make_filter(options: FilterOptions) -> Callable[[str], str | None]:
    """A function that gives the reason for which a cleaned text is dropped, or None to keep it.

    The reasons are "empty", "too short", "too long", "too many symbols", "too repetitive" and those of the
    hook; the first that holds counts. The function holds a compressor and cannot be sent to another process.

    Raises:
        UsageError: There is no such hook.
    """
    hook = None if options.hook is None else load_hook(options.hook)

    def drop_reason(text: str) -> str | None:
        if not text or text.isspace():
            return "empty"
        if len(text) < options.min_chars:
            return "too short"
        if options.max_chars is not None and len(text) > options.max_chars:
            return "too long"
        data = text.encode()
        if options.max_symbols < 1 and symbol_share(data) > options.max_symbols:
            return "too many symbols"
        if options.max_repetition < 1 and repetition(text, data) > options.max_repetition:
            return "too repetitive"
        return None if hook is None else hook(text)

    return drop_reason


def symbol_share(data: bytes) -> float:
    r"""Share of the characters of a UTF-8 text, spaces left out, that are symbols.

    Symbols are the ASCII characters that hardly occur in prose, # * + < = > @ [ \ ] ^ _ ` { | } ~. Every
    character outside ASCII counts as a letter: nearly all are, and no script is worse off than another.
    """
    num_symbols = len(data.translate(None, _NOT_SYMBOLS))
    if num_symbols == 0:
        return 0.0
    units = np.frombuffer(data, dtype=np.uint8)
    # Spaces and line ends lie below "!"; a character of several bytes counts by its first one.
    num_characters = int(np.count_nonzero(units > ord(" ")))
    if not data.isascii():
        num_characters -= int(np.count_nonzero((units & 0xC0) == 0x80))
    return num_symbols / num_characters


def repetition(text: str, data: bytes) -> float:
    """Share of a text's characters that a compressor saves by pointing at an earlier occurrence.

    A text of a hundred characters can hardly reach 0.8, because the frame around the compressed text counts.
    Below zero for texts of a few characters, never above 1. It may differ in the third digit between
    versions of the zstandard library.

    Args:
        text: A text that is not empty.
        data: The same in UTF-8, which the caller has anyway.
    """
    if len(data) > _MOSTLY_ASCII * len(text):
        # One byte per character: in UTF-8 two letters of an alphabet outside Latin are a repetition already.
        data = np.frombuffer(text.encode("utf-16-le"), dtype="<u2").astype(np.uint8).tobytes()
    return 1 - len(_COMPRESSOR.compress(data)) / len(data)


_COMPRESSOR = zstandard.ZstdCompressor(level=_REPETITION_LEVEL, write_content_size=False)
