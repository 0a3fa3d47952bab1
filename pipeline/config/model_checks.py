"""Rules that join the model with the corpus: longest rows, number of tokens, a checkpoint's tokenizer."""

from collections.abc import Iterator
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.format import TOKENIZER_NAME, Manifest
from data_prep.tokenizing.directory import TOKENIZER_FILE, open_directory
from pipeline.config.load import Problem
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.encoder.families import usable_positions
from pipeline.errors import DataError


def check_positions(
    recipe: Recipe, config: PretrainedConfig, row_lengths: dict[str, int]
) -> Iterator[Problem]:
    """The longest rows of all must fit."""
    positions = usable_positions(config)
    key, length = max(row_lengths.items(), key=lambda item: item[1])
    if positions < length:
        from_scratch = recipe.model.checkpoint is None
        yield Problem(
            ("model.max_positions" if from_scratch else "model.checkpoint", key),
            f"the model takes {positions} tokens but the corpus's rows have {length}; "
            + (f"write max_positions: {length} or more, or " if from_scratch else "")
            + f"shard the corpus with --length {positions}",
        )


def check_model_fits(
    recipe: Recipe, config: PretrainedConfig, manifest: Manifest, vocabulary: Vocabulary
) -> Iterator[Problem]:
    """The vocabulary must fit, and a checkpoint must be of the corpus's tokenizer."""
    if recipe.model.checkpoint is None:
        if config.vocab_size < vocabulary.size:
            yield Problem(
                ("model.options.vocab_size", "corpus"),
                f"{config.vocab_size} is less than the tokenizer's {vocabulary.size} tokens; leave it out",
            )
        return
    if config.vocab_size < vocabulary.size:
        yield Problem(
            ("model.checkpoint", "corpus"),
            f"the checkpoint has {config.vocab_size} embeddings, the corpus's tokenizer {vocabulary.size} "
            "tokens; prepare the corpus with the checkpoint's tokenizer",
        )
    yield from _check_checkpoint_tokenizer(Path(recipe.model.checkpoint), manifest, Path(recipe.corpus))


def _check_checkpoint_tokenizer(checkpoint: Path, manifest: Manifest, corpus: Path) -> Iterator[Problem]:
    is_assumed = manifest.tokenizer_sha256 == ""  # of a corpus that is yet to be made
    if is_assumed or not (checkpoint / TOKENIZER_FILE).is_file():
        return
    try:
        theirs = open_directory(checkpoint)
        is_same = theirs.is_that_of(manifest.tokenizer_sha256, corpus / TOKENIZER_NAME)
    except DataError as error:
        yield Problem(("model.checkpoint",), str(error))
        return
    if not is_same:
        yield Problem(
            ("model.checkpoint", "corpus"),
            "the checkpoint's tokenizer.json gives other tokens than the corpus's; prepare the corpus with "
            f"--tokenizer {checkpoint}",
        )
