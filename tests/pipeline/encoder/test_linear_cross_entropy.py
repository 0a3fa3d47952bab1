"""The fused output layer against logits and torch's cross-entropy in the plain way."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder import linear_cross_entropy as module
from pipeline.encoder.linear_cross_entropy import OutputLayer, ids_drawn, linear_cross_entropy
from tests.pipeline.flop_counting import flop_counter


def make(
    num_predictions: int, hidden_size: int, vocab_size: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_predictions, hidden_size, generator=generator)
    weight = torch.randn(vocab_size, hidden_size, generator=generator)
    bias = torch.randn(vocab_size, generator=generator)
    labels = torch.randint(0, vocab_size, (num_predictions,), generator=generator)
    labels[torch.rand(num_predictions, generator=generator) < 0.2] = IGNORED_LABEL
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias)]
    return leaves[0], leaves[1], leaves[2], labels


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = F.linear(hidden, weight, bias)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="none")
    return losses, logits.argmax(-1) == labels


@settings(deadline=None, max_examples=40)
@given(
    num_predictions=st.integers(1, 30),
    vocab_size=st.integers(2, 70),
    chunk_logits=st.integers(1, 400),
    factor=st.floats(-3.0, 3.0),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_the_plain_way_in_chunks_of_any_size(
    num_predictions: int, vocab_size: int, chunk_logits: int, factor: float, seed: int
) -> None:
    inputs = make(num_predictions, 5, vocab_size, seed, torch.float64)
    expected, expected_right = plain(*inputs)
    wanted = torch.autograd.grad(factor * expected.sum(), inputs[:3])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_LOGITS", {"cpu": chunk_logits})
        total, losses, is_right, _ = linear_cross_entropy(*inputs)
    gradients = torch.autograd.grad(factor * total, inputs[:3])

    # Probabilities are float32 whatever the inputs are.
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-5, abs=1e-5)
    assert is_right.tolist() == expected_right.tolist()
    for gradient, reference in zip(gradients, wanted):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-5)


def test_gradients_of_bfloat16_are_as_near_as_those_of_the_plain_way() -> None:
    exact = make(64, 32, 500, seed=1, dtype=torch.float64)
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact[:3]]
    wanted = torch.autograd.grad(plain(*exact)[0].sum(), exact[:3])
    by_plain = torch.autograd.grad(plain(*rounded, exact[3])[0].float().sum(), rounded)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_LOGITS", {"cpu": 500 * 10})
        total, *_ = linear_cross_entropy(*rounded, exact[3])  # type: ignore[arg-type]
    gradients = torch.autograd.grad(total, rounded)

    for ours, theirs, reference in zip(gradients, by_plain, wanted):
        assert ours.dtype == torch.bfloat16
        error, plain_error = ((g.double() - reference).norm() / reference.norm() for g in (ours, theirs))
        assert error <= 1.1 * plain_error + 1e-3


def test_huge_logits_overflow_nothing() -> None:
    hidden, weight, bias, labels = make(8, 4, 10, seed=2)

    total, losses, *_ = linear_cross_entropy(hidden * 1e4, weight * 1e4, bias, labels)
    total.backward()

    assert torch.isfinite(losses).all()
    for leaf in (hidden, weight, bias):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_a_hidden_state_that_is_not_finite_shows_in_its_own_loss_only() -> None:
    hidden, weight, bias, labels = make(8, 4, 10, seed=3)
    labels[:] = 1
    with torch.no_grad():
        hidden[5] = torch.nan

    total, losses, *_ = linear_cross_entropy(hidden, weight, bias, labels)

    assert total.isnan()
    assert losses.isnan().nonzero().flatten().tolist() == [5]


def test_logits_are_multiplied_three_times_like_in_the_plain_way_and_once_without_gradients() -> None:
    inputs = make(40, 16, 64, seed=4)

    with flop_counter() as with_gradients:
        linear_cross_entropy(*inputs)[0].backward()
    with flop_counter() as without, torch.no_grad():
        linear_cross_entropy(*inputs)

    assert without.get_total_flops() == 2 * 40 * 16 * 64
    assert with_gradients.get_total_flops() == 3 * without.get_total_flops()


def test_nothing_as_large_as_all_logits_is_kept_or_made() -> None:
    num_predictions, vocab_size = 512, 1000
    inputs = make(num_predictions, 8, vocab_size, seed=5)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(module, "_CHUNK_LOGITS", {"cpu": vocab_size * 32})
        linear_cross_entropy(*inputs)[0].backward()

    assert largest == vocab_size * 32


def test_without_labels_the_layer_is_the_linear_layer_it_was() -> None:
    layer, inputs = torch.nn.Linear(4, 10), torch.randn(3, 4)
    names, expected = list(layer.state_dict()), layer(inputs)

    OutputLayer.take_over(layer)

    assert list(layer.state_dict()) == names
    assert torch.equal(layer(inputs), expected)


def draw(
    inputs: tuple[torch.Tensor, ...], uniforms: torch.Tensor, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    ids = linear_cross_entropy(*inputs, uniforms, allowed).sampled_ids  # type: ignore[misc,arg-type]
    assert ids is not None
    assert ids.dtype == torch.int64
    return ids


@settings(deadline=None, max_examples=40)
@given(
    num_predictions=st.integers(1, 30),
    vocab_size=st.integers(4, 70),
    chunk_logits=st.integers(1, 400),
    split=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_a_sample_is_by_inverse_distribution_and_depends_on_its_own_row_only(
    num_predictions: int, vocab_size: int, chunk_logits: int, split: int, seed: int
) -> None:
    hidden, weight, bias, labels = make(num_predictions, 5, vocab_size, seed, torch.float64)
    uniforms = torch.rand(num_predictions, generator=torch.Generator().manual_seed(seed)).double()
    allowed = torch.tensor([1, *range(3, vocab_size)])
    probs = F.linear(hidden, weight, bias).softmax(-1, torch.float32).double()
    probs[:, [0, 2]] = 0.0
    sums = probs.cumsum(1)
    expected = (sums > uniforms[:, None] * sums[:, -1:]).int().argmax(1)

    whole = draw((hidden, weight, bias, labels), uniforms, allowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_LOGITS", {"cpu": chunk_logits})
        patch.setattr(module, "_SUMMED_AT_ONCE", chunk_logits // 2)
        parts = [
            draw((hidden[part], weight, bias, labels[part]), uniforms[part], allowed)
            for part in torch.arange(num_predictions).split(split)
        ]

    assert whole.tolist() == expected.tolist()
    assert torch.cat(parts).tolist() == whole.tolist()


def test_samples_are_as_frequent_as_those_of_torch() -> None:
    hidden, weight, bias, labels = make(1, 5, 40, seed=6)
    count = 200_000
    generator = torch.Generator().manual_seed(0)
    many = (hidden.expand(count, -1), weight * 0.5, bias, labels.expand(count))
    allowed = ids_drawn((1, 7), 36)
    others = torch.tensor([1, 7, 36, 37, 38, 39])
    probs = F.linear(many[0][:1], many[1], bias).softmax(-1)[0].index_fill(0, others, 0.0).detach()

    with torch.no_grad():
        ours = draw(many, torch.rand(count, generator=generator), allowed).bincount(minlength=40)
    theirs = torch.multinomial(probs, count, replacement=True, generator=generator).bincount(minlength=40)

    assert ours[others].tolist() == [0] * 6
    spread = (count * probs / probs.sum()).sqrt() + 1.0
    assert ((ours - count * probs / probs.sum()).abs() <= 5 * spread).all()
    assert ((ours - theirs).abs() <= 7 * spread).all()


def test_the_ends_of_the_interval_give_the_first_and_the_last_token_that_may_be_drawn() -> None:
    inputs = make(2, 5, 20, seed=7)
    uniforms = torch.tensor([0.0, 1.0 - 2**-24])

    allowed = torch.arange(2, 18)
    with torch.no_grad():
        inputs[1].zero_()
        inputs[2].zero_()

    assert draw(inputs, uniforms, allowed).tolist() == [2, 17]


def test_drawing_changes_neither_loss_nor_gradients() -> None:
    inputs = make(30, 5, 50, seed=8)
    plain_way = linear_cross_entropy(*inputs)
    drawn = linear_cross_entropy(*inputs, torch.rand(30), torch.tensor([3, 5]))

    assert plain_way.sampled_ids is None
    for ours, theirs in zip(drawn[:3], plain_way[:3]):
        assert torch.equal(ours, theirs)
    wanted = torch.autograd.grad(plain_way.total, inputs[:3])
    for ours, theirs in zip(torch.autograd.grad(drawn.total, inputs[:3]), wanted):
        assert torch.equal(ours, theirs)


def test_a_row_that_is_not_finite_still_gives_an_id() -> None:
    inputs = make(2, 5, 20, seed=9)
    with torch.no_grad():
        inputs[0][0] = torch.nan

    assert 0 <= draw(inputs, torch.tensor([0.5, 0.5]))[0] < 20
