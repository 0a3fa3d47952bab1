"""From a checked recipe to the objects of a run: data, networks, guidance."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from data_prep.format import Manifest, Split, read_manifest
from pipeline.config.schema import Recipe
from pipeline.data.batches import PhasedBatches, RowBatcher
from pipeline.data.corpus import CorpusSplit, Vocabulary, read_vocabulary
from pipeline.data.phases import Phase
from pipeline.data.token_sets import guidance_token_ids
from pipeline.encoder.attention import install_taps
from pipeline.encoder.families import attention_dropout
from pipeline.encoder.self_check import check_network
from pipeline.engine import PretrainingModule
from pipeline.errors import UserError
from pipeline.guidance.allocation import Allocation, allocate, head_table
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.loss import make_guidance_loss
from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import DEFAULT_WEIGHTS, GuidanceSchedule, scaled_weight, weight_of_alpha
from pipeline.objectives import load_objective
from pipeline.objectives.protocol import Facts, ObjectiveModule

_HELD_OUT_SEED = 1  # of masks: runs with different seeds are compared on the same tokens


@dataclass(frozen=True)
class Corpus:
    """A recipe's corpus, opened."""

    path: Path
    manifest: Manifest
    vocabulary: Vocabulary

    @staticmethod
    def open(path: str) -> "Corpus":
        """Read manifest and tokenizer; a DataError says what is wrong."""
        corpus_dir = Path(path)
        return Corpus(corpus_dir, read_manifest(corpus_dir), read_vocabulary(corpus_dir))

    def batcher(self, recipe: Recipe, split: Split) -> RowBatcher:
        """Reads a split's rows for the recipe's objective; held-out rows alike whatever the run's seed."""
        draw = load_objective(recipe.objective.kind).draw(recipe.objective, self.vocabulary)
        is_train = split == "train"
        share = recipe.data.train_share if is_train else 1.0
        return RowBatcher(
            CorpusSplit(self.path, split, self.manifest, share),
            draw,
            recipe.seed if is_train else _HELD_OUT_SEED,
            attend_across_documents=recipe.data.attend_across_documents,
        )


def open_phases(
    recipe: Recipe, read: Callable[[Path], Manifest] = read_manifest
) -> tuple[list[Phase], dict[str, Manifest]]:
    """The recipe's phases, and the manifests of their corpora by directory, which `read` opens.

    Corpora with the same content are one: all their phases name the directory that comes first.
    """
    manifests: dict[str, Manifest] = {}
    directory_of: dict[str, str] = {}  # by content
    phases = []
    for phase in recipe.phases:
        manifest = read(Path(phase.corpus))
        corpus = directory_of.setdefault(manifest.content_sha256(), phase.corpus)
        manifests.setdefault(corpus, manifest)
        phases.append(replace(phase, corpus=corpus))
    return phases, manifests


def longest_rows(manifests: Iterable[Manifest]) -> int:
    """Tokens per row of that corpus which has the longest."""
    return max(manifest.sequence_length for manifest in manifests)


def build_batches(recipe: Recipe, vocabulary: Vocabulary, world_size: int, rank: int) -> PhasedBatches:
    """All steps of a run as one of its processes sees them."""
    phases, manifests = open_phases(recipe)
    batchers = {
        corpus: Corpus(Path(corpus), manifest, vocabulary).batcher(recipe, "train")
        for corpus, manifest in manifests.items()
    }
    return PhasedBatches.of(phases, batchers, recipe.seed, world_size, rank)


def build_pretraining_module(recipe: Recipe, corpus: Corpus) -> PretrainingModule:
    """The networks with objective and guidance, in float32 in host memory; a UserError if one cannot."""
    phases, manifests = open_phases(recipe)
    positions = recipe.model.max_positions or longest_rows(manifests.values())
    facts = Facts(vocabulary=corpus.vocabulary, positions=positions)
    objective = load_objective(recipe.objective.kind).build(recipe, facts)
    is_apart = not recipe.data.attend_across_documents
    guided = _guided_networks(recipe) if recipe.guidance.heads else []
    for name, network in objective.networks.items():
        check_network(network, needs_taps=name in guided, keeps_documents_apart=is_apart)
    lengths = [(phase.end_step, manifests[phase.corpus].sequence_length) for phase in phases]
    token_ids = guidance_token_ids(corpus.path, recipe.guidance.token_texts())
    return with_guidance(recipe, objective, lengths, token_ids)


def with_guidance(
    recipe: Recipe,
    objective: ObjectiveModule,
    lengths: Sequence[tuple[int, int]],
    token_ids: Mapping[str, Sequence[int]] | None,
) -> PretrainingModule:
    """An objective's networks, their attention tapped for guidance where the recipe wants some.

    Args:
        recipe: says what is guided.
        objective: what is learned.
        lengths: of the rows in the run's phases, each after the step at which the phase ends.
        token_ids: see `parse_pattern`; None where values do not matter.

    Raises:
        UserError: the attention of a network that is to be guided cannot be tapped.
    """
    networks, first = objective.networks, load_objective(recipe.objective.kind).networks[0]
    guided = []
    for name in _guided_networks(recipe):
        prefix = "" if name == first else f"{name}_"
        allocation = _allocate(recipe, networks[name], token_ids)
        guided.append(build_guidance(recipe, networks[name], allocation, lengths, f"{prefix}guidance"))
    for network in networks.values():
        # Without guided heads nothing is watched, so that the family need not be one that can be.
        guides = [
            one.guide for one in guided if one.network is network and one.guide.allocation.guided_layers
        ]
        try:
            install_taps(network, list(zip(*(guide.taps for guide in guides))))
        except ValueError as error:
            raise UserError(f"{error}; write guidance.heads: {{}} to train without guidance") from error
    return PretrainingModule(objective, guided)


def _guided_networks(recipe: Recipe) -> Sequence[str]:
    return recipe.guidance.networks or load_objective(recipe.objective.kind).networks[:1]


def _allocate(
    recipe: Recipe, network: PreTrainedModel, token_ids: Mapping[str, Sequence[int]] | None
) -> Allocation:
    guidance, num_layers = recipe.guidance, network.config.num_hidden_layers
    table = head_table(guidance.heads, guidance.layers_of(num_layers), num_layers)
    return allocate(table, token_ids)


def build_guidance(
    recipe: Recipe,
    network: PreTrainedModel,
    allocation: Allocation,
    lengths: Sequence[tuple[int, int]],
    name: str = "guidance",
) -> RunGuidance:
    """Guidance of a network.

    Args:
        recipe: says how it is guided, and when.
        network: what is guided; its taps are the caller's to install.
        allocation: of its heads.
        lengths: of the rows in the run's phases, each after the step at which the phase ends.
        name: see RunGuidance.
    """
    guidance = recipe.guidance
    as_published = guidance.normalization == "authors"
    keep = 1.0 - attention_dropout(network.config) if as_published else 1.0
    guide = AttentionGuide(allocation, LossForm(name=guidance.row_error, keep=keep), as_published)
    schedule = build_guidance_schedule(recipe, allocation, lengths[-1][1], lengths[:-1])
    loss = make_guidance_loss(allocation, guidance.normalization)
    return RunGuidance(network, guide, schedule, loss, Formation(schedule, guidance.formed_mass), name)


def build_guidance_schedule(
    recipe: Recipe,
    allocation: Allocation,
    sequence_length: int,
    lengths_before: Sequence[tuple[int, int]] = (),
) -> GuidanceSchedule:
    """When and where the recipe's guidance acts.

    Args:
        recipe: with the weight.
        allocation: of the heads.
        sequence_length: of the rows in the run's last phase.
        lengths_before: of the rows in the phases before it, each after the step at which the phase ends.
    """
    guidance = recipe.guidance
    layers = allocation.guided_layers
    weights = guidance.layer_weights
    return GuidanceSchedule(
        weight=guidance_weight(recipe, allocation, sequence_length),
        weights_before=tuple(
            (end_step, guidance_weight(recipe, allocation, length)) for end_step, length in lengths_before
        ),
        bias=guidance.bias if guidance.acts_by == "bias" else 0.0,
        plateau_steps=recipe.steps_of(guidance.plateau),
        end_step=recipe.train.num_steps if guidance.end is None else recipe.steps_of(guidance.end),
        layers=layers,
        dense_steps=None if isinstance(guidance.dense, str) else recipe.steps_of(guidance.dense),
        layers_per_step=guidance.num_layers_per_step(len(layers)),
        layer_weights=None if weights is None else tuple(weights),
        row_stride=guidance.row_stride,
        seed=recipe.seed,
    )


def guidance_weight(recipe: Recipe, allocation: Allocation, sequence_length: int) -> float:
    """Factor on the mean row error: the recipe's weight or alpha for rows of this length."""
    guidance = recipe.guidance
    if not recipe.guided:
        return 0.0
    if guidance.alpha is not None:
        return weight_of_alpha(guidance.alpha, allocation.num_layer_types, sequence_length)
    weight = DEFAULT_WEIGHTS[guidance.row_error] if guidance.weight is None else guidance.weight
    return scaled_weight(weight, guidance.row_error, sequence_length)
