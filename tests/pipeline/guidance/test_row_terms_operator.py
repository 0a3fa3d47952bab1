"""The operator as part of autograd and of torch.compile: what it keeps, what it tells, how it is traced."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from pipeline.guidance import row_terms as module
from pipeline.guidance.row_terms import LossForm, row_terms
from pipeline.guidance.timer import CLOCK
from tests.pipeline.guidance.cases import (
    FORMS,
    MIX,
    PIECES,
    Attention,
    assert_equal_to_rounding,
    inputs_of,
    masks,
    one_layer,
    random_attention,
    random_rows,
    row_weights,
    run_dense,
    run_operator,
    targets_of,
)

ROWS = random_rows(PIECES)
SMALL_ROWS = random_rows([[9], [4, 3]], 9)
SMALL_MIX = {"next": 1, "delimiters": 2, "first": 1}

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def operator_arguments(
    attention: Attention, form: LossForm, first_row: int = 0, stride: int = 1
) -> tuple[object, ...]:
    query, key = attention.query.requires_grad_(), attention.key.requires_grad_()
    shown = attention.with_changes(query=query, key=key)
    inputs = inputs_of(shown, SMALL_MIX, SMALL_ROWS, form, first_row, stride)
    return (*inputs._replace(first_row=torch.tensor(first_row)), -(-SMALL_ROWS.size // stride))


def as_models_hand_it_over(attention: Attention) -> Attention:
    """The first heads of query and key that are laid out (B, N, H, D)."""
    changes = {}
    for name in ("query", "key"):
        value = getattr(attention, name)
        padded = torch.cat([value, value], 1).transpose(1, 2).contiguous().transpose(1, 2)
        changes[name] = padded[:, : value.shape[1]].detach()
        assert not changes[name].is_contiguous()
    return attention.with_changes(**changes)


@every_form
def test_layout_in_memory_does_not_matter(form: LossForm) -> None:
    attention = as_models_hand_it_over(random_attention(MIX, ROWS))

    assert_equal_to_rounding(run_operator(attention, MIX, ROWS, form), run_dense(attention, MIX, ROWS, form))


def test_mass_is_only_watched() -> None:
    attention = random_attention(MIX, ROWS)

    errors, mass = row_terms(
        attention.query.requires_grad_(), attention.key, attention.scaling, None, targets_of(MIX, ROWS),
        one_layer(MIX).pattern_of_head(0), LossForm(),
    )  # fmt: skip

    assert errors.requires_grad
    assert not mass.requires_grad


@every_form
def test_no_square_matrix_is_kept_for_the_backward_pass(form: LossForm) -> None:
    saved: list[torch.Tensor] = []
    attention, targets = random_attention(MIX, ROWS), targets_of(MIX, ROWS)
    query, key = attention.query.requires_grad_(), attention.key.requires_grad_()

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (saved.append(tensor), tensor)[1], lambda t: t
    ):
        row_terms(query, key, 1.0, None, targets, one_layer(MIX).pattern_of_head(0), form)

    per_row = sum(t.numel() for t in saved) - query.numel() - key.numel()
    assert max(t.numel() for t in saved) == query.numel()
    num_patterns = len(targets.valid)
    # Per row of a head: its error, four numbers and a column; per row of a sequence: targets and document.
    assert 0 < per_row <= ROWS.ids.numel() * (6 * query.shape[1] + num_patterns + 2)


def test_nothing_outlives_the_backward_pass() -> None:
    """Query and key are as large as the layer's activations: the graph must let them go."""
    attention, targets = random_attention(MIX, ROWS), targets_of(MIX, ROWS)
    query = attention.query.clone().requires_grad_() * 1.0
    key = attention.key.clone().requires_grad_() * 1.0
    kept = [StorageWeakRef(tensor.untyped_storage()) for tensor in (query, key)]

    errors, _ = row_terms(query, key, 1.0, None, targets, one_layer(MIX).pattern_of_head(0), LossForm())
    assert not any(reference.expired() for reference in kept)
    errors.sum().backward()
    del query, key

    assert all(reference.expired() for reference in kept)


@pytest.mark.parametrize("wanted", ["query", "key"])
def test_gradient_of_one_of_the_two_alone(wanted: str) -> None:
    attention = random_attention(MIX, ROWS)
    both = run_operator(attention, MIX, ROWS)
    getattr(attention, wanted).requires_grad_()

    errors, _ = row_terms(
        attention.query, attention.key, attention.scaling, None, targets := targets_of(MIX, ROWS),
        heads := one_layer(MIX).pattern_of_head(0), LossForm(),
    )  # fmt: skip
    (errors * row_weights(ROWS, 8) * targets.valid[heads].transpose(0, 1)).sum().backward()

    assert torch.equal(getattr(attention, wanted).grad, getattr(both, f"{wanted}_grad"))


def test_time_spent_is_measured_in_both_passes() -> None:
    attention, targets = random_attention(MIX, ROWS), targets_of(MIX, ROWS)
    CLOCK.take()

    errors, _ = row_terms(
        attention.query.requires_grad_(), attention.key, 1.0, None, targets,
        one_layer(MIX).pattern_of_head(0), LossForm(),
    )  # fmt: skip
    forward_seconds = CLOCK.take()
    errors.sum().backward()

    assert forward_seconds > 0.0
    assert CLOCK.take() > 0.0
    assert CLOCK.take() == 0.0


@pytest.mark.parametrize(
    ("mask", "form"),
    [
        ("none", "squared"),
        ("bool (B,1,1,N)", "squared with dropout"),
        ("additive lowest", "squared"),
        ("none", "cross_entropy"),
    ],
)
def test_operator_is_registered_as_torch_requires(mask: str, form: str) -> None:
    """Schema, gradient, shapes and strides without data, and tracing, for a layout as of models."""
    attention = as_models_hand_it_over(random_attention(SMALL_MIX, SMALL_ROWS))
    attention = attention.with_changes(mask=masks(SMALL_ROWS)[mask])

    for first_row, stride in [(0, 1), (2, 3)]:
        arguments = operator_arguments(attention, FORMS[form], first_row, stride)
        torch.library.opcheck(module._row_terms, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_operator_is_registered_as_torch_requires(dtype: torch.dtype) -> None:
    attention = as_models_hand_it_over(random_attention(SMALL_MIX, SMALL_ROWS))
    attention = attention.with_changes(query=attention.query.to(dtype), key=attention.key.to(dtype))
    arguments = operator_arguments(attention, FORMS["squared"], 2, 3)
    with torch.no_grad():
        errors, _, kept, peak = module._row_terms(*arguments)

    saved = (errors, kept, peak, attention.query.detach(), attention.key.detach())
    torch.library.opcheck(
        module._row_terms_backward,
        (torch.ones_like(errors), *saved, *arguments[2:]),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("form", ["squared", "squared with dropout", "cross_entropy"])
def test_every_output_is_filled(form: str) -> None:
    attention = random_attention(SMALL_MIX, SMALL_ROWS)
    torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN
    try:
        outputs = module._row_terms(*operator_arguments(attention, FORMS[form]))
    finally:
        torch.use_deterministic_algorithms(False)

    assert all(torch.isfinite(output).all() for output in outputs)


@every_form
def test_compiled_in_one_graph_it_is_the_same(form: LossForm) -> None:
    rows, heads = SMALL_ROWS, one_layer(SMALL_MIX).pattern_of_head(0)
    targets, weights = targets_of(SMALL_MIX, rows), row_weights(rows, 4)
    counted = targets.valid[heads].transpose(0, 1)
    attention = random_attention(SMALL_MIX, rows)

    def loss_of(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        errors, mass = row_terms(query * 1.5, key, 0.5, None, targets, heads, form, 1, 2)
        return (torch.where(counted, weights, 0.0)[:, :, 1::2] * (errors + mass)).sum().sin()

    torch.compiler.reset()
    found = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        query, key = attention.query.clone().requires_grad_(), attention.key.clone().requires_grad_()
        loss = function(query, key)
        loss.backward()
        found.append((loss.detach(), query.grad, key.grad))

    for plain, compiled in zip(*found):
        torch.testing.assert_close(plain, compiled)
        assert plain.abs().max() > 0.0
