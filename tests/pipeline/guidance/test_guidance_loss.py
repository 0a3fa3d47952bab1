"""From errors to one loss: parity with the published expression, and sampled estimates without bias."""

from dataclasses import dataclass

import pytest
import torch

from pipeline.encoder.attention import AttentionInputs
from pipeline.guidance.allocation import Allocation, allocate
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.loss import make_guidance_loss
from pipeline.guidance.schedule import GuidanceSchedule, GuidedLayer, GuidedStep, weight_of_alpha
from tests.pipeline.guidance.cases import documents_of, full_rows, random_rows
from tests.pipeline.guidance.dense import (
    TOKEN_SETS,
    Rows,
    counted_rows,
    heads_in_order,
    log_attention,
    squared_errors,
    target_matrices,
)

PAPER = [{"next": 1, "previous": 1, "first": 4}] * 3
UNEVEN = [{"next": 2, "first": 1}, {}, {"delimiters": 3, "self": 1, "previous": 2}, {"next": 1}]
SCALING = 0.5


@dataclass
class Layers:
    """Query and key of every layer, (layers, B, H, N, D), in place of a model."""

    query: torch.Tensor
    key: torch.Tensor

    @staticmethod
    def random(
        num_layers: int, rows: Rows, num_heads: int = 6, dtype: torch.dtype = torch.float32
    ) -> "Layers":
        generator = torch.Generator().manual_seed(3)
        shape = (num_layers, len(rows.pieces), num_heads, rows.size, 4)
        query, key = (torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(2))
        return Layers(query, key)

    def gradients(self) -> torch.Tensor:
        """Of the last loss, and forget them."""
        found = torch.stack([self.query.grad, self.key.grad])
        self.query.grad = self.key.grad = None
        return found


class Guidance:
    """The project's way from the layers of a (part of a) batch to a loss."""

    def __init__(
        self,
        layers: Layers,
        table: list[dict[str, int]],
        rows: Rows,
        normalization: str = "mean",
        whole_batch: Rows | None = None,
    ) -> None:
        self.allocation = allocate(table, TOKEN_SETS)
        self._layers = layers
        self._guide = AttentionGuide(self.allocation, as_published=normalization == "authors")
        self._loss = make_guidance_loss(self.allocation, normalization)
        self._targets = self._guide.targets(rows.ids, documents_of(rows))
        whole = whole_batch or rows
        self._valid_rows = self._guide.targets(whole.ids, documents_of(whole)).count_valid()

    def loss(self, guided: GuidedStep) -> torch.Tensor:
        self._guide.watch(guided, self._targets, training=True)
        for layer in range(len(self._layers.query)):
            query, key = self._layers.query[layer], self._layers.key[layer]
            inputs = AttentionInputs(None, query, key, torch.zeros_like(key), SCALING, None, None)
            self._guide.taps[layer].observe(inputs)
        terms = self._guide.collect(torch.device("cpu"))
        return self._loss(guided, terms.errors, self._valid_rows)


def loss_of(
    layers: Layers, table: list[dict[str, int]], rows: Rows, guided: GuidedStep, normalization: str = "mean"
) -> torch.Tensor:
    return Guidance(layers, table, rows, normalization).loss(guided)


def every_layer(allocation: Allocation, weight: float = 1.0) -> GuidedStep:
    looked_at = GuidedStep.looking_at(allocation.guided_layers).layers
    return GuidedStep(layers=looked_at, weight=weight)


def published_loss(layers: Layers, table: list[dict[str, int]], rows: Rows, alpha: float) -> torch.Tensor:
    """Deshpande and Narasimhan: alpha times the sum over layers and types of an elementwise mean."""
    loss = torch.zeros((), dtype=torch.float64)
    for layer, counts in enumerate(table):
        probs = log_attention(layers.query[layer], layers.key[layer], SCALING, None).exp()
        first = 0
        for pattern, count in counts.items():
            target = target_matrices(pattern, rows, published=True)[:, None].expand(-1, count, -1, -1)
            loss = loss + torch.nn.functional.mse_loss(probs[:, first : first + count], target)
            first += count
    return alpha * loss


def mean_loss(layers: Layers, table: list[dict[str, int]], rows: Rows, weight: float) -> torch.Tensor:
    """The plain mean over guided layers, their heads and the heads' rows with a target."""
    means = []
    for layer, counts in enumerate(table):
        probs = log_attention(layers.query[layer], layers.key[layer], SCALING, None).exp()
        for head, pattern in enumerate(heads_in_order(counts)):
            target = target_matrices(pattern, rows)
            means.append(squared_errors(probs[:, head], target)[counted_rows(target, rows)].mean())
    return weight * torch.stack(means).mean()


# Parity with formulas


@pytest.mark.parametrize("table", [PAPER, UNEVEN], ids=["paper", "uneven"])
@pytest.mark.parametrize("pieces", [[[16]] * 3, [[9, 5], [16], [2]]], ids=["full", "documents and padding"])
def test_authors_normalization_is_the_published_loss(
    table: list[dict[str, int]], pieces: list[list[int]]
) -> None:
    """Value and gradients, at their alpha of 100."""
    rows, allocation = random_rows(pieces, 16), allocate(table, TOKEN_SETS)
    layers, exact = (Layers.random(len(table), rows, dtype=dtype) for dtype in (torch.float32, torch.float64))
    weight = weight_of_alpha(100.0, allocation.num_layer_types, rows.size)

    found = loss_of(layers, table, rows, every_layer(allocation, weight), "authors")
    found.backward()

    expected = published_loss(exact, table, rows, alpha=100.0)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients, expected_gradients = layers.gradients(), exact.gradients()
    assert (gradients - expected_gradients).norm() <= 1e-5 * expected_gradients.norm()


@pytest.mark.parametrize("table", [PAPER, UNEVEN], ids=["paper", "uneven"])
@pytest.mark.parametrize("pieces", [[[16]] * 3, [[9, 5], [16], [2]]], ids=["full", "documents and padding"])
def test_mean_is_the_mean_over_layers_heads_and_rows_with_a_target(
    table: list[dict[str, int]], pieces: list[list[int]]
) -> None:
    rows, allocation = random_rows(pieces, 16), allocate(table, TOKEN_SETS)
    layers, exact = (Layers.random(len(table), rows, dtype=dtype) for dtype in (torch.float32, torch.float64))

    found = loss_of(layers, table, rows, every_layer(allocation, weight=3.0))
    found.backward()

    expected = mean_loss(exact, table, rows, weight=3.0)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients, expected_gradients = layers.gradients(), exact.gradients()
    assert (gradients - expected_gradients).norm() <= 1e-5 * expected_gradients.norm()


@pytest.mark.parametrize("normalization", ["mean", "authors"])
@pytest.mark.parametrize("table", [PAPER, UNEVEN, [{"first": 1}], [{"delimiters": 5}, {}]])
def test_shares_sum_to_one_and_are_of_guided_heads_only(
    table: list[dict[str, int]], normalization: str
) -> None:
    loss = make_guidance_loss(allocate(table, TOKEN_SETS), normalization)

    assert loss.shares.sum().item() == pytest.approx(1.0)
    for counts, shares in zip(table, loss.shares):
        num_heads = len(heads_in_order(counts))
        assert (shares[:num_heads] > 0.0).all()
        assert not shares[num_heads:].any()


def test_pattern_without_any_target_in_the_batch_costs_nothing() -> None:
    rows = Rows(torch.full((2, 8), 9), [[8], [8]])
    layers, table = Layers.random(1, rows), [{"delimiters": 2}]

    loss = loss_of(layers, table, rows, every_layer(allocate(table, TOKEN_SETS)))
    loss.backward()

    assert loss.item() == 0.0
    assert not layers.gradients().any()


def test_step_that_looks_at_no_layer_has_no_loss() -> None:
    loss = make_guidance_loss(allocate(PAPER), "mean")

    assert loss(GuidedStep(), torch.zeros(0, 6), torch.ones(3)).item() == 0.0


@pytest.mark.parametrize("normalization", ["mean", "authors"])
def test_micro_batches_add_up_to_the_whole(normalization: str) -> None:
    """Though the parts have different numbers of rows with a target."""
    whole = random_rows([[12], [3, 4], [1], [12], [6, 5]], 12)
    layers, guided = Layers.random(4, whole), every_layer(allocate(UNEVEN, TOKEN_SETS))
    expected = loss_of(layers, UNEVEN, whole, guided, normalization)
    expected.backward()
    expected_gradients = layers.gradients()

    total = 0.0
    for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
        rows = Rows(whole.ids[part], whole.pieces[part])
        seen = Layers(layers.query[:, part], layers.key[:, part])
        loss = Guidance(seen, UNEVEN, rows, normalization, whole_batch=whole).loss(guided)
        loss.backward()
        total += loss.item()

    assert total == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(layers.gradients(), expected_gradients, rtol=1e-4, atol=1e-7)


# Sampled estimates


@pytest.mark.parametrize("stride", [2, 3, 5, 20])
@pytest.mark.parametrize("normalization", ["mean", "authors"])
def test_mean_over_all_first_rows_is_the_loss_of_all_rows(stride: int, normalization: str) -> None:
    """Exactly, though most strides do not divide the length and one is longer."""
    rows = random_rows([[12], [3, 4, 2]], 12)
    layers, allocation = Layers.random(4, rows), allocate(UNEVEN, TOKEN_SETS)
    full = loss_of(layers, UNEVEN, rows, every_layer(allocation), normalization)
    full.backward()
    full_gradients = layers.gradients()

    mean = 0.0
    for first_row in range(stride):
        looked_at = tuple(
            GuidedLayer(layer=layer, probability=1.0, first_row=first_row)
            for layer in allocation.guided_layers
        )
        guided = GuidedStep(layers=looked_at, weight=1.0, row_stride=stride)
        loss = loss_of(layers, UNEVEN, rows, guided, normalization) / stride
        loss.backward()
        mean += loss.item()

    assert mean == pytest.approx(full.item(), rel=1e-5)
    torch.testing.assert_close(layers.gradients(), full_gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 6.0)], ids=["equal", "weighted"])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("normalization", ["mean", "authors"])
def test_sampled_steps_have_the_loss_and_gradient_of_dense_ones_on_average(
    weights: tuple[float, ...] | None, stride: int, normalization: str
) -> None:
    """Within four standard errors of the mean over the steps, which are a few hundredths of the values.

    The gradient is looked at along the full one and along a random direction.
    """
    num_steps, rows = 150, random_rows([[9], [3, 4]], 9)
    layers = Layers.random(4, rows)
    guidance = Guidance(layers, UNEVEN, rows, normalization)
    schedule = GuidanceSchedule(
        weight=2.0,
        plateau_steps=num_steps,
        end_step=num_steps,
        layers=guidance.allocation.guided_layers,
        dense_steps=0,
        layers_per_step=2,
        layer_weights=weights,
        row_stride=stride,
        seed=5,
    )
    full = guidance.loss(every_layer(guidance.allocation, weight=2.0))
    full.backward()
    full_gradients = layers.gradients()
    torch.manual_seed(0)
    ways = [full_gradients / full_gradients.norm(), torch.randn_like(full_gradients)]

    found = []
    for step in range(num_steps):
        guided = schedule.at(step)
        assert len(guided.layers) == 2
        loss = guidance.loss(guided)
        loss.backward()
        gradients = layers.gradients()
        found.append([loss.item(), *((gradients * way).sum().item() for way in ways)])

    samples = torch.tensor(found, dtype=torch.float64)
    expected = torch.tensor([full.item(), *((full_gradients * way).sum().item() for way in ways)])
    standard_error = samples.std(0) / num_steps**0.5
    assert ((samples.mean(0) - expected).abs() <= 4 * standard_error).all()
    assert (standard_error[:2] < 0.1 * expected[:2].abs()).all()  # so that a wrong factor would show


def test_a_layer_seldom_looked_at_counts_the_more() -> None:
    rows = full_rows(1, 8)
    layers, table = Layers.random(2, rows), [{"next": 1}, {"next": 1}]

    def of(probability: float) -> float:
        looked_at = (GuidedLayer(layer=1, probability=probability),)
        return loss_of(layers, table, rows, GuidedStep(layers=looked_at, weight=1.0)).item()

    assert of(0.25) == pytest.approx(4 * of(1.0))
