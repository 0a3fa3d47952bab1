"""The operator at values that are known beforehand: uniform, padded, dropped out, slightly moved."""

import pytest
import torch

from pipeline.guidance.row_terms import LossForm, row_terms
from tests.pipeline.guidance.cases import (
    FORMS,
    MIX,
    PIECES,
    Attention,
    attention_of_scores,
    full_rows,
    key_padding,
    random_attention,
    random_rows,
    row_weights,
    run_operator,
    targets_of,
)
from tests.pipeline.guidance.dense import Rows, heads_in_order, log_attention, target_matrices

ROWS = random_rows(PIECES)

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("pattern", ["next", "previous", "self", "first"])
def test_uniform_attention_gives_the_published_magnitudes(pattern: str, size: int) -> None:
    """1 - 1/n per row; as the authors' mean over n x n elements, rows without a target kept, about 1/n."""
    rows = full_rows(1, size)
    attention = random_attention({pattern: 1}, rows, spread=0.0)
    published = {64: 0.0152, 128: 0.0077, 256: 0.0039, 512: 0.00195}[size]

    ours = run_operator(attention, {pattern: 1}, rows).errors
    theirs = run_operator(attention, {pattern: 1}, rows, published=True).errors

    num_valid = size - 1 if pattern in ("next", "previous") else size
    assert ours.sum().item() / num_valid == pytest.approx(1 - 1 / size, rel=1e-5)
    assert theirs.sum().item() / size**2 == pytest.approx(published, rel=0.02)
    uniform = torch.full((size, size), 1 / size, dtype=torch.float64)
    dense = torch.nn.functional.mse_loss(uniform, target_matrices(pattern, rows, published=True)[0])
    assert theirs.sum().item() / size**2 == pytest.approx(dense.item(), rel=1e-5)


@pytest.mark.parametrize(("form", "pull"), [("squared", -2 / 512), ("cross_entropy", -1.0)])
def test_the_pull_on_a_uniform_row(form: str, pull: float) -> None:
    """Gradient of a row's error with respect to its target's score."""
    size = 512
    attention = attention_of_scores(torch.zeros(1, 1, size, size))
    query = attention.query.requires_grad_()

    errors, _ = row_terms(
        query, attention.key, 1.0, None, targets_of({"first": 1}, full_rows(1, size)), [0], FORMS[form]
    )
    errors.sum().backward()

    assert query.grad[0, 0, :, 0].mean().item() == pytest.approx(pull, rel=0.01)


@every_form
def test_padding_neither_counts_nor_pulls(form: LossForm) -> None:
    """Whatever stands in the padding, errors and gradients are those of the sequences alone."""
    attention = random_attention(MIX, ROWS).with_changes(mask=key_padding(ROWS))
    is_padding = ~key_padding(ROWS).transpose(-1, -2)
    other = attention.with_changes(
        query=attention.query + 3.0 * is_padding, key=attention.key - 2.0 * is_padding
    )

    found, expected = (vars(run_operator(case, MIX, ROWS, form)) for case in (other, attention))

    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    for gradient in (found["query_grad"], found["key_grad"]):
        assert gradient.masked_select(is_padding).abs().max() == 0.0
        assert gradient.abs().max() > 0.0


def test_one_pattern_does_not_see_anothers_heads() -> None:
    attention = random_attention(MIX, ROWS)

    together = run_operator(attention, MIX, ROWS)

    for head, pattern in enumerate(heads_in_order(MIX)):
        alone = attention.with_changes(
            query=attention.query[:, head : head + 1], key=attention.key[:, head : head + 1]
        )
        found = run_operator(alone, {pattern: 1}, ROWS)
        torch.testing.assert_close(found.errors[:, 0], together.errors[:, head], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.mass[:, 0], together.mass[:, head], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("pattern", ["next", "delimiters"])
def test_dropout_is_taken_at_its_mean(pattern: str, published: bool) -> None:
    """The published error has a draw of attention dropout; over many draws its mean is ours.

    Per row the distance is at most five standard errors of 20 000 draws, and these tell it from the error
    without dropout.
    """
    rate, draws, rows = 0.1, 20_000, random_rows([[8], [5, 3]], 8)
    attention = random_attention({pattern: 1}, rows, spread=4.0)
    probs = log_attention(attention.query, attention.key, attention.scaling, None)[:, 0].exp()
    target = target_matrices(pattern, rows, published)
    torch.manual_seed(0)
    kept = torch.rand(draws, *probs.shape) >= rate
    drawn = ((probs * kept / (1.0 - rate) - target) ** 2).sum(-1)

    form = LossForm(keep=1.0 - rate)
    found = run_operator(attention, {pattern: 1}, rows, form, published=published).errors[:, 0]

    counted = found != 0.0
    assert counted.sum() == (16 if published else (target.sum(-1) > 0).sum())
    standard_error = drawn.std(0) / draws**0.5
    assert ((drawn.mean(0) - found).abs() <= 5 * standard_error)[counted].all()
    without = run_operator(attention, {pattern: 1}, rows, published=published).errors[:, 0]
    assert ((drawn.mean(0) - without).abs() > 10 * standard_error)[counted].all()


@pytest.mark.parametrize(
    ("form", "published"),
    [*((name, False) for name in FORMS), ("squared", True), ("squared with dropout", True)],
)
def test_gradient_agrees_with_finite_differences(form: str, published: bool) -> None:
    """A check that shares no formula with the others, along a random direction of query and key."""
    attention = random_attention(MIX, ROWS)
    torch.manual_seed(1)
    query_way, key_way = torch.randn_like(attention.query), torch.randn_like(attention.key)
    at = run_operator(attention, MIX, ROWS, FORMS[form], published=published)
    expected = (at.query_grad * query_way).sum() + (at.key_grad * key_way).sum()

    slope = _slope(attention, (query_way, key_way), ROWS, FORMS[form], published)

    assert slope == pytest.approx(expected.item(), rel=1e-2)
    assert abs(slope) > 0.1


def _slope(
    attention: Attention,
    ways: tuple[torch.Tensor, torch.Tensor],
    rows: Rows,
    form: LossForm,
    published: bool,
    step: float = 1e-2,
) -> float:
    """Of the weighted sum of errors that `run_operator` differentiates, by a central difference."""
    values = []
    for sign in (1, -1):
        moved = attention.with_changes(
            query=attention.query + sign * step * ways[0], key=attention.key + sign * step * ways[1]
        )
        values.append(_weighted_errors(moved, rows, form, published))
    return (values[0] - values[1]) / (2 * step)


def _weighted_errors(attention: Attention, rows: Rows, form: LossForm, published: bool) -> float:
    errors = run_operator(attention, MIX, rows, form, published=published).errors
    return (errors.double() * row_weights(rows, errors.shape[1])).sum().item()
