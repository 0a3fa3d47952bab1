"""From a checked recipe to the objects of a run: data, model, guide, schedule."""

from dataclasses import dataclass
from pathlib import Path

from data_prep.format import Manifest, Split, read_manifest
from pipeline.config.schema import Recipe
from pipeline.data.batches import RowBatcher
from pipeline.data.corpus import CorpusSplit, Vocabulary, read_vocabulary
from pipeline.data.masking import MaskingRule
from pipeline.data.token_sets import guidance_token_ids
from pipeline.engine import PretrainingModule
from pipeline.guidance.allocation import Allocation, allocate, head_table
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.loss import make_guidance_loss
from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import DEFAULT_WEIGHTS, GuidanceSchedule, scaled_weight, weight_of_alpha
from pipeline.model import attention_dropout, build_model


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
        """Reads a split's rows, masked as the recipe says."""
        rule = MaskingRule(
            rate=recipe.objective.mask_rate,
            mask_share=recipe.objective.mask_share,
            random_share=recipe.objective.random_share,
            mask_id=self.vocabulary.mask_id,
            ordinary_ids=self.vocabulary.ordinary_ids(),
        )
        return RowBatcher(
            CorpusSplit(self.path, split, self.manifest),
            rule,
            recipe.seed,
            attend_across_documents=recipe.data.attend_across_documents,
        )


def build_pretraining_module(recipe: Recipe, corpus: Corpus) -> PretrainingModule:
    """The model with its objective and guide, in float32 in host memory."""
    model = build_model(recipe.model, corpus.vocabulary, corpus.manifest.sequence_length, recipe.seed)
    guidance = recipe.guidance
    table = head_table(guidance.heads, guidance.layers, model.config.num_hidden_layers)
    allocation = allocate(table, guidance_token_ids(corpus.path, guidance.token_texts()))
    as_published = guidance.normalization == "authors"
    keep = 1.0 - attention_dropout(model.config) if as_published else 1.0
    guide = AttentionGuide(allocation, LossForm(name=guidance.error, keep=keep), as_published)
    return PretrainingModule(model, recipe.objective.kind, guide)


def build_guidance(recipe: Recipe, guide: AttentionGuide, sequence_length: int) -> RunGuidance:
    """Schedule and loss beside the guide of a module, for a run."""
    schedule = build_guidance_schedule(recipe, guide.allocation, sequence_length)
    loss = make_guidance_loss(guide.allocation, recipe.guidance.normalization)
    return RunGuidance(guide, schedule, loss, Formation(schedule, recipe.guidance.formed_mass))


def build_guidance_schedule(recipe: Recipe, allocation: Allocation, sequence_length: int) -> GuidanceSchedule:
    """When and where the recipe's guidance acts."""
    guidance = recipe.guidance
    layers = allocation.guided_layers
    weights = guidance.layer_weights
    return GuidanceSchedule(
        weight=guidance_weight(recipe, allocation, sequence_length),
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
    weight = DEFAULT_WEIGHTS[guidance.error] if guidance.weight is None else guidance.weight
    return scaled_weight(weight, guidance.error, sequence_length)
