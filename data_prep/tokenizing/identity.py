"""Whether two tokenizers are the same: by content, regardless of how their files are formatted."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data_prep.files import sha256_file


def content_sha256(tokenizer: Tokenizer) -> str:
    """A hash of what decides which ids a text has: normalizer, pre-tokenizer, model and added tokens.

    Values that are false or empty are left out, since versions of the library differ in whether they write
    defaults. So are the flags of special tokens, which are never recognized in a text.
    """
    description = json.loads(tokenizer.to_str())
    model = description["model"]
    vocabulary = model.pop("vocab")
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, numbered by their place
        model["pieces"] = vocabulary
        vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    added = description["added_tokens"] or []
    vocabulary |= {token["content"]: token["id"] for token in added if token["special"]}
    counted = {
        "normalizer": description["normalizer"],
        "pre_tokenizer": description["pre_tokenizer"],
        "model": model,
        "vocabulary": vocabulary,
        "added_tokens": [token for token in added if not token["special"]],
    }
    canonical = json.dumps(_without_defaults(counted), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def repeated_id(description: dict[str, Any]) -> tuple[str, str, int] | None:
    """Two tokens of a tokenizer.json with the same id, and the id; None if all differ."""
    vocabulary = description["model"].get("vocab") or {}
    if isinstance(vocabulary, list):
        vocabulary = {}  # numbered by place
    by_id: dict[int, str] = {}
    added = {token["content"]: token["id"] for token in description.get("added_tokens") or []}
    for token, token_id in {**vocabulary, **added}.items():
        if by_id.setdefault(token_id, token) != token:
            return by_id[token_id], token, token_id
    return None


def is_recorded(recorded_sha256: str, tokenizer: Tokenizer, file: Path) -> bool:
    """Whether a tokenizer is the one that a manifest recorded.

    Args:
        recorded_sha256: From the manifest; earlier versions recorded the hash of the file's bytes.
        tokenizer: The opened tokenizer.json.
        file: That tokenizer.json.
    """
    return recorded_sha256 == content_sha256(tokenizer) or recorded_sha256 == sha256_file(file)


def _without_defaults(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_defaults(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if not _is_default(inner)}
    if isinstance(value, list):
        return [_without_defaults(inner) for inner in value]
    return value


def _is_default(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})
