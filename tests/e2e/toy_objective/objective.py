import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch
from pipeline.data.corpus import CorpusRows, Vocabulary
from pipeline.data.draws import Draw, Drawn, RowKeys
from pipeline.encoder.inputs import encoder_inputs
from pipeline.encoder.model import build_model
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from pipeline.objectives.mlm.objective import OBJECTIVE as MLM
from pipeline.objectives.protocol import Facts, Metric, Objective, Pass, Scored, Term
from tests.e2e.toy_objective.settings import ToySection


@dataclass(frozen=True)
class ToyDraw:
    masks: Draw

    def __call__(self, rows: CorpusRows, keys: RowKeys) -> Drawn:
        drawn, places = self.masks(rows, keys), np.arange(rows.input_ids.shape[1])
        documents = ((rows.starts == places) & (places < rows.lengths[:, None])).sum(1)
        counts = {**drawn.counts, "rows": float((rows.lengths > 0).sum())}
        return replace(drawn, columns={**drawn.columns, "num_documents": documents}, counts=counts)


class Toy(MaskedLanguageModeling):
    def __init__(self, model: PreTrainedModel, weight: float) -> None:
        super().__init__(model)
        self.guess, self.weight = nn.Linear(model.config.hidden_size, 1), weight
        nn.init.zeros_(self.guess.weight)
        nn.init.zeros_(self.guess.bias)

    def forward(self, batch: Batch, step: int | None) -> Scored:
        scored, inputs = super().forward(batch, step), encoder_inputs(self.model, batch)
        first = self.model.base_model(batch.input_ids, **inputs).last_hidden_state[:, 0]
        error = self.guess(first)[:, 0].float() - batch.columns["num_documents"]
        squared = torch.where(batch.lengths > 0, error.square(), 0.0).sum()
        term = Term(squared, "rows", self.weight)
        return scored._replace(
            terms=scored.terms | {"documents": term}, sums=scored.sums | {"squared": squared.detach()}
        )

    def passes(self, batch: Batch) -> list[Pass]:
        return [*super().passes(batch), Pass("model", batch.counts["rows"])]


def _draw(section: ToySection, vocabulary: Vocabulary) -> ToyDraw:
    return ToyDraw(MLM.draw(section, vocabulary))


def _build(recipe: Recipe, facts: Facts) -> Toy:
    model = build_model(recipe.model, facts.vocabulary, facts.positions, recipe.seed)
    return Toy(model, recipe.objective.documents_weight)


OBJECTIVE = Objective(
    metrics=(
        Metric("loss", "loss", "predicted", "nats per masked token"),
        Metric("documents_error", "squared", "rows", "documents", math.sqrt),
    ),
    draw=_draw,
    build=_build,
    networks=("model",),
)
