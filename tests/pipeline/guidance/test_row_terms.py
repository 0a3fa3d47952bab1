"""The operator against the formulas of dense.py, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encoder.attention_scope import inside_window, spans_mask
from pipeline.guidance import row_terms_cpu
from pipeline.guidance.row_terms import LossForm
from tests.pipeline.guidance.cases import (
    FORMS,
    MIX,
    PIECES,
    SIZE,
    assert_equal_to_rounding,
    documents_of,
    full_rows,
    inputs_of,
    key_padding,
    masks,
    random_attention,
    random_rows,
    run_dense,
    run_operator,
)
from tests.pipeline.guidance.dense import Rows, heads_in_order

ROWS = random_rows(PIECES)

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
every_mask = pytest.mark.parametrize("mask", list(masks(ROWS)))
every_pattern = pytest.mark.parametrize(
    "heads",
    [
        {"next": 1},
        {"previous": 1},
        {"self": 1},
        {"first": 1},
        {"last": 1},
        {"offset+3": 1},
        {"offset-2": 2},
        {"offset-36": 1},
        {"delimiters": 1},
        {"sentence_ends": 2},
        {"delimiters": 1, "sentence_ends": 1},
        MIX,
    ],
    ids=lambda heads: "_".join(heads),
)


@pytest.fixture(params=[1, 4 * 8 * SIZE * 20, 1 << 20], ids=["16 rows", "20 rows", "all rows"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Scores per block, so that a layer takes three, two and one."""
    monkeypatch.setattr(row_terms_cpu, "_BLOCK_ELEMENTS", request.param)
    return request.param


@every_pattern
@every_form
def test_equals_the_dense_formula(heads: dict[str, int], form: LossForm) -> None:
    attention = random_attention(heads, ROWS).with_changes(mask=key_padding(ROWS))

    found, expected = run_operator(attention, heads, ROWS, form), run_dense(attention, heads, ROWS, form)

    assert_equal_to_rounding(found, expected)
    torch.testing.assert_close(found.errors.double(), expected.errors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.mass.double(), expected.mass, rtol=1e-5, atol=1e-6)
    assert expected.errors.count_nonzero() > 0


@every_mask
@every_form
def test_every_mask_equals_the_dense_formula(mask: str, form: LossForm) -> None:
    attention = random_attention(MIX, ROWS).with_changes(mask=masks(ROWS)[mask])

    assert_equal_to_rounding(run_operator(attention, MIX, ROWS, form), run_dense(attention, MIX, ROWS, form))


@pytest.mark.parametrize(("limit", "num_blocks"), [(1, 3), (4 * 8 * SIZE * 20, 2), (1 << 20, 1)])
def test_no_more_scores_than_a_block_holds(
    limit: int, num_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But at least 16 rows."""
    monkeypatch.setattr(row_terms_cpu, "_BLOCK_ELEMENTS", limit)
    attention = random_attention(MIX, ROWS)

    blocks = row_terms_cpu._score_blocks(inputs_of(attention, MIX, ROWS))
    sizes = [scores.numel() for _, scores in blocks]

    assert len(sizes) == num_blocks
    assert max(sizes) <= max(limit, 4 * 8 * SIZE * 16)
    assert sum(sizes) == 4 * 8 * SIZE * SIZE


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("mask", ["none", "bool (B,1,N,N)", "additive lowest", "additive by row"])
@every_form
def test_block_size_does_not_matter(mask: str, form: LossForm) -> None:
    attention = random_attention(MIX, ROWS).with_changes(mask=masks(ROWS)[mask])

    for first_row, stride in [(0, 1), (1, 2)]:
        place = {"first_row": first_row, "stride": stride}
        assert_equal_to_rounding(
            run_operator(attention, MIX, ROWS, form, **place), run_dense(attention, MIX, ROWS, form, **place)
        )


@pytest.mark.parametrize(("first_row", "stride"), [(3, 1), (0, 4), (3, 4), (36, 37), (5, 100), (40, 64)])
@pytest.mark.parametrize("mask", ["bool (B,1,N,N)", "additive by row"])
@every_form
def test_sampled_rows_equal_those_of_the_dense_formula(
    first_row: int, stride: int, mask: str, form: LossForm
) -> None:
    """The last of them lies beyond the sequence: no row at all."""
    attention = random_attention(MIX, ROWS).with_changes(mask=masks(ROWS)[mask])
    place = {"first_row": first_row, "stride": stride}

    found = run_operator(attention, MIX, ROWS, form, **place)

    assert found.errors.shape == (4, 8, len(range(first_row, SIZE, stride)))
    assert_equal_to_rounding(found, run_dense(attention, MIX, ROWS, form, **place))


@every_pattern
@pytest.mark.parametrize("keep", [1.0, 0.9])
@pytest.mark.parametrize("mask", ["none", "bool (B,1,1,N)"])
def test_published_conventions_equal_the_dense_formula(heads: dict[str, int], keep: float, mask: str) -> None:
    """Rows without a target, padding and several ones in a row, all count; documents do not."""
    attention = random_attention(heads, ROWS).with_changes(mask=masks(ROWS)[mask])
    form = LossForm(keep=keep)

    found = run_operator(attention, heads, ROWS, form, published=True)

    assert_equal_to_rounding(found, run_dense(attention, heads, ROWS, form, published=True))


def local_window() -> torch.Tensor:
    """True where a real key is at most four places away, (B, 1, N, N): for padded rows there may be none."""
    places = torch.arange(SIZE)
    return key_padding(ROWS) & ((places[:, None] - places[None]).abs() <= 4)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("lowest", [None, -torch.inf, torch.finfo(torch.float32).min])
@every_form
def test_rows_in_the_padding_that_may_attend_to_nothing_do_no_harm(
    form: LossForm, lowest: float | None
) -> None:
    heads, window = {"next": 1, "previous": 1, "offset+3": 1}, local_window()
    mask = window if lowest is None else torch.zeros(window.shape).masked_fill(~window, lowest)
    attention = random_attention(heads, ROWS).with_changes(mask=mask)

    found = run_operator(attention, heads, ROWS, form)

    assert all(torch.isfinite(values).all() for values in vars(found).values())
    assert_equal_to_rounding(found, run_dense(attention, heads, ROWS, form))


def test_published_rows_that_may_attend_to_nothing_pull_nothing() -> None:
    """They count, but nothing their query or any key does can change them."""
    heads = {"next": 1, "previous": 1, "offset+3": 1}
    attention = random_attention(heads, ROWS).with_changes(mask=local_window())

    found = run_operator(attention, heads, ROWS, published=True)

    alone = ~local_window().any(-1)[..., None].expand_as(attention.query)
    assert alone.any()
    assert found.query_grad[alone].abs().max() == 0.0


@every_form
def test_bfloat16_inputs_lose_only_their_own_digits(form: LossForm) -> None:
    attention = random_attention(MIX, ROWS).with_changes(mask=key_padding(ROWS))
    rounded = attention.with_changes(query=attention.query.bfloat16(), key=attention.key.bfloat16())

    found, expected = run_operator(rounded, MIX, ROWS, form), run_dense(rounded, MIX, ROWS, form)

    assert found.errors.dtype == found.mass.dtype == torch.float32
    assert found.query_grad.dtype == found.key_grad.dtype == torch.bfloat16
    torch.testing.assert_close(found.errors.double(), expected.errors, rtol=1e-5, atol=1e-6)
    assert_equal_to_rounding(found, expected, tolerance=1e-2)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17])
@every_form
def test_short_sequences(size: int, form: LossForm) -> None:
    rows = random_rows([[size], [max(1, size - 1)], [1], [1] * size], size)
    attention = random_attention(MIX, rows)

    assert_equal_to_rounding(run_operator(attention, MIX, rows, form), run_dense(attention, MIX, rows, form))


@every_form
def test_a_single_token_has_nothing_to_learn(form: LossForm) -> None:
    heads, rows = {"next": 1, "self": 1, "first": 1, "last": 1}, full_rows(1, 1)

    found = run_operator(random_attention(heads, rows), heads, rows, form)

    # There is no next token, and all attention is where the others want it.
    assert found.mass.flatten().tolist() == [0.0, 1.0, 1.0, 1.0]
    at_least = 1.0 / form.keep - 1.0  # what dropout costs
    assert found.errors.flatten().tolist() == pytest.approx([0.0, *[at_least] * 3])
    assert found.query_grad.abs().max() == found.key_grad.abs().max() == 0.0


@st.composite
def any_case(draw: st.DrawFn) -> tuple[Rows, dict[str, int], LossForm, dict[str, int], str]:
    size = draw(st.integers(1, 24))
    pieces = []
    for _ in range(draw(st.integers(1, 3))):
        left, lengths = draw(st.integers(1, size)), []
        while left:
            lengths.append(draw(st.integers(1, left)))
            left -= lengths[-1]
        pieces.append(lengths)
    rows = random_rows(pieces, size, seed=draw(st.integers(0, 1000)))
    names = st.sampled_from([*MIX, "self", "offset-2"])
    heads = draw(st.dictionaries(names, st.integers(1, 2), min_size=1, max_size=4))
    stride = draw(st.integers(1, 5))
    place = {"first_row": draw(st.integers(0, stride - 1)), "stride": stride}
    form = draw(st.sampled_from(list(FORMS.values())))
    return rows, heads, form, place, draw(st.sampled_from(list(masks(rows))))


@given(any_case())
@settings(max_examples=60)
def test_any_rows_heads_form_and_mask_together(
    case: tuple[Rows, dict[str, int], LossForm, dict[str, int], str],
) -> None:
    rows, heads, form, place, mask = case
    attention = random_attention(heads, rows, spread=3.0).with_changes(mask=masks(rows)[mask])

    found = run_operator(attention, heads, rows, form, **place)

    assert found.errors.shape[1] == len(heads_in_order(heads))
    assert_equal_to_rounding(found, run_dense(attention, heads, rows, form, **place), tolerance=2e-5)


@given(any_case(), st.none() | st.integers(0, 6))
@settings(max_examples=40)
def test_spans_are_as_the_mask_they_stand_for(
    case: tuple[Rows, dict[str, int], LossForm, dict[str, int], str], reach: int | None
) -> None:
    """Attention inside documents, and in those inside a window, for any rows."""
    rows, heads, form, place, _ = case
    spans = documents_of(rows).spans()
    spans = spans if reach is None else inside_window(spans, reach)
    attention = random_attention(heads, rows, spread=3.0)

    found = run_operator(attention.with_changes(spans=spans), heads, rows, form, **place)

    masked = attention.with_changes(mask=spans_mask(spans))
    # A target beyond the window has no attention, and its cross-entropy no bound but the lowest score.
    if form.name == "squared" or reach is None:
        assert_equal_to_rounding(found, run_dense(masked, heads, rows, form, **place), tolerance=2e-5)
    assert_equal_to_rounding(found, run_operator(masked, heads, rows, form, **place), tolerance=2e-5)


@pytest.mark.parametrize(("first_row", "stride"), [(0, 4), (2, 4), (3, 5), (36, 37)])
@every_form
def test_first_row_as_a_tensor_is_the_number(first_row: int, stride: int, form: LossForm) -> None:
    """It has the same number of rows for every first one; those beyond the last are zero."""
    attention, place = random_attention(MIX, ROWS), {"stride": stride}

    found = run_operator(attention, MIX, ROWS, form, first_row=torch.tensor(first_row), **place)

    expected = run_operator(attention, MIX, ROWS, form, first_row=first_row, **place)
    num_rows = expected.errors.shape[-1]
    assert found.errors.shape == (4, 8, -(-SIZE // stride))
    for name in ("errors", "mass"):
        assert torch.equal(getattr(found, name)[..., :num_rows], getattr(expected, name))
        assert not getattr(found, name)[..., num_rows:].any()
    assert torch.equal(found.query_grad, expected.query_grad)
    assert torch.equal(found.key_grad, expected.key_grad)
