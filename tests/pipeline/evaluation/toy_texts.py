"""Texts that can be told apart by one word, for tasks that must be learnable."""

import random

NEUTRAL = ("the", "file", "path", "value", "return", "object", "list", "string", "default", "name")
FIRST, SECOND = "error", "number"


def toy_texts(num_texts: int, seed: int) -> list[tuple[str, int]]:
    """(text, label): label 1 where SECOND occurs and 0 where FIRST does, half of each."""
    generator = random.Random(seed)
    texts = []
    for index in range(num_texts):
        words = generator.choices(NEUTRAL, k=5)
        words.insert(generator.randrange(6), SECOND if index % 2 else FIRST)
        texts.append((" ".join(words), index % 2))
    return texts


def write_sst2(directory, num_train=192, num_dev=60) -> None:
    """The toy as GLUE's SST-2: DIRECTORY/SST-2/train.tsv and dev.tsv."""
    (directory / "SST-2").mkdir(parents=True)
    for split, (num_texts, seed) in {"train": (num_train, 1), "dev": (num_dev, 2)}.items():
        rows = "".join(f"{text}\t{label}\n" for text, label in toy_texts(num_texts, seed))
        (directory / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + rows)
