"""What was left out of a corpus: how much for which reason, and a few examples of each."""

import json
import textwrap
from pathlib import Path

from data_prep.errors import DataError
from data_prep.format import DROPPED_NAME, read_manifest

_EXAMPLES = 5
_SHOWN_CHARACTERS = 300


def print_dropped(corpus_dir: Path) -> None:
    """Print the counts by reason and a few examples; a DataError if the sample is missing or damaged."""
    counts = read_manifest(corpus_dir).documents
    reasons = {
        **counts.dropped,
        **{f"damaged: {reason}": count for reason, count in counts.damaged.items()},
        "near duplicate": counts.near_duplicates,
        "duplicate": counts.duplicates,
    }
    examples = _examples(corpus_dir / DROPPED_NAME)
    left_out = sum(reasons.values())
    print(f"{corpus_dir}: {left_out:,} of {counts.read:,} documents were left out")
    for reason, count in reasons.items():
        if not count:
            continue
        print(f"\n  {reason}: {count:,}")
        for example in examples.get(reason, [])[:_EXAMPLES]:
            text = " ".join(example["text"].split())[:_SHOWN_CHARACTERS] or "(nothing)"
            where = f"{example['where']}: " if example["where"] else ""
            print(textwrap.fill(where + text, 106, initial_indent="    - ", subsequent_indent="      "))


def _examples(path: Path) -> dict[str, list[dict[str, str]]]:
    examples: dict[str, list[dict[str, str]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            example = json.loads(line)
            examples.setdefault(example["reason"], []).append(example)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); prepare or copy the corpus again") from error
    return examples
