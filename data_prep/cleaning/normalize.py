"""One spelling for text that looks the same: line ends, control characters, Unicode form."""

import re
import unicodedata
from typing import Literal

UnicodeForm = Literal["nfc", "nfkc", "none"]

# Vertical tab, form feed and NEL end a line or a page; without them two words would run together.
_LINE_BREAKS = "\x0b\x0c\x85"
_REMOVED = (
    {chr(code) for code in range(0x20)} - set("\t\n\r" + _LINE_BREAKS)
    | {chr(code) for code in range(0x7F, 0xA0)} - set(_LINE_BREAKS)
    | {"\ufeff", "\ufffe", "\uffff"}
)
_REPLACEMENTS = str.maketrans(dict.fromkeys(_REMOVED, "") | dict.fromkeys(_LINE_BREAKS, "\n"))
_ANY_REPLACED = re.compile("[" + "".join(sorted(_REMOVED)) + _LINE_BREAKS + "]")
# Characters that NFC neither changes nor joins to those before them: Latin, punctuation, currency, Chinese.
_COMPOSED = re.compile("[\0-\u02ff\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u4e00-\u9fff]*")
_ORDINARY_ASCII = bytes(code for code in range(0x80) if code not in _REPLACEMENTS)


def clean_text(text: str, form: UnicodeForm) -> str:
    r"""Text with "\n" line ends, without control characters, in one Unicode form.

    Tabs, soft hyphens, joiners (ZWJ, ZWNJ) and all diacritics stay. Where Unicode has no single character
    for a letter with its marks, as for Yoruba's e with dot below and acute, "nfc" leaves the marks as
    combining ones in their canonical order. Cleaning cleaned text changes nothing.

    Args:
        text: Any text without half surrogate pairs, which the readers refuse.
        form: "nfc" composes letters and marks and changes nothing that can be seen; "nfkc" also unifies
            variants, such as ligatures, full-width letters and superscripts; "none" leaves both.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Nearly all of a text is ordinary ASCII; taking it away, at a byte per nanosecond, leaves what matters.
    rest = text.encode().translate(None, _ORDINARY_ASCII)
    if not rest:
        return text
    special = rest.decode()
    if _ANY_REPLACED.search(special):
        text = text.translate(_REPLACEMENTS)
    if form == "none" or (form == "nfc" and _COMPOSED.fullmatch(special)):
        return text
    return unicodedata.normalize("NFC" if form == "nfc" else "NFKC", text)
