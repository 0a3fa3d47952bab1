"""Whether transformers reads a tokenizer directory as this project does, which goes by tokenizer.json alone.

transformers imports torch, which preparation never does, so it reads in a process of its own.
"""

import json
import subprocess
import sys
from typing import Any

from data_prep.tokenizing.directory import TokenizerDirectory
from data_prep.tokenizing.probe_texts import PROBE_TEXTS, shown_tokens

# Classes with which transformers takes tokenizer.json as it is.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_READER = """
import json, sys
import transformers
transformers.logging.set_verbosity_error()
tokenizer = transformers.AutoTokenizer.from_pretrained(
    sys.argv[1], local_files_only=True, trust_remote_code=False, split_special_tokens=True
)
roles = ("cls", "sep", "pad", "mask", "unk")
encodings = [
    tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    for text in json.load(sys.stdin)
]
print(json.dumps({
    "version": transformers.__version__,
    "name": type(tokenizer).__name__,
    "size": max(tokenizer.get_vocab().values()) + 1,
    "special": {role: getattr(tokenizer, f"{role}_token") for role in roles},
    "ids": [encoding["input_ids"] for encoding in encodings],
    "tokens": [tokenizer.convert_ids_to_tokens(encoding["input_ids"]) for encoding in encodings],
    "offsets": [encoding.get("offset_mapping") for encoding in encodings],
}))
"""


def warn_of_other_readings(directory: TokenizerDirectory) -> None:
    """Warn on standard error if transformers would give other ids, or masking has no token."""
    if "mask" not in directory.special_tokens:
        _warn(f"{directory.path}: no mask_token is named; masked-language-model training needs one")
    difference = difference_to_transformers(directory)
    if difference is not None:
        _warn(
            f"{directory.path}: {difference}. The corpus is made with tokenizer.json; its own copy of the "
            "tokenizer, and models that are exported after training on it, are read alike everywhere"
        )


def difference_to_transformers(directory: TokenizerDirectory) -> str | None:
    """How transformers reads a directory otherwise, or None if it reads it alike on the probe texts."""
    if _is_plain(directory):
        return None
    process = subprocess.run(
        [sys.executable, "-c", _READER, str(directory.path)],
        input=json.dumps(PROBE_TEXTS),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return f"transformers cannot open it ({reason})"
    theirs = json.loads(process.stdout)
    difference = _difference_in_texts(directory, theirs) or _difference_in_vocabulary(directory, theirs)
    reader = f"transformers {theirs['version']} opens it as {theirs['name']}"
    return None if difference is None else f"{reader}, {difference}"


def _difference_in_texts(directory: TokenizerDirectory, theirs: dict[str, Any]) -> str | None:
    for text, ids, tokens, offsets in zip(PROBE_TEXTS, theirs["ids"], theirs["tokens"], theirs["offsets"]):
        ours = directory.tokenizer.encode(text, add_special_tokens=False)
        if ours.ids != ids:
            shown = [" ".join(some[shown_tokens(ours.ids, ids)]) for some in (tokens, ours.tokens)]
            return f"which reads {text!r} as '{shown[0]}', and tokenizer.json as '{shown[1]}'"
        if offsets is not None and ours.offsets != [tuple(pair) for pair in offsets]:
            return f"which gives the tokens of {text!r} other offsets than tokenizer.json"
    return None


def _difference_in_vocabulary(directory: TokenizerDirectory, theirs: dict[str, Any]) -> str | None:
    if theirs["size"] != directory.vocab_size:
        return f"which has {theirs['size']:,} ids, and tokenizer.json {directory.vocab_size:,}"
    for role, token in theirs["special"].items():
        ours = directory.special_tokens.get(role)
        if token is not None and token != ours:
            return f"for which {role}_token is {token!r}; in this directory it is {ours!r}"
    return None


def _is_plain(directory: TokenizerDirectory) -> bool:
    """Whether nothing in the directory names a class that would rebuild the tokenizer."""
    named = directory.config.get("tokenizer_class")
    if named is None:
        return not (directory.path / "config.json").is_file()
    return named in _PLAIN_CLASSES


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
