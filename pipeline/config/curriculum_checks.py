"""Rules about `curriculum`: that its phases follow one another, differ, and can train one model."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from data_prep.format import TOKENIZER_NAME, Manifest, read_manifest
from data_prep.tokenizing.directory import open_directory
from pipeline.config.load import Problem
from pipeline.config.schema import Recipe
from pipeline.data.phases import Phase
from pipeline.errors import DataError

Manifests = dict[str, Manifest]
ManifestReader = Callable[[Path], Manifest]


def check_curriculum(
    recipe: Recipe, own: Manifest | None, read: ManifestReader = read_manifest
) -> tuple[dict[str, int], list[Problem]]:
    """Problems of the phases, apart from their batches.

    Args:
        recipe: the recipe.
        own: manifest of its own corpus; None if that cannot be opened.
        read: gives the manifest of a directory, for its phases' corpora.

    Returns:
        Tokens per row of the corpora that can be opened, by the key that names each, and the problems.
    """
    manifests, problems = _open_corpora(recipe, own, read)
    problems += [*_check_ends(recipe), *_check_changes(recipe, manifests)]
    lengths: dict[str, int] = {}
    for key, corpus in _corpora(recipe).items():
        if corpus in manifests:
            lengths[key] = manifests[corpus].sequence_length
    return lengths, problems


def batch_sizes(recipe: Recipe) -> dict[str, int]:
    """Every global batch size that the recipe names, by its key."""
    return {"train.global_batch_size": recipe.train.global_batch_size} | {
        f"curriculum.{index}.global_batch_size": phase.global_batch_size
        for index, phase in enumerate(recipe.curriculum)
        if phase.global_batch_size is not None
    }


def _corpora(recipe: Recipe) -> dict[str, str]:
    """Directory of every corpus by the key that names it first."""
    keys = {recipe.corpus: "corpus"}
    for index, phase in enumerate(recipe.curriculum):
        if phase.corpus is not None:
            keys.setdefault(phase.corpus, f"curriculum.{index}.corpus")
    return {key: corpus for corpus, key in keys.items()}


def _open_corpora(
    recipe: Recipe, own: Manifest | None, read: ManifestReader
) -> tuple[Manifests, list[Problem]]:
    """Manifests by directory."""
    manifests = {} if own is None else {recipe.corpus: own}
    problems = []
    for key, corpus in _corpora(recipe).items():
        if corpus == recipe.corpus:
            continue
        try:
            manifest = manifests[corpus] = read(Path(corpus))
            is_other = own is not None and not _share_tokenizer(
                Path(corpus), manifest, Path(recipe.corpus), own
            )
        except DataError as error:
            problems.append(Problem((key,), str(error)))
            continue
        if not any(shard.rows for shard in manifest.shards_of("train")):
            problems.append(
                Problem((key,), f"{corpus} has no train rows; prepare it with another --valid-fraction")
            )
        if own is not None and is_other:
            problems.append(
                Problem(
                    (key, "corpus"),
                    f"{corpus} was made with another tokenizer than {recipe.corpus} (hash "
                    f"{manifest.tokenizer_sha256[:12]}, not {own.tokenizer_sha256[:12]}); make its rows by "
                    f"python -m data_prep repack {recipe.corpus} --out DIRECTORY --length "
                    f"{manifest.sequence_length}",
                )
            )
    return manifests, problems


def _share_tokenizer(corpus: Path, manifest: Manifest, own_corpus: Path, own: Manifest) -> bool:
    """Whether a phase's corpus has the tokenizer of the recipe's, by content where the records differ."""
    if manifest.tokenizer_sha256 == own.tokenizer_sha256:
        return True
    tokenizer = open_directory(corpus / TOKENIZER_NAME)
    is_its_own = tokenizer.is_recorded(manifest.tokenizer_sha256)
    return is_its_own and tokenizer.is_that_of(own.tokenizer_sha256, own_corpus / TOKENIZER_NAME)


def _check_ends(recipe: Recipe) -> Iterator[Problem]:
    num_steps = recipe.train.num_steps
    for index, (section, phase) in enumerate(zip(recipe.curriculum, recipe.phases)):
        key = f"curriculum.{index}.until"
        if phase.end_step <= phase.first_step:
            yield Problem(
                (key,),
                f"found {section.until!r}, which is step {phase.end_step}, but the phase begins at step "
                f"{phase.first_step}; write a later end, or put the phases in order",
            )
        elif phase.end_step >= num_steps:
            yield Problem(
                (key, "train.num_steps"),
                f"found {section.until!r}, which is step {phase.end_step} of {num_steps}: nothing is left "
                "for the recipe's own values, which come last; write an earlier end",
            )


def _check_changes(recipe: Recipe, manifests: Manifests) -> Iterator[Problem]:
    """A phase that goes on like the one before would be taken for more than it is."""

    def described(phase: Phase) -> tuple[str, int, int]:
        manifest = manifests.get(phase.corpus)
        corpus = phase.corpus if manifest is None else manifest.content_sha256()
        return corpus, phase.global_batch_size, phase.micro_batch_limit

    for index, (phase, following) in enumerate(pairwise(recipe.phases)):
        if described(phase) == described(following):
            is_last = index + 1 == len(recipe.curriculum)
            yield Problem(
                (f"curriculum.{index}",),
                f"has the corpus and batch sizes of {'the recipe itself' if is_last else 'the next phase'} "
                f"({phase.corpus}, {phase.global_batch_size} rows, {phase.micro_batch_limit} per process and "
                "pass), so it changes nothing; give it other ones, or remove it",
            )
