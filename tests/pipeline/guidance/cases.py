"""Inputs for the tests of guidance, and one call each for the operator and for the formulas of dense.py."""

from dataclasses import dataclass, replace

import torch

from pipeline.data.documents import Documents
from pipeline.guidance.allocation import Allocation, allocate
from pipeline.guidance.row_inputs import RowInputs
from pipeline.guidance.row_terms import LossForm, row_terms
from pipeline.guidance.schedule import GuidanceSchedule, GuidedStep
from pipeline.guidance.targets import Targets, make_targets
from tests.pipeline.guidance.dense import TOKEN_SETS, Rows, heads_in_order, log_attention, terms

SIZE = 37  # odd, and not a multiple of any block
PIECES = [[37], [12, 8], [1, 4, 1, 20, 5], [1]]
MIX = {"next": 2, "delimiters": 1, "first": 1, "sentence_ends": 1, "offset+3": 1, "last": 1, "previous": 1}
FORMS = {
    "squared": LossForm(),
    "squared with dropout": LossForm(keep=0.9),
    "cross_entropy": LossForm(name="cross_entropy"),
}


@dataclass(frozen=True)
class Attention:
    """What a layer's attention is computed from, of the guided heads; see `row_terms` for the shapes."""

    query: torch.Tensor
    key: torch.Tensor
    scaling: float = 8**-0.5
    mask: torch.Tensor | None = None
    spans: torch.Tensor | None = None

    def with_changes(self, **changes: object) -> "Attention":
        return replace(self, **changes)


@dataclass(frozen=True)
class Outcome:
    """Of counted rows, 0 for others: errors and mass (B, H, R); gradients of a weighted sum of the errors."""

    errors: torch.Tensor
    mass: torch.Tensor
    query_grad: torch.Tensor
    key_grad: torch.Tensor


def random_rows(pieces: list[list[int]], size: int = SIZE, seed: int = 0) -> Rows:
    """Rows of ids 0 to 9: long documents have delimiters and sentence ends, short ones may lack some."""
    generator = torch.Generator().manual_seed(seed)
    return Rows(torch.randint(0, 10, (len(pieces), size), generator=generator), pieces)


def full_rows(batch: int, size: int) -> Rows:
    """Rows of one document each without padding."""
    return random_rows([[size]] * batch, size)


def documents_of(rows: Rows) -> Documents:
    bounds = [
        [rows.document_of(index, place) for place in range(rows.size)] for index in range(len(rows.pieces))
    ]
    return Documents(
        starts=torch.tensor([[document.start for document in row] for row in bounds], dtype=torch.int32),
        ends=torch.tensor([[document.stop for document in row] for row in bounds], dtype=torch.int32),
    )


def one_layer(heads: dict[str, int]) -> Allocation:
    return allocate([heads], TOKEN_SETS)


def schedule_of(**changes: object) -> GuidanceSchedule:
    """A hundred steps of two layers: whole to step 40, sampled as soon as the patterns have formed."""
    settings = {
        "weight": 2.0,
        "plateau_steps": 40,
        "end_step": 100,
        "layers": (0, 1),
        "dense_steps": None,
        "layers_per_step": 1,
        "seed": 1,
    }
    return GuidanceSchedule(**(settings | changes))


def layers_of(guided: GuidedStep) -> tuple[int, ...]:
    """Layers looked at."""
    return tuple(layer.layer for layer in guided.layers)


def targets_of(heads: dict[str, int], rows: Rows, published: bool = False) -> Targets:
    return make_targets(one_layer(heads).patterns, rows.ids, documents_of(rows), published)


def random_attention(
    heads: dict[str, int], rows: Rows, seed: int = 0, spread: float = 1.0, dim: int = 8
) -> Attention:
    """Scores of a size of about `spread`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(rows.pieces), len(heads_in_order(heads)), rows.size, dim)
    query, key = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    return Attention(query * spread, key, dim**-0.5)


def attention_of_scores(scores: torch.Tensor) -> Attention:
    """Scores (B, H, N, N) as they are: keys are unit vectors, so the query's gradient is the scores'."""
    return Attention(scores, torch.eye(scores.shape[-1]).expand_as(scores).contiguous(), scaling=1.0)


def inputs_of(
    attention: Attention,
    heads: dict[str, int],
    rows: Rows,
    form: LossForm | None = None,
    first_row: int = 0,
    stride: int = 1,
) -> RowInputs:
    """As the operator and its implementations take them."""
    form, targets = form or LossForm(), targets_of(heads, rows)
    return RowInputs(
        attention.query, attention.key, attention.mask, targets.single, targets.columns,
        targets.documents.starts, targets.documents.ends, attention.spans, first_row,
        one_layer(heads).pattern_of_head(0), attention.scaling, form.keep, form.name, stride,
    )  # fmt: skip


def run_operator(
    attention: Attention,
    heads: dict[str, int],
    rows: Rows,
    form: LossForm | None = None,
    *,
    first_row: int | torch.Tensor = 0,
    stride: int = 1,
    published: bool = False,
) -> Outcome:
    query, key = attention.query.clone().requires_grad_(), attention.key.clone().requires_grad_()
    targets, pattern_of_head = targets_of(heads, rows, published), one_layer(heads).pattern_of_head(0)
    errors, mass = row_terms(
        query, key, attention.scaling, attention.mask, targets, pattern_of_head, form or LossForm(),
        first_row, stride, attention.spans,
    )  # fmt: skip
    counted = targets.valid[pattern_of_head].transpose(0, 1)[:, :, first_row::stride]
    missing = (0, errors.shape[-1] - counted.shape[-1])  # rows beyond the last, see row_terms
    counted = torch.nn.functional.pad(counted, missing, value=True)
    weights = row_weights(rows, errors.shape[1])[:, :, first_row::stride]
    errors, mass = torch.where(counted, errors, 0.0), torch.where(counted, mass, 0.0)
    (errors * torch.nn.functional.pad(weights, missing, value=1.0)).sum().backward()
    return Outcome(errors.detach(), mass, query.grad, key.grad)


def run_dense(
    attention: Attention,
    heads: dict[str, int],
    rows: Rows,
    form: LossForm | None = None,
    *,
    first_row: int = 0,
    stride: int = 1,
    published: bool = False,
) -> Outcome:
    """The same by the formulas."""
    form = form or LossForm()
    query, key = attention.query.double().requires_grad_(), attention.key.double().requires_grad_()
    log_probs = log_attention(query, key, attention.scaling, attention.mask)
    errors, mass, counted = (
        values[:, :, first_row::stride]
        for values in terms(log_probs, heads, rows, form=form.name, keep=form.keep, published=published)
    )
    errors, mass = torch.where(counted, errors, 0.0), torch.where(counted, mass, 0.0)
    (errors * row_weights(rows, errors.shape[1])[:, :, first_row::stride]).sum().backward()
    return Outcome(errors.detach(), mass.detach(), query.grad, key.grad)


def row_weights(rows: Rows, num_heads: int) -> torch.Tensor:
    """Weights of the rows' errors, of both signs, (B, H, N): no two rows pull alike."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(rows.pieces), num_heads, rows.size, generator=generator)


def assert_equal_to_rounding(found: Outcome, expected: Outcome, tolerance: float = 1e-5) -> None:
    """Each of the four differs by at most `tolerance` of its norm."""
    for name, value in vars(expected).items():
        difference = (getattr(found, name).double() - value).norm().item()
        assert difference <= tolerance * max(value.norm().item(), 1e-6), f"{name}: {difference}"


def key_padding(rows: Rows) -> torch.Tensor:
    """True where a key is a real token, (B, 1, 1, N)."""
    return (torch.arange(rows.size) < torch.tensor(rows.lengths)[:, None])[:, None, None]


def masks(rows: Rows) -> dict[str, torch.Tensor | None]:
    """Every form of mask a model may hand over."""
    keys = key_padding(rows)
    square = keys.expand(-1, 1, rows.size, rows.size)
    return {
        "none": None,
        "bool (B,1,1,N)": keys,
        "bool (B,1,N,N)": square,
        "additive -inf": torch.zeros(square.shape).masked_fill(~square, -torch.inf),
        "additive lowest": torch.zeros(keys.shape).masked_fill(~keys, torch.finfo(torch.float32).min),
        "additive bf16": torch.zeros(square.shape, dtype=torch.bfloat16).masked_fill(
            ~square, torch.finfo(torch.bfloat16).min
        ),
        "additive by row": 3.0 * torch.sin(torch.arange(rows.size**2.0)).reshape(1, 1, rows.size, rows.size),
    }
