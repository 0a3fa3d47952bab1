"""Model FLOPs against what torch counts in real models, and against pairs counted one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.accounting.flops import FlopCounter, attended_pairs, pairs_within
from pipeline.data.batches import Batch
from pipeline.data.documents import Documents
from pipeline.data.masking import IGNORED_LABEL
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from tests.pipeline.flop_counting import flop_counter
from tests.pipeline.modules import batch_of_rows
from tests.pipeline.tiny_models import FAMILIES, LENGTH, tiny_inputs, tiny_model

PREDICTED = 5


def batch_of(lengths: list[int], num_predicted: int = PREDICTED) -> Batch:
    """Rows with so many tokens, in each of which the first ones are predicted."""
    inputs = tiny_inputs(lengths)
    sizes = torch.tensor(lengths)
    positions = torch.arange(num_predicted).expand(len(lengths), -1)
    labels = torch.where(positions < sizes[:, None], 7, IGNORED_LABEL)
    return batch_of_rows(inputs["input_ids"], sizes, positions, labels)


def flops_of(family: str, **settings: object) -> FlopCounter:
    return FlopCounter(MaskedLanguageModeling(tiny_model(family, **settings)))


def counted_by_torch(family: str, batch: Batch, is_checkpointed: bool = False, **settings: object) -> int:
    """FLOPs of a forward and backward pass; torch knows those of attention by its plain implementation."""
    objective = MaskedLanguageModeling(tiny_model(family, **settings)).train()
    if is_checkpointed:
        objective.model.gradient_checkpointing_enable({"use_reentrant": False})
    with sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        objective(batch, 0).terms["mlm"].sum.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", [{}, {"num_layers": 4, "hidden_size": 24, "intermediate_size": 40}])
def test_full_rows_cost_what_torch_counts(family: str, sizes: dict[str, int]) -> None:
    # A local layer computes all scores and masks most of them, which torch counts and we do not.
    settings = sizes | ({"options": {"local_attention": 2 * LENGTH}} if family == "modernbert" else {})
    batch = batch_of([LENGTH] * 3)

    flops = flops_of(family, **settings)

    assert flops(batch) == counted_by_torch(family, batch, **settings)


def test_local_layers_cost_their_window_only() -> None:
    everywhere, local = (
        flops_of("modernbert", options={"local_attention": 2 * reach}) for reach in (LENGTH, 4)
    )
    batch = batch_of([LENGTH] * 3)
    masked_out = int((distances([LENGTH] * 3) > 4).sum())

    # Two of the three layers are local; forward and backward, two products of 32 channels.
    assert everywhere(batch) - local(batch) == masked_out * 2 * 3 * 2 * 2 * 32


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_costs_nothing(family: str) -> None:
    flops = flops_of(family)
    rows = [LENGTH, 9, 17]

    together = flops(batch_of(rows))

    assert together == sum(flops(batch_of([length])) for length in rows)
    assert together < flops(batch_of([LENGTH] * 3))


def test_what_is_computed_again_is_not_counted() -> None:
    batch = batch_of([LENGTH] * 3)
    flops = flops_of("roberta")

    computed = counted_by_torch("roberta", batch, is_checkpointed=True)

    assert flops(batch) < computed < flops(batch) * 4 / 3


def test_rows_without_tokens_have_no_pairs() -> None:
    assert pairs_within(torch.tensor([0, 0]), None) == 0
    assert pairs_within(torch.tensor([0, 1]), 3) == 1


def test_pairs_of_a_batch_are_those_of_its_rows() -> None:
    assert attended_pairs(batch_of([LENGTH, 3]), None) == LENGTH**2 + 9
    assert attended_pairs(batch_of([LENGTH, 3]), 1) == 3 * LENGTH - 2 + 7


def test_pairs_inside_documents_are_those_of_documents() -> None:
    batch = batch_of([5, 2])
    starts, ends = torch.zeros(2, LENGTH, dtype=torch.int32), torch.zeros(2, LENGTH, dtype=torch.int32)
    starts[0, :5] = torch.tensor([0, 0, 2, 2, 2])
    ends[0, :5] = torch.tensor([2, 2, 5, 5, 5])
    ends[1, :2] = 2
    batch.documents = Documents(starts=starts, ends=ends)
    batch.borders = batch.documents.borders()

    assert attended_pairs(batch, None) == 2**2 + 3**2 + 2**2
    assert attended_pairs(batch, 1) == 4 + 7 + 4


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5), reach=st.none() | st.integers(0, 50))
def test_pairs_are_those_counted_one_by_one(lengths: list[int], reach: int | None) -> None:
    limit = 10**6 if reach is None else reach

    assert pairs_within(torch.tensor(lengths), reach) == int((distances(lengths) <= limit).sum())


def distances(lengths: list[int]) -> np.ndarray:
    """Of all pairs of positions of all rows."""
    rows = [np.abs(np.subtract.outer(np.arange(n), np.arange(n))).ravel() for n in lengths]
    return np.concatenate(rows)
