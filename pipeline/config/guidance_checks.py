"""Rules about `guidance`: what its keys say together, and with the model's layers and the corpus's tokens."""

from collections.abc import Iterator
from pathlib import Path

from transformers import PretrainedConfig

from pipeline.config.load import Problem
from pipeline.config.schema import Recipe
from pipeline.data.token_sets import read_tokens
from pipeline.encoder.families import attention_reach, has_rotary_positions
from pipeline.encoder.model import model_family
from pipeline.guidance.allocation import Allocation, allocate, head_table, is_table, pattern_names
from pipeline.guidance.patterns import parse_pattern, reach_of


def warn_of_guidance(recipe: Recipe) -> str | None:
    """Why guidance, though in order, is likely to harm this model; None for other models or without it."""
    family = model_family(recipe.model)
    if recipe.guidance.acts_by is None or not has_rotary_positions(family):
        return None
    return (
        f"guidance is likely to harm: {family} has rotary positions and finds its neighbours without it, and "
        "where that was measured guidance made the loss worse (docs/guidance.md); write guidance.weight=0 to "
        "switch it off"
    )


def check_guidance(recipe: Recipe, corpus_dir: Path | None) -> Iterator[Problem]:
    """Problems that can be told without the model; `corpus_dir` None: the corpus cannot be opened."""
    guidance = recipe.guidance
    for key, reason in guidance.without_effect().items():
        if key in guidance.model_fields_set and getattr(guidance, key) is not None:
            yield Problem((f"guidance.{key}",), f"has no effect: {reason}; remove it")
    written = guidance.model_fields_set
    if written and "heads" not in written and guidance.weight != 0.0:
        yield Problem(
            tuple(f"guidance.{key}" for key in sorted(written)),
            "no head is guided; write guidance.heads too, for example heads: paper",
        )
    if guidance.end is not None and recipe.steps_of(guidance.end) < recipe.steps_of(guidance.plateau):
        yield Problem(
            ("guidance.plateau", "guidance.end"),
            f"the plateau lasts {recipe.steps_of(guidance.plateau)} steps but the weight is to be zero at "
            f"{recipe.steps_of(guidance.end)}; write an end at or after the plateau",
        )
    if guidance.error == "cross_entropy" and guidance.alpha is not None:
        yield Problem(
            ("guidance.alpha", "guidance.error"),
            f"found {guidance.alpha:g}; alpha is the published weight of a squared error; write weight, of a "
            "size of 0.1, for cross_entropy",
        )
    if guidance.error == "cross_entropy" and guidance.normalization == "authors":
        yield Problem(
            ("guidance.error", "guidance.normalization"),
            "the published loss is a squared error and keeps rows without a target, for which cross-entropy "
            "has no value; write normalization: mean, or error: squared",
        )
    if guidance.layers is not None and is_table(guidance.heads):
        yield Problem(
            ("guidance.layers", "guidance.heads"),
            "the ranges of guidance.heads say which layers are guided; remove guidance.layers",
        )
    if guidance.normalization == "authors" and recipe.guided and not recipe.data.attend_across_documents:
        yield Problem(
            ("guidance.normalization", "data.attend_across_documents"),
            "found authors and false; the published loss is over whole rows, and attention that stays inside "
            "documents has no errors for the rest of a row; write normalization: mean, or "
            "attend_across_documents: true",
        )
    for name in pattern_names(guidance.heads):
        try:
            parse_pattern(name)
        except ValueError as error:
            yield Problem((f"guidance.heads.{name}",), str(error))
    if corpus_dir is not None:
        yield from _check_tokens(recipe, corpus_dir)


def check_guided_heads(recipe: Recipe, config: PretrainedConfig, row_lengths: set[int]) -> Iterator[Problem]:
    """Problems between the guided heads and the model, with all row lengths of the run that are known."""
    guidance, num_layers = recipe.guidance, config.num_hidden_layers
    guided = guidance.layers_of(num_layers)
    layers = list(range(num_layers)) if guided is None else guided
    if beyond := [layer for layer in layers if layer >= num_layers]:
        yield Problem(
            ("guidance.layers", "model.num_layers"),
            f"{beyond} are beyond the last layer, {num_layers - 1} (the first is 0)",
        )
    if len(set(layers)) != len(layers) or not layers:
        yield Problem(("guidance.layers",), f"found {layers}; name each layer once, at least one")
    try:
        table = head_table(guidance.heads, layers, num_layers)
    except ValueError as error:
        yield Problem(("guidance.heads",), str(error))
        return
    yield from _check_counts(table, config)
    try:
        allocation = allocate(table)
    except ValueError:
        return  # told by check_guidance
    yield from _check_alpha(recipe, allocation)
    if guidance.heads:
        yield from _check_sampling(recipe, len(allocation.guided_layers))
    told: set[tuple[str, ...]] = set()
    for length in sorted(row_lengths):
        for problem in _check_reach(allocation, config, length, is_table(guidance.heads)):
            if problem.keys not in told:  # for shorter rows
                yield problem
            told.add(problem.keys)


def _check_tokens(recipe: Recipe, corpus_dir: Path) -> Iterator[Problem]:
    texts = recipe.guidance.token_texts()
    if not texts:
        return
    tokens = read_tokens(corpus_dir)
    for name in texts:
        try:
            tokens.ids_of(texts[name])
        except ValueError as error:
            yield Problem((f"guidance.{name}", "corpus"), str(error))


def _check_counts(table: list[dict[str, int]], config: PretrainedConfig) -> Iterator[Problem]:
    num_heads = getattr(config, "num_attention_heads", 0)  # a family may have none
    told: list[dict[str, int]] = []
    for layer, counts in enumerate(table):
        if sum(counts.values()) > num_heads and counts not in told:
            told.append(counts)
            yield Problem(
                ("guidance.heads", "model.num_heads"),
                f"{sum(counts.values())} guided heads {counts}"
                + (f" in layer {layer}" if table.count(counts) < len(table) else "")
                + f", but a layer has {num_heads}; write at most {num_heads}",
            )


def _check_alpha(recipe: Recipe, allocation: Allocation) -> Iterator[Problem]:
    """The published loss is a sum over patterns: each has the same weight, however many heads it has.

    With normalization `mean` every head has the same weight, which is the same only for equal counts.
    """
    guidance = recipe.guidance
    is_published_weight = recipe.guided and guidance.alpha is not None and guidance.row_error == "squared"
    if is_published_weight and guidance.normalization == "mean" and len(allocation.head_counts) > 1:
        counts = " and ".join(map(str, allocation.head_counts))
        yield Problem(
            ("guidance.alpha", "guidance.normalization"),
            f"found {guidance.alpha:g} and mean, with patterns of {counts} heads; alpha gives every pattern "
            "the same weight, mean every head; write normalization: authors, or weight instead of alpha",
        )


def _check_sampling(recipe: Recipe, num_guided: int) -> Iterator[Problem]:
    guidance = recipe.guidance
    count = guidance.num_layers_per_step(num_guided)
    if count is not None and count > num_guided:
        yield Problem(
            ("guidance.layers_per_step", "guidance.layers"),
            f"cannot draw {count} of {num_guided} layers; write at most {num_guided}",
        )
    if guidance.layer_weights is not None and len(guidance.layer_weights) != num_guided:
        yield Problem(
            ("guidance.layer_weights",),
            f"{len(guidance.layer_weights)} weights for {num_guided} guided layers; write one for each",
        )


def _check_reach(
    allocation: Allocation, config: PretrainedConfig, length: int, is_table: bool
) -> Iterator[Problem]:
    """Targets must lie inside the row and inside a layer's attention window."""
    for name in allocation.names:
        distance = reach_of(parse_pattern(name), length)
        layers = [
            layer for layer, groups in enumerate(allocation.layers) if any(g.name == name for g in groups)
        ]
        if distance >= length:
            yield Problem((f"guidance.heads.{name}",), f"points outside rows of {length} tokens; write less")
            continue
        reaches = {layer: attention_reach(config, layer) for layer in layers}
        if short := [layer for layer, reach in reaches.items() if reach is not None and distance > reach]:
            others = [layer for layer in layers if layer not in short]
            advice = f"write layers: {others}" if others else f"no layer can: leave {name!r} out"
            if is_table:
                advice = f"give {name!r} no heads in them"
            yield Problem(
                ("guidance.layers", f"guidance.heads.{name}"),
                f"layers {short} attend locally and cannot reach {name!r} in rows of {length} tokens; "
                + advice,
            )
