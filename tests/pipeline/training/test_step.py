"""A step's loss, gradients, counts and flags: by the formula, however its rows are dealt out."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.accounting.metrics import WindowSums
from pipeline.data.batches import Batch, PhasedBatches, RowBatcher
from pipeline.data.corpus import CorpusRows
from pipeline.data.draws import Drawn, RowKeys
from pipeline.data.phases import Phase
from pipeline.engine import PretrainingModule
from pipeline.objectives.protocol import Pass, Scored, Term
from pipeline.processes.cluster import Cluster
from pipeline.training.row_losses import RowLosses
from pipeline.training.step import StepOutcome, StepRunner
from tests.pipeline.data.test_batches import MemorySplit
from tests.pipeline.tiny_models import tiny_model

CPU = torch.device("cpu")
GLOBAL_BATCH, NUM_ROWS, LENGTH = 8, 20, MemorySplit.sequence_length
WEIGHTS = {"tokens": 1.0, "even": 0.25, "rows": 3.0}
NETWORK = tiny_model("bert", num_layers=1)  # only for counting operations


def draw_even(rows: CorpusRows, _keys: RowKeys) -> Drawn:
    """Counts even tokens, and rows."""
    is_even = (rows.input_ids % 2 == 0) & (np.arange(LENGTH) < rows.lengths[:, None])
    counts = {"even": float(is_even.sum()), "rows": float((rows.lengths > 0).sum())}
    return Drawn(columns={"is_even": is_even}, counts=counts, fingerprint=(is_even.astype(np.int64),))


class TwoTerms(nn.Module):
    """Terms with denominators of their own: of tokens, of even tokens, of rows. float64, so sums compare."""

    networks = {"model": NETWORK}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.rand(200, generator=generator, dtype=torch.float64))
        self.slope = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.spoilt: int | None = None  # a row, by its first token

    def forward(self, batch: Batch, step: int | None) -> Scored:
        is_real = torch.arange(LENGTH) < batch.lengths[:, None]
        values = self.weight[batch.input_ids] * is_real
        if self.spoilt is not None:
            values = values * torch.where(batch.input_ids[:, :1] == self.spoilt, torch.nan, 1.0)
        by_row = {
            "tokens": values.square().sum(1),
            "even": (values.sin() * batch.columns["is_even"]).sum(1),
            "rows": (self.slope * values.sum(1)).cos(),
        }
        return Scored(
            terms={name: Term(value.sum(), name, WEIGHTS[name]) for name, value in by_row.items()},
            rows=torch.stack([by_row["tokens"].detach(), batch.lengths.double()]).float(),
            sums={"squares": by_row["tokens"].detach().sum(), "by place": values.detach().sum(0)},
        )

    def passes(self, batch: Batch) -> list[Pass]:
        return [Pass("model", batch.counts["even"], 97)]

    def exports(self) -> dict[str, tuple[str, type]]:
        return {}


class AddsToTheLoss:
    """A regularizer that counts a column of its own and divides its term itself."""

    name = "extra"

    def __init__(self, objective: TwoTerms) -> None:
        self.objective = objective

    def prepare(self, batch: Batch, step: int | None) -> None:
        batch.columns["extra"] = batch.input_ids % 3
        batch.counts["extra"] = float(batch.columns["extra"].sum())

    def around(self, score: Callable, batch: Batch, step: int | None, totals: dict[str, float]) -> Scored:
        scored = score(batch, step)
        own = (self.objective.weight[batch.input_ids].exp() * batch.columns["extra"]).sum() / totals["extra"]
        return scored._replace(terms=scored.terms | {"extra": Term(own, None, 0.5)})


@dataclass
class Meeting:
    """Where the threads of a test meet, each a process of a run."""

    world_size: int
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.world_size, timeout=30)


class ThreadCluster(Cluster):
    """A process that is a thread."""

    meeting: Meeting

    @staticmethod
    def of(rank: int, meeting: Meeting) -> "ThreadCluster":
        cluster = ThreadCluster(rank, rank, meeting.world_size, CPU)
        cluster.meeting = meeting
        return cluster

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.meeting.values[self.rank] = values.clone()
        self.meeting.barrier.wait()
        total = torch.stack([self.meeting.values[rank] for rank in range(self.world_size)]).sum(0)
        self.meeting.barrier.wait()
        return values.copy_(total)


class FakeEngine:
    """What StepRunner needs of DeepSpeed's: means over micro-steps and processes, steps that are skipped.

    Plain descent; its state is the module's parameters.
    """

    def __init__(self, module: PretrainingModule, cluster: ThreadCluster, micro_steps: int) -> None:
        self.module, self.cluster, self.micro_steps = module, cluster, micro_steps
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}, {"lr": 0.0}])
        self.parameters = list(module.parameters())
        self.gradients = [torch.zeros_like(p) for p in self.parameters]
        self.losses: list[float] = []
        self._was_applied, self._count = False, 0

    def __call__(self, *inputs: object) -> Scored:
        return self.module(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        shares = self.micro_steps * self.cluster.world_size
        self.losses.append(loss.item() / shares)
        found = torch.autograd.grad(loss / shares, self.parameters, allow_unused=True)
        for total, gradient in zip(self.gradients, found):
            if gradient is not None:
                total += gradient

    def step(self) -> None:
        self._count += 1
        if self._count % self.micro_steps:
            return
        self.gradients = [self.cluster.sum(gradient) for gradient in self.gradients]
        self._was_applied = all(bool(torch.isfinite(g).all()) for g in self.gradients)
        if self._was_applied:
            with torch.no_grad():
                for parameter, gradient in zip(self.parameters, self.gradients):
                    parameter -= self.optimizer.param_groups[0]["lr"] * gradient

    def was_step_applied(self) -> bool:
        return self._was_applied


@dataclass
class Process:
    """What is left of a process."""

    engine: FakeEngine
    runner: StepRunner
    outcome: StepOutcome | None = None


def batches_of(world_size: int, rank: int, micro_batch: int) -> PhasedBatches:
    phase = Phase(
        first_step=0, end_step=100, corpus="memory", global_batch_size=GLOBAL_BATCH,
        micro_batch_limit=micro_batch,
    )  # fmt: skip
    batcher = RowBatcher(MemorySplit(NUM_ROWS), draw_even, 0)
    return PhasedBatches.of([phase], {"memory": batcher}, 0, world_size, rank)


def first_token(row: int) -> int:
    return int(MemorySplit(NUM_ROWS).ids[row, 0])


def rows_of(step: int) -> np.ndarray:
    return batches_of(1, 0, GLOBAL_BATCH).part_of(step).rows(step)


def run(
    world_size: int,
    micro_batch: int,
    steps: list[int],
    *,
    flags: Callable[[int], list[bool]] = lambda rank: [],
    spoilt: dict[int, int] | None = None,
) -> list[Process]:
    """Take steps, in some of which a row is spoilt: step -> row. Every process has its own copy of all."""
    meeting = Meeting(world_size)

    def process(rank: int) -> Process:
        cluster, batches = ThreadCluster.of(rank, meeting), batches_of(world_size, rank, micro_batch)
        objective = TwoTerms()
        module = PretrainingModule(objective, [AddsToTheLoss(objective)])
        engine = FakeEngine(module, cluster, GLOBAL_BATCH // (world_size * micro_batch))
        window, row_losses = WindowSums(CPU), RowLosses(batches, CPU)
        runner = StepRunner(engine, module, lambda step: 0.01 * (step + 1), window, row_losses, cluster)
        made = Process(engine, runner)
        for step in steps:
            row = (spoilt or {}).get(step)
            objective.spoilt = None if row is None else first_token(row)
            engine.gradients = [torch.zeros_like(p) for p in engine.parameters]
            made.outcome = runner.run(step, batches[step], flags(rank))
        return made

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(process, range(world_size)))


def loss_by_formula(step: int) -> torch.Tensor:
    """Of the whole global batch at once."""
    rows = batches_of(1, 0, GLOBAL_BATCH)[step][0]
    embedded = TwoTerms().weight[rows.input_ids]
    values = embedded * (torch.arange(LENGTH) < rows.lengths[:, None])
    tokens = values.square().sum() / rows.lengths.sum()
    is_even = rows.columns["is_even"]
    even = (values.sin() * is_even).sum() / is_even.sum()
    cosines = values.sum(1).cos().mean()
    extra = rows.input_ids % 3
    return tokens + 0.25 * even + 3.0 * cosines + 0.5 * (embedded.exp() * extra).sum() / extra.sum()


ways = pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 8), (1, 2), (2, 4), (2, 1), (4, 2)])


@ways
def test_loss_is_that_of_the_formula(world_size: int, micro_batch: int) -> None:
    processes = run(world_size, micro_batch, [3])

    found = sum(sum(process.engine.losses) for process in processes)

    assert found == pytest.approx(loss_by_formula(3).item(), rel=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 60), st.sampled_from([(1, 1), (1, 4), (2, 4), (2, 2), (4, 2), (4, 1), (8, 1)]))
def test_gradients_do_not_depend_on_the_division_of_work(step: int, way: tuple[int, int]) -> None:
    (whole,), processes = run(1, GLOBAL_BATCH, [step]), run(*way, [step])

    for process in processes:
        for found, expected in zip(process.engine.gradients, whole.engine.gradients):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for found, expected in zip(process.engine.parameters, whole.engine.parameters):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    loss = loss_by_formula(step)
    assert sum(whole.engine.losses) == pytest.approx(loss.item(), rel=1e-12)
    assert all(gradient.abs().sum() > 0 for gradient in whole.engine.gradients)


def test_learning_rate_is_that_of_the_step() -> None:
    (process,) = run(1, 8, [4])

    assert [group["lr"] for group in process.engine.optimizer.param_groups] == [0.05, 0.05]


@ways
def test_counts_and_sums_of_a_window_are_those_of_all_rows(world_size: int, micro_batch: int) -> None:
    (whole,), processes = run(1, 8, [2, 3]), run(world_size, micro_batch, [2, 3])

    expected = whole.runner.window.take(whole.runner.cluster)
    with ThreadPoolExecutor(world_size) as pool:
        by_process = list(pool.map(lambda one: one.runner.window.take(one.runner.cluster), processes))

    assert set(expected) == {
        *("tokens", "positions", "even", "rows", "extra", "squares", "by place", "flops", "steps"),
    }
    assert (expected["steps"], expected["rows"]) == (2, 2 * GLOBAL_BATCH)
    for found in by_process:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=name)


@ways
def test_rows_and_digests_are_those_of_all_processes(world_size: int, micro_batch: int) -> None:
    (whole,), processes = run(1, 8, [2, 3]), run(world_size, micro_batch, [2, 3])
    assert {one.runner.window.digest for one in processes} == {whole.runner.window.digest} != {0}

    expected = whole.runner.row_losses.take(whole.runner.cluster)
    with ThreadPoolExecutor(world_size) as pool:
        by_process = list(pool.map(lambda one: one.runner.row_losses.take(one.runner.cluster), processes))

    for found in by_process:
        assert [one.step for one in found] == [3, 4]
        for one, other in zip(found, expected):
            assert one.rows.tolist() == other.rows.tolist()
            assert one.counts.tolist() == other.counts.tolist()
            np.testing.assert_allclose(one.sums, other.sums, rtol=1e-4, atol=1e-4)


def test_flags_are_counted_in_their_order() -> None:
    processes = run(4, 1, [0], flags=lambda rank: [rank == 2, True, False, rank > 1])

    assert [process.outcome.flags for process in processes] == [[1, 4, 0, 2]] * 4


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 8), (1, 2), (2, 2), (4, 1)])
def test_a_row_that_is_no_number_skips_the_step_on_all_processes(world_size: int, micro_batch: int) -> None:
    row = int(rows_of(1)[5])

    processes = run(world_size, micro_batch, [0, 1], spoilt={1: row}, flags=lambda rank: [True])
    good = run(world_size, micro_batch, [0])

    for process, before in zip(processes, good):
        fault = process.outcome.fault
        assert (fault.step, fault.reason, fault.rows) == (2, "loss", [row])
        assert process.outcome.flags == [world_size]
        assert not process.engine.was_step_applied()
        for found, expected in zip(process.engine.parameters, before.engine.parameters):
            assert torch.equal(found, expected)
        # The window has the good step, and that one was skipped, which is counted once.
        state, expected_state = process.runner.window.state(), before.runner.window.state()
        is_main = float(process.runner.cluster.is_main)
        assert state.pop("sum skipped_steps").item() == is_main
        assert state.keys() == expected_state.keys()
        assert state["digest"] == expected_state["digest"]
        for name in state.keys() - {"digest"}:
            assert torch.equal(state[name], expected_state[name])
        assert process.runner.row_losses.state()["steps"] == [0]


def test_a_step_after_a_faulty_one_is_as_if_there_had_been_none() -> None:
    row = int(rows_of(1)[0])

    spoilt, plain = run(2, 2, [0, 1, 2], spoilt={1: row}), run(2, 2, [0, 2])

    for process, expected in zip(spoilt, plain):
        assert process.outcome.fault is None
        for found, value in zip(process.engine.parameters, expected.engine.parameters):
            assert torch.equal(found, value)
        assert process.runner.window.digest == expected.runner.window.digest


def test_a_term_that_is_infinite_gives_no_gradient_either() -> None:
    """The gradient of a loss that is not finite may well be."""
    (process,) = run(1, 8, [0])
    module, batches = process.runner.module, batches_of(1, 0, 8)
    objective = module.objective
    scored = objective.forward

    def infinite(batch: Batch, step: int | None) -> Scored:
        found = scored(batch, step)
        lost = found.terms["tokens"]
        return found._replace(terms=found.terms | {"tokens": lost._replace(sum=lost.sum + torch.inf)})

    objective.forward = infinite
    process.engine.gradients = [torch.zeros_like(p) for p in process.engine.parameters]

    outcome = process.runner.run(1, batches[1], [])

    assert outcome.fault is not None
    assert outcome.fault.reason == "gradient"  # every row's own loss is finite
    assert all(torch.isnan(gradient).any() for gradient in process.engine.gradients)
