"""Guidance of a network in a run: what its steps look at, its targets, its loss, its formation."""

import logging
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.accounting.clock import span
from pipeline.data.batches import Batch
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.loss import GuidanceLoss
from pipeline.guidance.schedule import GuidanceSchedule, GuidedStep
from pipeline.guidance.targets import Targets
from pipeline.guidance.timer import SPAN
from pipeline.objectives.protocol import Score, Scored, Term
from pipeline.processes.cluster import Cluster

logger = logging.getLogger(__name__)


class RunGuidance:
    """The regularizer of one network, see Regularizer.

    The only state is the step at which the patterns have formed; everything else is a function of the step.

    Attributes:
        name: `guidance` for an objective's first network, `generator_guidance` for one called generator. It
            begins the names of the columns, counts, sums and fields.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        guide: AttentionGuide,
        schedule: GuidanceSchedule,
        loss: GuidanceLoss,
        formation: Formation,
        name: str = "guidance",
    ) -> None:
        """Of a network whose attention is tapped by `guide`."""
        self.network, self.guide, self.schedule, self.loss = network, guide, schedule, loss
        self.formation, self.name = formation, name
        self._counts = [f"{name}/valid rows/{place}" for place in range(len(guide.allocation.patterns))]
        self._by_head = sum_by_head(name, guide.allocation.describe())

    def at(self, step: int | None) -> GuidedStep:
        """What a step does; in an evaluation (None) every guided layer is measured, without a bias."""
        if step is None:
            return GuidedStep.looking_at(self.guide.allocation.guided_layers)
        return self.schedule.at(step, self.formation.formed_step)

    def prepare(self, batch: Batch, step: int | None) -> None:
        """See Regularizer: the targets and how many rows of each pattern have one."""
        guided = self.at(step)
        batch.counts |= dict.fromkeys(self._counts, 0.0)
        if not guided.layers and not guided.bias:
            return
        with span(SPAN):
            targets = self.guide.targets(batch.input_ids, batch.documents)
            batch.columns |= targets.columns_of_batch(self.name)
            batch.counts |= dict(zip(self._counts, targets.count_valid().tolist()))

    def around(self, score: Score, batch: Batch, step: int | None, totals: Mapping[str, float]) -> Scored:
        """See Regularizer: the errors of the looked-at layers."""
        guided = self.at(step)
        targets = Targets.of_batch(batch, self.name, as_published=self.guide.as_published)
        self.guide.watch(guided, targets, self.network.training)
        scored = score(batch, step)
        terms = self.guide.collect(batch.lengths.device)
        if not guided.layers:
            return scored
        sums, added = {self._by_head: self._sums_by_head(guided, terms)}, {}
        if step is not None:
            with span(SPAN):
                valid_rows = torch.tensor([totals[name] for name in self._counts], dtype=torch.float64)
                loss = self.loss(guided, terms.errors, valid_rows)
                if self.formation.is_due(step):
                    self.formation.add(terms)
            sums[f"{self.name}_loss"], added[self.name] = loss.detach(), Term(loss, None)
        return scored._replace(terms=scored.terms | added, sums=scored.sums | sums)

    def rest(self) -> None:
        """See Regularizer."""
        self.guide.watch(GuidedStep(), None, training=False)

    def after_step(self, step: int, cluster: Cluster) -> dict[str, Any] | None:
        """See Regularizer: whether the patterns have just formed, and with what mean attention on target."""
        if not self.formation.is_due(step):
            return None
        mass = self.formation.judge(step, cluster)
        if mass is None:
            return None
        if cluster.is_main:
            logger.info("step %d: patterns formed, attention on target %.2f", step + 1, mass)
        return {"kind": "patterns formed", "step": step + 1, "mean_mass": round(mass, 4)}

    def line(self, step: int | None, totals: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """See Regularizer: errors and mass by pattern, and what guidance did in the last step."""
        allocation, line = self.guide.allocation, {}
        by_head = totals.get(self._by_head)
        if by_head is None:
            by_head = torch.zeros(3, len(allocation.layers), allocation.num_heads, dtype=torch.float64)
        errors, mass = {}, {}
        for name in allocation.names:
            error, hits, rows = self._sums_of(name, by_head)
            errors[name] = _ratio(error.sum().item(), rows.sum().item())
            mass[name] = [_ratio(h, r) for h, r in zip(hits.tolist(), rows.tolist())]
        if step is not None:
            guided, steps = self.at(step), float(totals["steps"])
            loss = float(totals.get(f"{self.name}_loss", 0.0))
            line = {
                f"{self.name}_loss": loss / steps if steps else float("nan"),
                f"{self.name}_weight": guided.weight,
                f"{self.name}_bias": guided.bias,
                f"{self._of_layers}": len(guided.layers),
            }
        return line | {f"{self.name}_error": errors, f"{self.name}_mass": mass}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"formed_step": self.formation.formed_step, "heads": self.guide.allocation.describe()}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; heads that are newly guided have yet to form."""
        same_heads = state["heads"] == self.guide.allocation.describe()
        self.formation.formed_step = state["formed_step"] if same_heads else None

    @property
    def _of_layers(self) -> str:
        return self.name.removesuffix("guidance") + "guided_layers"

    def _sums_by_head(self, guided: GuidedStep, terms: GuidanceTerms) -> torch.Tensor:
        """Errors, mass and rows of a batch, (3, layers, heads), float64."""
        values = torch.stack([terms.errors.detach(), terms.mass, terms.rows]).double()
        index = torch.tensor([layer.layer for layer in guided.layers], dtype=torch.long)
        shape = (3, len(self.guide.allocation.layers), self.guide.allocation.num_heads)
        sums = torch.zeros(shape, dtype=torch.float64, device=values.device)
        return sums.index_add_(1, index.to(values.device, non_blocking=True), values)

    def _sums_of(self, name: str, by_head: torch.Tensor) -> torch.Tensor:
        """Errors, mass and rows of a pattern's heads, by layer, (3, layers)."""
        sums = by_head.new_zeros(by_head.shape[:2])
        for layer, groups in enumerate(self.guide.allocation.layers):
            for group in groups:
                if group.name == name:
                    sums[:, layer] += by_head[:, layer, group.first_head : group.end_head].sum(-1)
        return sums


def sum_by_head(name: str, heads: list[list[tuple[str, int, int]]]) -> str:
    """Name of the sums by head of the guidance `name`.

    Sums of other heads, as a checkpoint has them from before the recipe was changed, have another one.
    """
    return f"{name} by head {zlib.crc32(repr(heads).encode()):08x}"


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
