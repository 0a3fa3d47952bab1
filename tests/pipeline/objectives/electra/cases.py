"""A tiny objective of replaced-token detection, and batches for it."""

from typing import Any

import numpy as np
import torch

from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch, RowBatcher
from pipeline.data.corpus import CorpusRows
from pipeline.encoder.attention import install_taps
from pipeline.objectives.electra.module import ReplacedTokenDetection
from pipeline.objectives.electra.objective import OBJECTIVE
from pipeline.objectives.protocol import Facts
from tests.pipeline.tiny_models import LENGTH, VOCABULARY

NUM_ROWS = 8


class MemorySplit:
    """Rows of 2 to LENGTH tokens that are known from their numbers."""

    sequence_length = LENGTH
    num_rows = NUM_ROWS

    def read(self, rows: np.ndarray) -> CorpusRows:
        all_ids = np.random.default_rng(0).integers(5, VOCABULARY.size, (NUM_ROWS, LENGTH))
        lengths = np.linspace(LENGTH, 2, NUM_ROWS).astype(np.int64)[rows]
        is_real = np.arange(LENGTH) < lengths[:, None]
        ids = np.where(is_real, all_ids[rows], VOCABULARY.pad_id)
        ids[:, 0] = VOCABULARY.cls_id
        ends = (is_real * lengths[:, None]).astype(np.int32)
        return CorpusRows(ids, lengths, np.zeros_like(ends), ends)


def make_recipe(family: str = "roberta", model: dict[str, Any] | None = None, **section: Any) -> Recipe:
    sizes = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
    return Recipe.model_validate(
        {
            "run_dir": "",
            "corpus": "",
            "seed": 3,
            "model": {
                "family": family,
                **sizes,
                "dropout": 0.0,
                "attention_dropout": 0.0,
                **(model or {}),
            },
            "objective": {"kind": "electra", "mask_rate": 0.3, "generator_layers": 1, **section},
        }
    )


def make_module(recipe: Recipe) -> ReplacedTokenDetection:
    """With weights that are not at their initialization, where both networks are all but constant."""
    module = OBJECTIVE.build(recipe, Facts(vocabulary=VOCABULARY, positions=LENGTH))
    assert isinstance(module, ReplacedTokenDetection)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    for network in module.networks.values():
        install_taps(network, [])
    return module


def make_batch(recipe: Recipe, rows: list[int], *, epoch: int = 0, filler: list[int] | None = None) -> Batch:
    batcher = RowBatcher(MemorySplit(), OBJECTIVE.draw(recipe.objective, VOCABULARY), seed=1)  # type: ignore[arg-type]
    is_filler = None if filler is None else np.isin(rows, filler)
    return batcher.batch(np.array(rows), epoch, is_filler)
