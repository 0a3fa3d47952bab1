"""Rules that join several settings, or the recipe and the world: corpus, model, processes, device.

Each rule yields the problems it finds with the keys involved; a problem about a key that is already known
to be broken is left out, so one mistake is told once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PretrainedConfig

from data_prep.format import TOKENIZER_NAME, Manifest, read_manifest
from data_prep.tokenizing.directory import open_directory
from pipeline.config.assumed_corpus import AssumedCorpus, stand_in_vocabulary
from pipeline.config.curriculum_checks import batch_sizes, check_curriculum
from pipeline.config.deepspeed_json import read_template, zero_stage
from pipeline.config.family_checks import check_family, check_twin
from pipeline.config.guidance_checks import check_guidance, check_guided_heads
from pipeline.config.load import Problem, find_recipe, parse_recipe, raise_problems, read_settings
from pipeline.config.model_checks import check_model_fits, check_positions
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary, vocabulary_of
from pipeline.data.corpus_tokenizer import tokenizer_problem
from pipeline.encoder.compilation import LAST_ZERO_STAGE
from pipeline.encoder.families import decoder_problem, family_problem
from pipeline.encoder.model import has_safetensors, model_config
from pipeline.errors import DataError
from pipeline.objectives import load_objective
from pipeline.objectives.protocol import Facts

_ANY_LENGTH = 512  # of rows, where no corpus says it


@dataclass(frozen=True, kw_only=True)
class World:
    """Where the recipe is to run."""

    world_size: int
    on_cuda: bool


def load_checked_recipe(
    name: str, overrides: list[str], world: World, assumed: AssumedCorpus | None = None
) -> Recipe:
    """Find, read and check a recipe; a RecipeError lists every problem. For `assumed` see check_recipe."""
    path = find_recipe(name)
    recipe, problems = parse_recipe(read_settings(path, overrides))
    if recipe is not None:
        broken = [key for problem in problems for key in problem.keys]
        found = check_recipe(recipe, world, assumed)
        problems += [p for p in found if not any(_overlap(key, bad) for key in p.keys for bad in broken)]
    raise_problems(str(path), problems)
    assert recipe is not None  # parse_recipe returns None only with problems
    return recipe


def check_recipe(recipe: Recipe, world: World, assumed: AssumedCorpus | None = None) -> list[Problem]:
    """All problems of a recipe whose single values are in order.

    With `assumed` in the place of its corpora, whose tokens are not looked for; a UsageError if one exists.
    """
    problems = [*_check_steps(recipe), *_check_batch(recipe, world), *_check_engine(recipe, world)]
    manifest, vocabulary, corpus_problems = (
        _open_corpus(recipe) if assumed is None else (*assumed.stand_for(recipe), [])
    )
    row_lengths, curriculum_problems = check_curriculum(
        recipe, manifest, read_manifest if assumed is None else assumed.manifest_of
    )
    has_tokens = vocabulary is not None and assumed is None
    problems += [
        *corpus_problems,
        *curriculum_problems,
        *check_guidance(recipe, Path(recipe.corpus) if has_tokens else None),
    ]
    config, model_problems = _open_model(recipe, manifest, vocabulary, row_lengths)
    problems += model_problems
    if config is not None and _guides_first_network(recipe):
        problems += check_guided_heads(recipe, config, set(row_lengths.values()))
    return [*problems, *_check_objective(recipe, config, vocabulary, row_lengths)]


def _guides_first_network(recipe: Recipe) -> bool:
    networks = recipe.guidance.networks
    return networks is None or load_objective(recipe.objective.kind).networks[0] in networks


def _check_objective(
    recipe: Recipe,
    config: PretrainedConfig | None,
    vocabulary: Vocabulary | None,
    row_lengths: dict[str, int],
) -> Iterator[Problem]:
    objective = load_objective(recipe.objective.kind)
    if len(set(recipe.guidance.networks or [])) < len(recipe.guidance.networks or []):
        yield Problem(("guidance.networks",), f"found {recipe.guidance.networks}; name each network once")
    for name in recipe.guidance.networks or []:
        if name not in objective.networks:
            yield Problem(
                ("guidance.networks", "objective.kind"),
                f"{name!r} is no network of {recipe.objective.kind}; it has {', '.join(objective.networks)}",
            )
    longest = recipe.model.max_positions or max(row_lengths.values(), default=_ANY_LENGTH)
    facts = Facts(vocabulary=vocabulary or stand_in_vocabulary(8), positions=longest, config=config)
    yield from objective.check(recipe, facts)


def _overlap(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _check_steps(recipe: Recipe) -> Iterator[Problem]:
    num_steps = recipe.train.num_steps
    warmup = recipe.steps_of(recipe.schedule.warmup)
    decay = recipe.steps_of(recipe.schedule.decay) if recipe.schedule.kind == "wsd" else 0
    if warmup + decay > num_steps:
        yield Problem(
            ("schedule.warmup", "schedule.decay", "train.num_steps"),
            f"warm-up ({warmup} steps) and decay ({decay}) do not fit into {num_steps} steps; shorten them",
        )
    if "decay" in recipe.schedule.model_fields_set and recipe.schedule.kind != "wsd":
        yield Problem(
            ("schedule.decay", "schedule.kind"),
            f"has no effect with kind {recipe.schedule.kind!r}; remove it, or write kind: wsd",
        )
    keep, every = recipe.checkpoint.keep_every_steps, recipe.checkpoint.every_steps
    if keep is not None and keep % every:
        nearest = max(1, round(keep / every)) * every
        yield Problem(
            ("checkpoint.keep_every_steps", "checkpoint.every_steps"),
            f"{keep} is not a multiple of {every}, so nothing would be kept; write {nearest}",
        )


def _check_batch(recipe: Recipe, world: World) -> Iterator[Problem]:
    batches, processes = batch_sizes(recipe), world.world_size
    common = math.gcd(*batches.values())
    fewer = max(n for n in range(1, common + 1) if common % n == 0 and n <= processes)
    for key, batch in batches.items():
        if batch % processes == 0:
            continue
        below, above = batch // processes * processes, (batch // processes + 1) * processes
        choice = f"{below} or {above}" if below else str(above)
        yield Problem(
            (key,),
            f"{batch} rows cannot be shared by {processes} processes; start {fewer} of them, or write "
            f"global_batch_size: {choice} (which makes it another run)",
        )


def _check_engine(recipe: Recipe, world: World) -> Iterator[Problem]:
    if recipe.train.precision == "fp16" and not world.on_cuda:
        yield Problem(("train.precision",), "fp16 needs a CUDA device, none was found; write bf16 or fp32")
    template, problems = read_template(recipe.train.deepspeed)
    yield from problems
    if not problems and recipe.train.compile is True and zero_stage(template) > LAST_ZERO_STAGE:
        yield Problem(
            ("train.compile", "train.deepspeed"),
            f"blocks cannot be compiled at ZeRO stage {zero_stage(template)}, which gathers weights inside "
            "them; write compile: auto or false, or deepspeed: zero2",
        )
    if not problems and zero_stage(template) == 0 and recipe.train.precision != "fp32":
        # DeepSpeed 0.19 does not scale fp16 losses at stage 0, and takes one real step while it sets bf16 up.
        yield Problem(
            ("train.precision", "train.deepspeed"),
            f"{recipe.train.precision} does not train rightly at ZeRO stage 0; write deepspeed: zero1 (same "
            "speed, less memory), or precision: fp32",
        )


def _open_corpus(recipe: Recipe) -> tuple[Manifest | None, Vocabulary | None, list[Problem]]:
    corpus = Path(recipe.corpus)
    try:
        manifest = read_manifest(corpus)
        tokenizer = open_directory(corpus / TOKENIZER_NAME)
        vocabulary = vocabulary_of(tokenizer)
        wrong = tokenizer_problem(corpus, manifest, tokenizer)
    except DataError as error:
        return None, None, [Problem(("corpus",), str(error))]
    problems = [] if wrong is None else [wrong]
    for split in ("train", "valid"):
        if not any(shard.rows for shard in manifest.shards_of(split)):
            problems.append(f"{corpus} has no {split} rows; prepare it with another --valid-fraction")
    return manifest, vocabulary, [Problem(("corpus",), problem) for problem in problems]


def _open_model(
    recipe: Recipe,
    manifest: Manifest | None,
    vocabulary: Vocabulary | None,
    row_lengths: dict[str, int],
) -> tuple[PretrainedConfig | None, list[Problem]]:
    section, problems = recipe.model, []
    for key in section.settings_beside_checkpoint():
        problems.append(
            Problem((f"model.{key}", "model.checkpoint"), "the checkpoint decides it; remove one of the two")
        )
    if section.checkpoint is None:
        problems += check_family(section)
    elif not (Path(section.checkpoint) / "config.json").is_file() or not has_safetensors(
        Path(section.checkpoint)
    ):
        return None, [
            *problems,
            Problem(
                ("model.checkpoint",),
                f"{section.checkpoint} is not a Hugging Face directory with config.json and *.safetensors",
            ),
        ]
    if problems:
        return None, problems
    # Without a corpus the vocabulary is unknown; any will do to look at layers and heads.
    try:
        config = model_config(
            section, vocabulary or stand_in_vocabulary(8), max(row_lengths.values(), default=_ANY_LENGTH)
        )
        if (
            section.checkpoint is not None
            and (problem := family_problem(config.model_type) or decoder_problem(config)) is not None
        ):
            return None, [Problem(("model.checkpoint",), problem)]
        with torch.device("meta"):  # builds the model without memory, so that no value fails later
            AutoModelForMaskedLM.from_config(config)
    except Exception as error:  # transformers raises many kinds here, all about the values given
        key = "model.options" if section.checkpoint is None else "model.checkpoint"
        return None, [Problem((key,), f"transformers refuses it ({type(error).__name__}): {error}")]
    problems = check_twin(recipe)
    if manifest is not None and vocabulary is not None:
        problems += [
            *check_positions(recipe, config, row_lengths),
            *check_model_fits(recipe, config, manifest, vocabulary),
        ]
    return config, problems
