"""Whether normalizer and pre-tokenizer of a tokenizer treat a place in a text by what stands around it alone.

Only then does a look at both sides of a cut say whether it changes tokens. A pattern may match from anywhere
("all between two quotes"), and words may be counted from the beginning of the text, so what is not known here
does not count as local.
"""

import json
from typing import Any

from tokenizers import Tokenizer

_LOCAL = {
    # normalizers
    *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Prepend", "Strip", "StripAccents"),
    # pre-tokenizers
    *("BertPreTokenizer", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Whitespace"),
    "WhitespaceSplit",
}
_WITH_PATTERN = ("Replace", "Split")
_LONGEST_STRING = 32  # of a pattern without wildcards
# Patterns that end a match at white space, or are within a run of it.
_LOCAL_PATTERNS = {
    r" {2,}",
    r"\s+",
    r"\s{2,}|[\n\r\t]",
    r"[\n\r\t]",
    # GPT-2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # CLIP
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    # GPT-4 and Llama 3; Qwen 2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def is_local(tokenizer: Tokenizer) -> bool:
    """Whether all of its normalizers and pre-tokenizers are known to be local."""
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    return all(part is None or _is_local(json.loads(part.__getstate__())) for part in parts)


def _is_local(part: dict[str, Any]) -> bool:
    if part["type"] == "Sequence":
        return all(map(_is_local, part.get("normalizers") or part.get("pretokenizers") or []))
    if part["type"] in _WITH_PATTERN:
        pattern = part["pattern"]
        if "String" in pattern:
            return len(pattern["String"]) <= _LONGEST_STRING
        return pattern.get("Regex") in _LOCAL_PATTERNS
    return part["type"] in _LOCAL
