"""From a checked recipe to the objects of a run: data, model, guide, schedule."""

from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.format import Manifest, Split, read_manifest
from pipeline.config.schema import Recipe
from pipeline.data.batches import RowBatcher
from pipeline.data.corpus import CorpusSplit, Vocabulary, read_vocabulary
from pipeline.data.masking import MaskingRule
from pipeline.engine import PretrainingModule
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.patterns import assign_heads
from pipeline.guidance.schedule import GuidanceSchedule, scaled_weight
from pipeline.model import build_model


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
        return RowBatcher(CorpusSplit(self.path, split, self.manifest), rule, recipe.seed)


def build_pretraining_module(recipe: Recipe, corpus: Corpus, device: torch.device) -> PretrainingModule:
    """The model with its objective and guide, in float32 in host memory."""
    model = build_model(recipe.model, corpus.vocabulary, corpus.manifest.sequence_length, recipe.seed)
    guide = AttentionGuide(assign_heads(recipe.guidance.heads), device)
    return PretrainingModule(model, recipe.objective.kind, guide)


def build_guidance_schedule(recipe: Recipe, num_layers: int, sequence_length: int) -> GuidanceSchedule:
    """When and where the recipe's guidance acts."""
    guidance = recipe.guidance
    return GuidanceSchedule(
        weight=scaled_weight(guidance.weight, sequence_length) if recipe.guided else 0.0,
        plateau_steps=recipe.steps_of(guidance.plateau),
        end_step=recipe.train.num_steps if guidance.end is None else recipe.steps_of(guidance.end),
        layers=tuple(sorted(guidance.guided_layers(num_layers))),
        dense_steps=recipe.steps_of(guidance.dense),
        layers_per_step=guidance.layers_per_step,
        seed=recipe.seed,
    )
