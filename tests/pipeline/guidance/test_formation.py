from dataclasses import dataclass

import pytest
import torch

from pipeline.guidance.formation import Formation, head_means
from pipeline.guidance.guide import GuidanceTerms
from pipeline.processes.cluster import Cluster
from tests.pipeline.guidance.cases import schedule_of

FORMED_MASS = 0.5


@dataclass
class TwoProcesses(Cluster):
    """This process and another one with the given mass and rows, (2, layers, heads)."""

    other: torch.Tensor | None = None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.other


def make_formation(**changes: object) -> Formation:
    return Formation(schedule_of(**changes), FORMED_MASS)


def terms_of(mass_per_row: list[float], rows: float = 8.0) -> GuidanceTerms:
    """Terms of one layer whose heads have this mean mass."""
    mass = torch.tensor([mass_per_row]) * rows
    return GuidanceTerms(errors=torch.zeros_like(mass), mass=mass, rows=torch.full_like(mass, rows))


def due_steps(formation: Formation) -> list[int]:
    return [step for step in range(120) if formation.is_due(step)]


# When to look


def test_every_tenth_step_of_the_dense_phase_is_due() -> None:
    assert due_steps(make_formation()) == [9, 19, 29, 39]
    assert due_steps(make_formation(plateau_steps=39)) == [9, 19, 29]


@pytest.mark.parametrize("dense_steps", [0, 40, 100])
def test_no_step_is_due_where_the_dense_phase_has_a_fixed_length(dense_steps: int) -> None:
    assert due_steps(make_formation(dense_steps=dense_steps)) == []


@pytest.mark.parametrize("changes", [{"weight": 0.0}, {"weight": 0.0, "bias": 8.0}, {"layers": ()}])
def test_no_step_is_due_where_no_layer_is_looked_at(changes: dict[str, object]) -> None:
    assert due_steps(make_formation(**changes)) == []


def test_no_step_is_due_once_the_patterns_have_formed(alone: Cluster) -> None:
    formation = make_formation()
    formation.add(terms_of([0.9, 0.8]))

    formation.judge(9, alone)

    assert due_steps(formation) == []


# When formed


@pytest.mark.parametrize(
    ("num_formed", "num_heads", "formed"),
    [
        (10, 10, True),
        (9, 10, True),
        (8, 10, False),
        (18, 20, True),
        (17, 20, False),
        (8, 9, False),
        (1, 1, True),
        (0, 1, False),
        (63, 70, True),
        (129, 144, False),
    ],
)
def test_nine_in_ten_heads_must_have_the_mass(
    num_formed: int, num_heads: int, formed: bool, alone: Cluster
) -> None:
    formation = make_formation()
    formation.add(terms_of([0.6] * num_formed + [0.4] * (num_heads - num_formed)))

    mean_mass = formation.judge(19, alone)

    if formed:
        share = num_formed / num_heads
        assert mean_mass == pytest.approx(0.6 * share + 0.4 * (1 - share))
        assert formation.formed_step == 20
    else:
        assert mean_mass is None
        assert formation.formed_step is None


def test_exactly_the_wanted_mass_is_enough(alone: Cluster) -> None:
    formation = make_formation()
    formation.add(terms_of([FORMED_MASS]))

    assert formation.judge(9, alone) == FORMED_MASS


def test_mass_is_of_all_micro_batches_together(alone: Cluster) -> None:
    """Weighted by their rows: 6 rows of 0.9 and 2 of 0.1 are 0.7 per row; then 6 of 0.1 and 2 of 0.9."""
    formation = make_formation()
    formation.add(terms_of([0.9, 0.9], rows=6.0))
    formation.add(terms_of([0.1, 0.1], rows=2.0))

    assert formation.judge(9, alone) == pytest.approx(0.7)

    formation = make_formation()
    formation.add(terms_of([0.1, 0.1], rows=6.0))
    formation.add(terms_of([0.9, 0.9], rows=2.0))
    assert formation.judge(9, alone) is None


def test_mass_is_of_all_processes_together() -> None:
    """The other process has three times the rows, with more or with less mass."""
    for other_mass, formed in [(0.6, True), (0.4, False)]:
        other = torch.tensor([[[other_mass * 24.0] * 2], [[24.0] * 2]], dtype=torch.float64)
        formation = make_formation()
        formation.add(terms_of([0.45, 0.55]))

        mean_mass = formation.judge(9, TwoProcesses(0, 0, 2, torch.device("cpu"), other=other))

        assert (mean_mass is not None) == formed
        assert (formation.formed_step == 10) == formed


def test_heads_without_rows_are_left_out(alone: Cluster) -> None:
    """Those that are not guided in a layer, and those whose pattern had no target."""
    formation = make_formation()
    mass = torch.tensor([[8.0, 0.0, 0.0], [6.0, 7.0, 0.0]])
    rows = torch.tensor([[10.0, 0.0, 0.0], [10.0, 10.0, 0.0]])
    formation.add(GuidanceTerms(errors=mass, mass=mass, rows=rows))

    assert formation.judge(9, alone) == pytest.approx(0.7)


def test_nothing_forms_without_any_rows(alone: Cluster) -> None:
    formation = make_formation()
    formation.add(terms_of([0.0, 0.0], rows=0.0))

    assert formation.judge(9, alone) is None


def test_a_later_look_does_not_remember_an_earlier_one(alone: Cluster) -> None:
    formation = make_formation()
    formation.add(terms_of([0.1] * 4, rows=800.0))
    assert formation.judge(9, alone) is None

    formation.add(terms_of([0.6] * 4))

    assert formation.judge(19, alone) == pytest.approx(0.6)
    assert formation.formed_step == 20


def test_once_formed_the_run_is_sampled_for_good(alone: Cluster) -> None:
    formation = make_formation()
    formation.add(terms_of([0.9, 0.9]))

    formation.judge(9, alone)

    schedule, formed_step = formation.schedule, formation.formed_step
    num_layers = [len(schedule.at(step, formed_step).layers) for step in range(100)]
    assert num_layers == [2] * 10 + [1] * 90


def test_mean_mass_is_per_row_of_every_head_that_had_rows() -> None:
    means = head_means(torch.tensor([[2.0, 0.0], [3.0, 1.0]]), torch.tensor([[4.0, 0.0], [4.0, 4.0]]))

    assert means.tolist() == [0.5, 0.75, 0.25]
