"""The fast loss against the dense formula, forward and backward."""

import math

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from pipeline.guidance import loss as loss_module
from pipeline.guidance.loss import LayerAttention, row_errors
from pipeline.guidance.patterns import assign_heads
from pipeline.guidance.timer import Timer
from tests.pipeline.guidance.dense import attention_probs, errors_and_mass, heads_in_order

SIZE = 37  # odd, and not a multiple of any block
LENGTHS = [37, 20, 5, 1]
MIX = {"next": 2, "first": 1, "offset+3": 1, "previous": 1}

every_pattern = pytest.mark.parametrize(
    "heads",
    [
        {"next": 1},
        {"previous": 1},
        {"self": 1},
        {"first": 1},
        {"offset+3": 1},
        {"offset-2": 2},
        MIX,
        {"first": 2, "self": 1, "offset-36": 1},
    ],
    ids=lambda heads: "_".join(heads),
)


@pytest.fixture(params=[1, 4 * 5 * SIZE * 20, 1 << 20], ids=["16 rows", "20 rows", "all rows"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Scores per block, so that a layer takes three, two and one."""
    monkeypatch.setattr(loss_module, "_BLOCK_ELEMENTS", request.param)
    return request.param


def key_padding() -> torch.Tensor:
    """True where a key is a real token, (B, 1, 1, N)."""
    return (torch.arange(SIZE) < torch.tensor(LENGTHS)[:, None])[:, None, None]


def masks() -> dict[str, torch.Tensor | None]:
    """Every form of mask a model may hand over."""
    keys = key_padding()
    square = keys.expand(-1, 1, SIZE, SIZE)
    return {
        "none": None,
        "bool (B,1,1,N)": keys,
        "bool (B,1,N,N)": square,
        "additive -inf": torch.zeros(square.shape).masked_fill(~square, -torch.inf),
        "additive lowest": torch.zeros(keys.shape).masked_fill(~keys, torch.finfo(torch.float32).min),
    }


def random_attention(heads: dict[str, int], seed: int = 0, spread: float = 1.0) -> LayerAttention:
    torch.manual_seed(seed)
    shape = (len(LENGTHS), len(heads_in_order(heads)), SIZE, 8)
    return LayerAttention(
        query=torch.randn(shape) * spread,
        key=torch.randn(shape),
        scaling=8**-0.5,
        mask=None,
        lengths=torch.tensor(LENGTHS),
    )


def with_mask(attention: LayerAttention, mask: torch.Tensor | None) -> LayerAttention:
    return LayerAttention(**(vars(attention) | {"mask": mask}))


def run_fast(attention: LayerAttention, heads: dict[str, int]) -> tuple[torch.Tensor, ...]:
    """Errors, mass and the gradients of sum_h (h + 1) * error_h with respect to query and key."""
    query = attention.query.clone().requires_grad_()
    key = attention.key.clone().requires_grad_()
    shown = LayerAttention(**(vars(attention) | {"query": query, "key": key}))
    errors, mass = row_errors(shown, assign_heads(heads), Timer(torch.device("cpu")))
    (errors * torch.arange(1, len(errors) + 1)).sum().backward()
    return errors.detach(), mass, query.grad, key.grad


def run_dense(attention: LayerAttention, heads: dict[str, int]) -> tuple[torch.Tensor, ...]:
    """The same four by the formula."""
    query = attention.query.double().requires_grad_()
    key = attention.key.double().requires_grad_()
    probs = attention_probs(query, key, attention.scaling, attention.mask)
    errors, mass = errors_and_mass(probs, heads, attention.lengths.tolist())
    (errors * torch.arange(1, len(errors) + 1)).sum().backward()
    return errors.detach(), mass.detach(), query.grad, key.grad


def assert_equal_to_rounding(
    fast: tuple[torch.Tensor, ...], dense: tuple[torch.Tensor, ...], tolerance: float = 1e-5
) -> None:
    for name, found, expected in zip(("errors", "mass", "query gradient", "key gradient"), fast, dense):
        difference = (found.double() - expected).norm().item()
        assert difference <= tolerance * max(expected.norm().item(), 1e-6), name


@every_pattern
@pytest.mark.parametrize("mask", list(masks()))
def test_equals_the_dense_formula(heads: dict[str, int], mask: str) -> None:
    attention = with_mask(random_attention(heads), masks()[mask])

    assert_equal_to_rounding(run_fast(attention, heads), run_dense(attention, heads))


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("mask", list(masks()))
def test_block_size_does_not_matter(mask: str) -> None:
    attention = with_mask(random_attention(MIX), masks()[mask])

    assert_equal_to_rounding(run_fast(attention, MIX), run_dense(attention, MIX))


@pytest.mark.usefixtures("block_size")
def test_rows_in_the_padding_that_may_attend_to_nothing_do_no_harm() -> None:
    """A local window around a padded row may hold no real token at all."""
    places = torch.arange(SIZE)
    window = (places[:, None] - places[None]).abs() <= 4
    heads = {"next": 1, "previous": 1, "offset+3": 1}
    attention = with_mask(random_attention(heads), key_padding() & window)

    fast = run_fast(attention, heads)

    assert all(torch.isfinite(values).all() for values in fast)
    assert_equal_to_rounding(fast, run_dense(attention, heads))


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17])
def test_short_sequences(size: int) -> None:
    heads = {"next": 1, "previous": 1, "self": 1, "first": 1, "offset+3": 1}
    torch.manual_seed(size)
    attention = LayerAttention(
        query=torch.randn(3, 5, size, 4),
        key=torch.randn(3, 5, size, 4),
        scaling=0.5,
        mask=None,
        lengths=torch.tensor([size, max(1, size - 1), 1]),
    )

    assert_equal_to_rounding(run_fast(attention, heads), run_dense(attention, heads))


def test_a_single_token_has_nothing_to_learn() -> None:
    attention = LayerAttention(
        query=torch.randn(1, 3, 1, 4),
        key=torch.randn(1, 3, 1, 4),
        scaling=0.5,
        mask=None,
        lengths=torch.tensor([1]),
    )

    errors, mass, query_grad, key_grad = run_fast(attention, {"next": 1, "self": 1, "first": 1})

    assert errors.tolist() == [0.0, 0.0, 0.0]  # no next token; and all attention is where it should be
    assert mass.tolist() == [0.0, 1.0, 1.0]
    assert query_grad.abs().max() == 0.0
    assert key_grad.abs().max() == 0.0


@pytest.mark.parametrize("spread", [10.0, 100.0, 3000.0])
def test_saturated_rows_and_huge_scores(spread: float) -> None:
    """Scores up to 1e4: nothing overflows, and the error of every row is right."""
    attention = random_attention(MIX, spread=spread)
    if spread == 3000.0:
        scores = attention.query @ attention.key.transpose(-1, -2) * attention.scaling
        assert scores.abs().max() > 1e4

    fast, dense = run_fast(attention, MIX), run_dense(attention, MIX)

    assert all(torch.isfinite(values).all() for values in fast)
    assert_equal_to_rounding(fast[:2], dense[:2])
    # A score of 1e4 has itself an error of 1e-3 in float32, and the few unsaturated rows have it with it.
    assert_equal_to_rounding(fast[2:], dense[2:], tolerance=2e-5 if spread < 3000 else 2e-4)


@pytest.mark.parametrize("target", ["next", "first"])
def test_attention_wholly_on_target_has_no_error_and_no_pull(target: str) -> None:
    size, strength = 16, 100.0
    keys = torch.eye(size)
    wanted = keys.roll(-1, 0) if target == "next" else keys[:1].expand(size, -1)
    attention = LayerAttention(
        query=(strength * wanted)[None, None].contiguous(),
        key=keys[None, None],
        scaling=1.0,
        mask=None,
        lengths=torch.tensor([size]),
    )

    errors, mass, query_grad, _ = run_fast(attention, {target: 1})

    num_valid = size - 1 if target == "next" else size
    assert errors.item() < 1e-10
    assert mass.item() == pytest.approx(num_valid)
    assert query_grad.abs().max() < 1e-10


def test_attention_wholly_on_a_wrong_key_costs_two() -> None:
    size = 16
    attention = LayerAttention(
        query=(60.0 * torch.eye(size))[None, None],  # looks at itself
        key=torch.eye(size)[None, None],
        scaling=1.0,
        mask=None,
        lengths=torch.tensor([size]),
    )

    errors, mass, *_ = run_fast(attention, {"next": 1})

    assert errors.item() == pytest.approx(2.0 * (size - 1))
    assert mass.item() < 1e-20


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("pattern", ["next", "previous", "self", "first"])
def test_uniform_attention_gives_the_published_magnitudes(size: int, pattern: str) -> None:
    """1 - 1/n per row; as the authors' mean over n x n elements, rows without a target kept, about 1/n."""
    attention = LayerAttention(
        query=torch.zeros(1, 1, size, 4),
        key=torch.randn(1, 1, size, 4),
        scaling=0.5,
        mask=None,
        lengths=torch.tensor([size]),
    )

    errors, *_ = run_fast(attention, {pattern: 1})

    num_valid = size - 1 if pattern in ("next", "previous") else size
    assert errors.item() / num_valid == pytest.approx(1 - 1 / size, rel=1e-5)
    elementwise_mean = (errors.item() + (size - num_valid) / size) / size**2
    published = {64: 0.0152, 128: 0.0077, 256: 0.0039, 512: 0.00195}[size]
    assert elementwise_mean == pytest.approx(published, rel=0.02)
    target = torch.diag(torch.ones(size - 1), 1) if pattern == "next" else None
    if target is not None:
        dense = torch.nn.functional.mse_loss(torch.full((size, size), 1 / size), target)
        assert elementwise_mean == pytest.approx(dense.item(), rel=1e-5)


def test_the_pull_on_a_uniform_row_is_two_over_n() -> None:
    """Gradient of a row's error with respect to its target's score (keys one-hot: score j is query j)."""
    size = 512
    attention = LayerAttention(
        query=torch.zeros(1, 1, size, size),
        key=torch.eye(size)[None, None],
        scaling=1.0,
        mask=None,
        lengths=torch.tensor([size]),
    )

    _, _, query_grad, _ = run_fast(attention, {"first": 1})

    assert query_grad[0, 0, :, 0].mean().item() == pytest.approx(-2 / size, rel=0.01)


def test_bfloat16_inputs_lose_only_their_own_digits() -> None:
    attention = with_mask(random_attention(MIX), key_padding())
    rounded = LayerAttention(
        **(vars(attention) | {"query": attention.query.bfloat16(), "key": attention.key.bfloat16()})
    )

    fast = run_fast(rounded, MIX)

    dense = run_dense(rounded, MIX)
    assert fast[2].dtype == fast[3].dtype == torch.bfloat16
    assert_equal_to_rounding(fast[:2], dense[:2], tolerance=1e-5)  # the sums are float32
    assert_equal_to_rounding(fast, dense, tolerance=1e-2)


def test_sums_grow_with_the_batch() -> None:
    attention = random_attention(MIX)
    doubled = {name: torch.cat([value] * 2) for name, value in vars(attention).items() if name in
               ("query", "key", "lengths")}  # fmt: skip

    once, twice = run_fast(attention, MIX), run_fast(LayerAttention(**(vars(attention) | doubled)), MIX)

    assert torch.allclose(2 * once[0], twice[0], rtol=1e-5)
    assert torch.allclose(2 * once[1], twice[1], rtol=1e-5)


def test_padding_neither_counts_nor_pulls() -> None:
    """Whatever stands in the padding, errors and gradients are those of the sequences alone."""
    attention = with_mask(random_attention(MIX), key_padding())
    is_padding = ~key_padding().transpose(-1, -2)
    other = LayerAttention(
        **(vars(attention) | {name: getattr(attention, name) + 3.0 * is_padding for name in ("query", "key")})
    )

    found, expected = run_fast(other, MIX), run_fast(attention, MIX)

    for a, b in zip(found, expected):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    for gradient in found[2:]:
        assert gradient.masked_select(is_padding).abs().max() == 0.0


def test_one_pattern_does_not_see_anothers_heads() -> None:
    attention = random_attention(MIX)

    together = run_fast(attention, MIX)

    for head, pattern in enumerate(heads_in_order(MIX)):
        single = {name: getattr(attention, name)[:, head : head + 1] for name in ("query", "key")}
        errors, mass, query_grad, _ = run_fast(LayerAttention(**(vars(attention) | single)), {pattern: 1})
        assert torch.allclose(errors[0], together[0][head], rtol=1e-5)
        assert torch.allclose(mass[0], together[1][head], rtol=1e-5)
        assert torch.allclose((head + 1) * query_grad[:, 0], together[2][:, head], rtol=1e-4, atol=1e-7)


def test_mass_is_only_watched() -> None:
    attention = random_attention(MIX)
    query = attention.query.clone().requires_grad_()

    errors, mass = row_errors(
        LayerAttention(**(vars(attention) | {"query": query})), assign_heads(MIX), Timer(torch.device("cpu"))
    )

    assert errors.requires_grad
    assert not mass.requires_grad


def test_nothing_outlives_the_backward_pass() -> None:
    """Query and key are as large as the layer's activations: the graph must let them go."""
    attention = random_attention(MIX)
    query = attention.query.clone().requires_grad_() * 1.0
    shown = LayerAttention(**(vars(attention) | {"query": query}))
    kept = StorageWeakRef(query.untyped_storage())

    errors, _ = row_errors(shown, assign_heads(MIX), Timer(torch.device("cpu")))
    errors.sum().backward()
    del query, shown

    assert kept.expired()


def test_no_square_matrix_is_kept_for_the_backward_pass() -> None:
    saved: list[int] = []
    attention = random_attention(MIX)
    query = attention.query.clone().requires_grad_()

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (saved.append(tensor.numel()), tensor)[1], lambda t: t
    ):
        row_errors(
            LayerAttention(**(vars(attention) | {"query": query})),
            assign_heads(MIX),
            Timer(torch.device("cpu")),
        )

    assert saved
    assert max(saved) == query.numel()
    assert sum(saved) < 3 * query.numel()


def test_gradient_agrees_with_finite_differences() -> None:
    """A check that shares no formula with the others."""
    attention = random_attention({"next": 1, "first": 1})
    _, _, query_grad, key_grad = run_fast(attention, {"next": 1, "first": 1})
    torch.manual_seed(1)
    directions = {"query": torch.randn_like(attention.query), "key": torch.randn_like(attention.key)}
    step = 1e-2

    def value(sign: int) -> float:
        moved = {name: getattr(attention, name) + sign * step * way for name, way in directions.items()}
        errors, *_ = run_fast(LayerAttention(**(vars(attention) | moved)), {"next": 1, "first": 1})
        return (errors[0] + 2 * errors[1]).item()

    slope = (value(1) - value(-1)) / (2 * step)
    expected = (query_grad * directions["query"]).sum() + (key_grad * directions["key"]).sum()
    assert slope == pytest.approx(expected.item(), rel=1e-2)
    assert not math.isclose(slope, 0.0, abs_tol=1e-3)
