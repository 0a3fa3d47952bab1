"""Whether transformers reads a tokenizer directory as this project does, which goes by tokenizer.json alone.

transformers imports torch, which preparation never does, so it reads in a process of its own.
"""

import json
import subprocess
import sys

from data_prep.tokenizing.directory import TokenizerDirectory
from data_prep.tokenizing.probe_texts import PROBE_TEXTS

# Classes with which transformers takes tokenizer.json as it is.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SHOWN_TOKENS = 6
_READER = """
import json, sys
import transformers
transformers.logging.set_verbosity_error()
tokenizer = transformers.AutoTokenizer.from_pretrained(
    sys.argv[1], local_files_only=True, trust_remote_code=False, split_special_tokens=True
)
roles = ("cls", "sep", "pad", "mask", "unk")
print(json.dumps({
    "version": transformers.__version__,
    "name": type(tokenizer).__name__,
    "special": {role: getattr(tokenizer, f"{role}_token") for role in roles},
    "tokens": [tokenizer.tokenize(text) for text in json.load(sys.stdin)],
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
    reader = f"transformers {theirs['version']} opens it as {theirs['name']}"
    for text, tokens in zip(PROBE_TEXTS, theirs["tokens"]):
        ours = directory.tokenizer.encode(text, add_special_tokens=False).tokens
        if ours != tokens:
            first = next((i for i, pair in enumerate(zip(ours, tokens)) if pair[0] != pair[1]), 0)
            shown = [" ".join(some[first : first + _SHOWN_TOKENS]) for some in (tokens, ours)]
            return f"{reader}, which reads {text!r} as '{shown[0]}', and tokenizer.json as '{shown[1]}'"
    for role, token in theirs["special"].items():
        mine = directory.special_tokens.get(role)
        if token is not None and token != mine:
            return f"{reader}, for which {role}_token is {token!r}; in this directory it is {mine!r}"
    return None


def _is_plain(directory: TokenizerDirectory) -> bool:
    """Whether nothing in the directory names a class that would rebuild the tokenizer."""
    named = directory.config.get("tokenizer_class")
    if named is None:
        return not (directory.path / "config.json").is_file()
    return named in _PLAIN_CLASSES


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
