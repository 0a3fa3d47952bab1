"""The operator where digits are hard to keep: attention almost wholly on one key, and scores of any size."""

from collections.abc import Iterator
from decimal import Decimal, localcontext

import pytest
import torch

from pipeline.guidance.row_terms import LossForm, row_terms
from tests.pipeline.guidance.cases import (
    FORMS,
    MIX,
    PIECES,
    Attention,
    assert_equal_to_rounding,
    attention_of_scores,
    full_rows,
    key_padding,
    masks,
    one_layer,
    random_attention,
    random_rows,
    run_dense,
    run_operator,
    targets_of,
)
from tests.pipeline.guidance.dense import heads_in_order, target_matrices

ROWS = random_rows(PIECES)
CROSS_ENTROPY = FORMS["cross_entropy"]

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def exact_row(scores: list[float], target: list[float], form: LossForm) -> tuple[float, torch.Tensor, float]:
    """A row's error, its gradient with respect to the scores, and the attention off its largest one."""
    with localcontext() as context:
        context.prec = 300
        weights = [Decimal(score).exp() for score in scores]
        probs = [weight / sum(weights) for weight in weights]
        wanted, keep = [Decimal(value) for value in target], Decimal(form.keep)
        if form.name == "squared":
            errors = [a * a / keep - 2 * a * p + p * p for a, p in zip(probs, wanted)]
            slopes = [2 * (a / keep - p) for a, p in zip(probs, wanted)]  # with respect to the attention
            error = sum(errors)
        else:
            mass = sum(a for a, p in zip(probs, wanted) if p > 0)
            slopes = [-1 / mass if p > 0 else Decimal(0) for p in wanted]
            error = -mass.ln()
        mean = sum(a * slope for a, slope in zip(probs, slopes))
        gradient = [float(a * (slope - mean)) for a, slope in zip(probs, slopes)]
        return float(error), torch.tensor(gradient, dtype=torch.float64), float(1 - max(probs))


def saturated_rows(
    pattern: str, form: LossForm, gap: int, on_target: bool = True
) -> Iterator[tuple[float, torch.Tensor, tuple[float, torch.Tensor, float]]]:
    """Error and gradient of rows with a target, as found, and what `exact_row` says.

    Scores are whole, 0 to 4, and `gap` more at one target or at one other key.
    """
    rows = full_rows(1, 12)
    target = target_matrices(pattern, rows)[0]
    pointed = (target > 0) == on_target
    peak = torch.zeros(12, 12).scatter_(-1, pointed.float().argmax(-1, keepdim=True), gap)
    scores = torch.randint(0, 5, (12, 12), generator=torch.Generator().manual_seed(2)) + peak
    attention = attention_of_scores(scores[None, None])
    query = attention.query.requires_grad_()

    errors, _ = row_terms(query, attention.key, 1.0, None, targets_of({pattern: 1}, rows), [0], form)
    errors.sum().backward()

    for row in torch.nonzero(target.sum(-1))[::3, 0].tolist():
        exact = exact_row(scores[row].tolist(), target[row].tolist(), form)
        yield errors[0, 0, row].item(), query.grad[0, 0, row].double(), exact


@every_form
@pytest.mark.parametrize("gap", [2, 8, 16, 32, 300])
@pytest.mark.parametrize("pattern", ["next", "first", "delimiters"])
@pytest.mark.parametrize("on_target", [True, False], ids=["on target", "off target"])
def test_saturated_rows_keep_their_digits(pattern: str, on_target: bool, gap: int, form: LossForm) -> None:
    """Row by row: errors to 1e-7 of one, gradients to 1e-7 of what attention lies off the largest."""
    lost = 2e-6 if pattern == "delimiters" and form is CROSS_ENTROPY else 1e-35

    for found, found_gradient, (error, gradient, off) in saturated_rows(pattern, form, gap, on_target):
        assert found == pytest.approx(error, rel=1e-5, abs=2e-7)
        assert (found_gradient - gradient).norm() <= 1e-5 * gradient.norm() + 4e-7 * off + lost


@pytest.mark.parametrize("pattern", ["next", "first"])
def test_tiny_squared_errors_keep_their_digits(pattern: str) -> None:
    for found, _, (error, *_) in saturated_rows(pattern, FORMS["squared"], gap=16):
        assert found == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("pattern", "form"), [("next", "squared"), ("first", "squared"), ("delimiters", "cross_entropy")]
)
@pytest.mark.parametrize("gap", [8, 16])
def test_tiny_pulls_keep_their_digits(pattern: str, form: str, gap: int) -> None:
    for _, found, (_, gradient, _) in saturated_rows(pattern, FORMS[form], gap):
        assert (found - gradient).norm() <= 1e-5 * gradient.norm()


@every_form
@pytest.mark.parametrize("spread", [1, 16, 64, 2048])
@pytest.mark.parametrize("mask", ["none", "bool (B,1,N,N)", "additive -inf"])
def test_scores_of_any_size(mask: str, spread: int, form: LossForm) -> None:
    """Whole queries and keys, so that float32 has the scores exactly; the largest are above 1e4.

    What is kept of a row between the passes is its logsumexp, whose rounding goes with its size; gradients
    have it, errors and mass have not.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(PIECES), len(heads_in_order(MIX)), ROWS.size, 8)
    query, key = (torch.randint(-4, 5, shape, generator=generator).float() for _ in range(2))
    attention = Attention(query * spread, key, 1 / 16, masks(ROWS)[mask])
    largest = (attention.query @ key.transpose(-1, -2) / 16).abs().max().item()
    assert (largest > 1e4) == (spread == 2048)

    found, expected = run_operator(attention, MIX, ROWS, form), run_dense(attention, MIX, ROWS, form)

    assert all(torch.isfinite(values).all() for values in vars(found).values())
    assert_equal_to_rounding(found, expected, tolerance=max(1e-5, 5e-7 * largest))
    torch.testing.assert_close(found.errors.double(), expected.errors, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.mass.double(), expected.mass, rtol=1e-6, atol=1e-7)


@every_form
def test_rows_that_do_not_count_have_numbers_too(form: LossForm) -> None:
    """They are multiplied by zero."""
    attention = random_attention(MIX, ROWS, spread=1000.0).with_changes(mask=key_padding(ROWS))
    query = attention.query.clone().requires_grad_()

    errors, mass = row_terms(
        query, attention.key, attention.scaling, attention.mask, targets_of(MIX, ROWS),
        one_layer(MIX).pattern_of_head(0), form,
    )  # fmt: skip
    errors.sum().backward()

    assert all(torch.isfinite(values).all() for values in (errors, mass, query.grad))


@pytest.mark.parametrize("gap", [60, 80, 83, 85, 87, 88, 100, 1000])
def test_cross_entropy_of_a_target_far_below_hundreds_of_other_keys(gap: int) -> None:
    size = 512
    scores = torch.zeros(1, 1, size, size)
    scores[..., 0] = -gap

    found = run_operator(attention_of_scores(scores), {"first": 1}, full_rows(1, size), CROSS_ENTROPY)

    expected = gap + torch.tensor(size - 1.0).log()
    torch.testing.assert_close(found.errors, expected.expand(1, 1, size), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("pattern", ["next", "first", "delimiters"])
@pytest.mark.parametrize("form", ["squared", "cross_entropy"])
def test_attention_wholly_on_target_has_no_error_and_no_pull(pattern: str, form: str) -> None:
    rows = full_rows(1, 16)
    target = target_matrices(pattern, rows)

    found = run_operator(
        attention_of_scores((100.0 * (target > 0)).float()[:, None]), {pattern: 1}, rows, FORMS[form]
    )

    assert found.errors.abs().max() < 1e-10
    assert found.mass.sum().item() == pytest.approx(15 if pattern == "next" else 16)
    assert found.query_grad.abs().max() < 1e-10


def test_attention_wholly_on_a_wrong_key_costs_two() -> None:
    rows, gap = full_rows(1, 16), 60.0
    looking_at_itself = attention_of_scores(gap * torch.eye(16)[None, None])

    squared = run_operator(looking_at_itself, {"next": 1}, rows)
    entropy = run_operator(looking_at_itself, {"next": 1}, rows, CROSS_ENTROPY)

    assert squared.errors[0, 0].tolist() == [2.0] * 15 + [0.0]  # the last has no next one
    assert entropy.errors[0, 0].tolist() == pytest.approx([gap] * 15 + [0.0])
    assert squared.mass.max() < 1e-20
