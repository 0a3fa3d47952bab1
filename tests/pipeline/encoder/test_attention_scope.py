"""Attention inside documents equals each document in a row of its own, forward and backward."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import pipeline.encoder.attention
import pipeline.encoder.attention_scope
from pipeline.data.batches import Batch
from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.attention import attention_by_sequence
from pipeline.encoder.attention_scope import attention_within_documents, can_attend_by_sequence, position_ids
from pipeline.engine import PretrainingModule
from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.schedule import GuidedLayer, GuidedStep
from tests.pipeline.guidance.cases import documents_of
from tests.pipeline.guidance.dense import Rows
from tests.pipeline.modules import batch_of_rows, guide_of, guided_module, score, sums_by_head
from tests.pipeline.tiny_models import FAMILIES, LENGTH, VOCABULARY, tiny_model

PADDED = [[10, 3, 9], [9], [1, 8, 8], []]
FULL = [[10, 5, 9], [24], [1, 22, 1], [12, 12]]
CASES = {"padded": PADDED, "full": FULL}

every_family = pytest.mark.parametrize("family", FAMILIES)
padded_or_full = pytest.mark.parametrize("pieces", CASES.values(), ids=CASES)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@st.composite
def any_pieces(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """A length, and the documents of some rows of it."""
    size, rows = draw(st.integers(1, 12)), []
    for _ in range(draw(st.integers(1, 4))):
        left, row = draw(st.integers(0, size)), []
        while left:
            row.append(draw(st.integers(1, left)))
            left -= row[-1]
        rows.append(row)
    return size, rows


def batch_of(pieces: list[list[int]], length: int = LENGTH) -> Batch:
    """Rows of these documents; every third token is predicted."""
    generator = torch.Generator().manual_seed(7)
    lengths = torch.tensor([sum(row) for row in pieces])
    is_real = torch.arange(length) < lengths[:, None]
    ids = torch.randint(5, 97, is_real.shape, generator=generator).where(is_real, VOCABULARY.pad_id)
    documents = documents_of(Rows(ids, pieces))
    positions = torch.arange(0, length, 3).expand(len(pieces), -1)
    labels = torch.where(is_real, (ids + 1) % 97, IGNORED_LABEL).gather(1, positions)
    return batch_of_rows(ids, lengths, positions, labels, documents, documents.borders())


def one_by_one(batch: Batch, pieces: list[list[int]]) -> Iterator[Batch]:
    """Each document as a batch of its own, without padding, attending everywhere."""
    for row, lengths in enumerate(pieces):
        start = 0
        for length in lengths:
            positions, labels = batch.columns["positions"][row], batch.columns["labels"][row]
            inside = (positions >= start) & (positions < start + length)
            if inside.any():
                yield batch_of_rows(
                    batch.input_ids[row : row + 1, start : start + length],
                    torch.tensor([length]),
                    positions[None, inside] - start,
                    labels[None, inside],
                )
            start += length


def module_of(family: str, **settings: object) -> PretrainingModule:
    heads = [{"next": 1, "previous": 1, "first": 1} if family != "modernbert" else {"next": 1}] * 3
    return guided_module(tiny_model(family, **settings), heads)


def loss_and_gradients(
    module: PretrainingModule, batches: list[Batch], guided: GuidedStep
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Objective and all guidance errors, summed over the batches."""
    total = torch.zeros(())
    for batch in batches:
        terms = score(module, batch, guided).terms
        total = total + terms["mlm"].sum + 3.0 * terms["guidance"].sum
    total.backward()
    return total.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


@every_family
@padded_or_full
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_documents_in_a_row_are_as_documents_alone(
    family: str, pieces: list[list[int]], checkpointing: bool
) -> None:
    module, batch = module_of(family).train(), batch_of(pieces)
    alone = copy.deepcopy(module)
    if checkpointing:
        module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    guided = GuidedStep.looking_at([0, 1, 2])

    found, gradients = loss_and_gradients(module, [batch], guided)

    # A document without a prediction still has errors of guidance, so the loss of one alone needs them all.
    every_document = list(one_by_one(with_a_prediction_everywhere(batch), pieces))
    expected, expected_gradients = loss_and_gradients(alone, every_document, guided)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-4, msg=name)


def with_a_prediction_everywhere(batch: Batch) -> Batch:
    """The same losses, with a place for every position; where none is predicted there is no label."""
    positions = torch.arange(LENGTH).expand(len(batch.input_ids), -1)
    labels = torch.full_like(positions, IGNORED_LABEL)
    labels = labels.scatter(1, batch.columns["positions"], batch.columns["labels"])
    return batch_of_rows(batch.input_ids, batch.lengths, positions, labels, batch.documents, batch.borders)


@every_family
def test_nothing_of_a_document_reaches_another(family: str) -> None:
    module, batch = module_of(family).eval(), batch_of(FULL)
    before = score(module, batch).rows[0]
    changed = copy.deepcopy(batch)
    changed.input_ids[0, 10:15] = 50  # the second of three
    positions = batch.columns["positions"]
    changed.columns["replacements"] = changed.input_ids.gather(1, positions)

    after = score(module, changed).rows[0]

    assert torch.equal(after[1:], before[1:])
    only_others = batch.columns["labels"].clone()
    only_others[(positions >= 10) & (positions < 15)] = IGNORED_LABEL
    batch.columns["labels"] = changed.columns["labels"] = only_others
    pair = [score(module, each).rows[0, 0] for each in (batch, changed)]
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)


@every_family
def test_documents_matter_only_where_they_are_asked_for(family: str) -> None:
    module, batch = module_of(family).eval(), batch_of(FULL)
    inside = score(module, batch).rows[0]
    batch.borders = None

    across = score(module, batch).rows[0]

    plain = module.model.base_model(batch.input_ids)
    hidden = plain.last_hidden_state
    assert not torch.allclose(inside[0], across[0], rtol=1e-3)
    torch.testing.assert_close(inside[1], across[1])  # a row of one document
    assert torch.isfinite(hidden).all()


@every_family
def test_rows_without_tokens_stay_finite(family: str) -> None:
    module, batch = module_of(family).train(), batch_of([[], []])

    scored = score(module, batch, GuidedStep.looking_at([0, 1, 2]))
    scored.terms["mlm"].sum.backward()

    assert scored.rows[0].tolist() == [0.0, 0.0]
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    hidden = module.model.base_model(
        batch.input_ids,
        **attention_within_documents(
            module.model, batch.documents, batch.borders, has_bias=False, training=False
        ),
    )
    assert torch.isfinite(hidden.last_hidden_state).all()


# By sequence


def reference_kernel(
    query, key, value, borders, borders_of_keys, longest, longest_key, *, scale, window_size
):
    """What varlen_attn computes, one sequence after the other: (T, H, D)."""
    assert borders is borders_of_keys
    assert borders.dtype == torch.int32
    output = torch.zeros_like(query)
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist()):
        assert end - start <= longest == longest_key
        if start == end:
            continue
        places, (left, right) = torch.arange(end - start), window_size
        distance = places[None] - places[:, None]
        mask = (distance >= -left) & (distance <= right) if left >= 0 else distance == distance
        part = (t[start:end].transpose(0, 1) for t in (query, key, value))
        output[start:end] = scaled_dot_product_attention(*part, attn_mask=mask, scale=scale).transpose(0, 1)
    return output


@pytest.fixture
def by_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with the reference in the kernel's place; SDPA is not to be called."""

    def not_to_be_called(*_arguments: object, **_settings: object) -> None:
        raise AssertionError("attention went by mask")

    monkeypatch.setattr(pipeline.encoder.attention, "varlen_attn", reference_kernel)
    monkeypatch.setattr(pipeline.encoder.attention, "sdpa_attention_forward", not_to_be_called)
    monkeypatch.setattr(pipeline.encoder.attention_scope, "can_attend_by_sequence", lambda **_: True)


@every_family
@padded_or_full
@pytest.mark.parametrize("form", [LossForm(), LossForm(name="cross_entropy")], ids=["squared", "cross"])
def test_by_sequence_is_as_by_mask(
    family: str, pieces: list[list[int]], form: LossForm, request: pytest.FixtureRequest
) -> None:
    """With guidance, of which one layer looks at a part of the rows."""
    batch, module = batch_of(pieces), module_of(family).train()
    guide_of(module).form = form
    other = copy.deepcopy(module)
    layers = tuple(GuidedLayer(layer=layer, probability=1.0, first_row=layer) for layer in (0, 2))
    guided = GuidedStep(layers=layers, row_stride=5)
    expected, expected_gradients = loss_and_gradients(other, [batch], guided)

    request.getfixturevalue("by_sequence")
    found, gradients = loss_and_gradients(module, [batch], guided)

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-4, msg=name)


@given(any_pieces())
def test_borders_and_spans_say_the_same(case: tuple[int, list[list[int]]]) -> None:
    size, pieces = case
    documents = documents_of(Rows(torch.zeros(len(pieces), size, dtype=torch.long), pieces))

    borders, (first, end) = documents.borders(), documents.spans()

    assert borders[-1] == len(pieces) * size
    assert (borders.diff() >= 0).all()
    num_sequences = len(borders) - 1
    assert num_sequences & (num_sequences - 1) == 0
    starts = [s for s, e in zip(borders[:-1].tolist(), borders[1:].tolist()) if e > s]
    lengths = [e - s for s, e in zip(borders[:-1].tolist(), borders[1:].tolist()) if e > s]
    for sequence, length in zip(starts, lengths):
        row, place = divmod(sequence, size)
        assert first[row, place : place + length].unique().tolist() == [place]
        assert end[row, place : place + length].unique().tolist() == [place + length]
    real = [n for row in pieces for n in (*row, size - sum(row)) if n]
    assert lengths == real
    assert documents.lengths().tolist() == [length for row in pieces for length in row if length]


@given(any_pieces())
def test_positions_begin_anew_with_each_document(case: tuple[int, list[list[int]]]) -> None:
    size, pieces = case
    documents = documents_of(Rows(torch.zeros(len(pieces), size, dtype=torch.long), pieces))
    expected = [
        [place for length in row for place in range(length)] + [0] * (size - sum(row)) for row in pieces
    ]
    is_real = [[1] * sum(row) + [0] * (size - sum(row)) for row in pieces]

    bert, roberta = tiny_model("bert").config, tiny_model("roberta").config

    assert position_ids(bert, documents).tolist() == expected
    shifted = torch.tensor(expected) + torch.tensor(is_real)
    assert torch.equal(position_ids(roberta, documents), shifted + roberta.pad_token_id)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": torch.float32},
        {"head_size": 12},
        {"head_size": 264},
        {"dropout": 0.1},
        {"has_bias": True},
        {"device": torch.device("cpu")},
    ],
)
def test_rule_for_the_kernel(monkeypatch: pytest.MonkeyPatch, change: dict[str, object]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    able = {
        "device": torch.device("cuda"), "dtype": torch.bfloat16, "head_size": 64, "dropout": 0.0,
        "has_bias": False,
    }  # fmt: skip

    assert can_attend_by_sequence(**able)
    assert not can_attend_by_sequence(**(able | change))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    assert not can_attend_by_sequence(**able)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("window", [None, 5])
def test_kernel_on_a_gpu_is_as_the_reference(window: int | None) -> None:
    documents = batch_of(PADDED).documents
    generator = torch.Generator().manual_seed(0)
    query, key, value, pull = torch.randn(4, 4, LENGTH, 3, 16, generator=generator).transpose(2, 3)
    found = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32)):
        inputs = [t.to(torch.bfloat16).to(device, dtype).requires_grad_() for t in (query, key, value)]
        borders = documents.borders().to(device)
        with pytest.MonkeyPatch.context() as patch:
            if device == "cpu":
                patch.setattr(pipeline.encoder.attention, "varlen_attn", reference_kernel)
            output = attention_by_sequence(*inputs, borders, 0.3, window)
        (output * pull.transpose(1, 2).to(device, dtype)).sum().backward()
        found.append([output.detach(), *(t.grad for t in inputs)])

    for of_gpu, expected in zip(*found):
        torch.testing.assert_close(of_gpu.float().cpu(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@needs_gpu
@every_family
@padded_or_full
def test_models_on_a_gpu_are_as_by_mask(family: str, pieces: list[list[int]]) -> None:
    batch = batch_of(pieces)
    by_mask = module_of(family).to("cuda", torch.bfloat16).train()
    by_sequence = copy.deepcopy(by_mask)
    guided = GuidedStep.looking_at([0, 1, 2])
    totals = []
    for module, can in ((by_mask, False), (by_sequence, True)):
        with pytest.MonkeyPatch.context() as patch:
            if not can:
                patch.setattr(pipeline.encoder.attention_scope, "can_attend_by_sequence", lambda **_: False)
            scored = score(module, batch, guided)
        totals.append((scored.rows[0], sums_by_head(scored)[0].float()))

    for found, expected in zip(*totals):
        torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2)
