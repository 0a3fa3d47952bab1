import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.accounting.metrics import MetricsLog, WindowSums
from pipeline.guidance.allocation import Allocation, allocate
from pipeline.guidance.guide import GuidanceTerms
from pipeline.guidance.schedule import GuidedStep
from pipeline.processes.cluster import Cluster

# Layer 0: heads 0 and 1 "next", head 2 "first". Layer 1: none. Layer 2: head 0 "first", head 1 "next".
ALLOCATION = allocate([{"next": 2, "first": 1}, {}, {"first": 1, "next": 1}])
LAYERS_0_AND_2 = GuidedStep.looking_at([0, 2])


def make_window(allocation: Allocation = ALLOCATION) -> WindowSums:
    return WindowSums(allocation, torch.device("cpu"))


def terms_of(errors: list[list[float]], rows: list[list[float]]) -> GuidanceTerms:
    """The mass is half of the errors."""
    return GuidanceTerms(torch.tensor(errors), torch.tensor(errors) / 2, torch.tensor(rows))


def add_step(window: WindowSums, scale: float = 1.0) -> None:
    """A step of two micro-batches that looks at layers 0 and 2."""
    for _ in range(2):
        window.add(loss=torch.tensor(6.0 * scale), correct=torch.tensor(1), guidance_loss=0.25)
        errors = [[2.0 * scale, 4.0 * scale, 6.0 * scale], [3.0 * scale, 1.0 * scale, 0.0]]
        window.add_guidance(LAYERS_0_AND_2, terms_of(errors, [[10.0, 10.0, 12.0], [12.0, 10.0, 0.0]]))
    window.add(predicted=8, tokens=100, steps=1)


@dataclass
class TwoAlike(Cluster):
    """Two processes that have counted the same."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values.mul_(2)


# Sums of a window


def test_totals_are_means_over_what_was_added(alone: Cluster) -> None:
    window = make_window()
    add_step(window)
    add_step(window, scale=3.0)

    totals = window.take(alone)

    assert totals["loss"] == pytest.approx((2 * 6 + 2 * 18) / 16)
    assert totals["accuracy"] == pytest.approx(4 / 16)
    assert totals["tokens"] == 200
    assert totals["steps"] == 2
    assert totals["guidance_loss"] == pytest.approx(0.5)  # per step: both micro-batches add to it
    # Each head was added twice at scale 1 and twice at scale 3, over four times its rows.
    assert totals["guidance_error"] == {
        "next": pytest.approx(8 * (2 + 4 + 1) / (4 * 3 * 10)),
        "first": pytest.approx(8 * (6 + 3) / (4 * 2 * 12)),
    }
    assert totals["guidance_mass"] == {
        "next": [pytest.approx(8 * 3 / (4 * 2 * 10)), None, pytest.approx(8 * 0.5 / (4 * 10))],
        "first": [pytest.approx(8 * 3 / (4 * 12)), None, pytest.approx(8 * 1.5 / (4 * 12))],
    }


def test_patterns_are_told_in_the_order_of_the_layers(alone: Cluster) -> None:
    window = make_window(allocate([{"last": 1}, {"delimiters": 1, "next": 1, "last": 1}]))

    totals = window.take(alone)

    assert list(totals["guidance_error"]) == list(totals["guidance_mass"]) == ["last", "delimiters", "next"]


def test_layers_looked_at_in_other_steps_are_told_apart(alone: Cluster) -> None:
    """As sampled steps do: a layer a step, and of the rows some."""
    window = make_window()
    window.add_guidance(GuidedStep.looking_at([2]), terms_of([[4.0, 8.0, 0.0]], [[2.0, 4.0, 0.0]]))
    window.add_guidance(GuidedStep.looking_at([0]), terms_of([[6.0, 2.0, 1.0]], [[3.0, 1.0, 1.0]]))
    window.add(loss=1.0, predicted=1, steps=2, tokens=1, correct=0)

    totals = window.take(alone)

    assert totals["guidance_error"] == {"next": 16.0 / 8.0, "first": 5.0 / 3.0}
    assert totals["guidance_mass"] == {"next": [1.0, None, 1.0], "first": [0.5, None, 1.0]}


def test_step_that_looks_at_nothing_adds_nothing(alone: Cluster) -> None:
    window, expected = make_window(), make_window()
    add_step(window)
    add_step(expected)

    nothing = torch.zeros(0, 3)
    window.add_guidance(GuidedStep(), GuidanceTerms(nothing, nothing, nothing))

    assert window.take(alone) == expected.take(alone)


def test_sums_of_single_steps_make_those_of_the_window(alone: Cluster) -> None:
    window, step, expected = make_window(), make_window(), make_window()
    for scale in (1.0, 3.0):
        step.clear()
        add_step(step, scale)
        window.add_sums(step)
        add_step(expected, scale)

    assert window.take(alone) == expected.take(alone)


def test_digests_tell_windows_apart_and_survive_a_restart(alone: Cluster) -> None:
    whole, first, resumed, other = make_window(), make_window(), make_window(), make_window()
    for window in (whole, first, other):
        window.add_digest(4, 77)
    resumed.restore(first.state())
    for window in (whole, resumed):
        window.add_digest(5, 78)
    other.add_digest(5, 79)

    digests = [window.take(alone)["rows_digest"] for window in (whole, resumed, other, whole)]

    assert digests[0] == digests[1] != digests[2]
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
    assert digests[3] == "0" * 16  # a new window


def test_taking_begins_a_new_window(alone: Cluster) -> None:
    window, fresh = make_window(), make_window()
    add_step(window, scale=100.0)
    window.take(alone)
    add_step(window)
    add_step(fresh)

    assert window.take(alone) == fresh.take(alone)


def test_processes_are_summed() -> None:
    window, doubled = make_window(), make_window()
    add_step(window)
    add_step(doubled)
    cpu = torch.device("cpu")

    one = window.take(Cluster(0, 0, 1, cpu))
    both = doubled.take(TwoAlike(0, 0, 2, cpu))

    assert both["tokens"] == 2 * one["tokens"]
    assert both["steps"] == 2 * one["steps"]  # only one process of a run counts them
    for name in ("loss", "accuracy", "guidance_loss", "guidance_error", "guidance_mass"):
        assert both[name] == one[name]
    assert one["guidance_mass"]["next"][0] > 0


def test_window_without_guidance_has_no_errors(alone: Cluster) -> None:
    window = make_window()
    window.add(loss=1.0, predicted=2, steps=1, tokens=3, correct=0)

    totals = window.take(alone)

    assert totals["guidance_error"] == {"next": None, "first": None}
    assert totals["guidance_mass"]["next"] == [None, None, None]
    assert totals["guidance_loss"] == 0.0


def test_empty_window_has_no_loss(alone: Cluster) -> None:
    totals = make_window(allocate([{}, {}])).take(alone)

    assert math.isnan(totals["loss"])
    assert (totals["guidance_error"], totals["guidance_mass"]) == ({}, {})


def test_state_continues_a_window_elsewhere(alone: Cluster, tmp_path: Path) -> None:
    whole, first = make_window(), make_window()
    add_step(whole)
    add_step(first)
    torch.save(first.state(), tmp_path / "state.pt")
    resumed = make_window()
    assert resumed.restore(torch.load(tmp_path / "state.pt"))

    add_step(whole, scale=2.0)
    add_step(resumed, scale=2.0)

    assert resumed.take(alone) == whole.take(alone)


@pytest.mark.parametrize(
    "table",
    [[{"next": 1}, {}, {}], [{"first": 1, "next": 2}, {}, {"next": 1, "first": 1}]],
    ids=["fewer", "moved"],
)
def test_sums_of_other_heads_are_not_taken_over(alone: Cluster, table: list[dict[str, int]]) -> None:
    """After a change of heads that the user has accepted."""
    window, resumed = make_window(), make_window(allocate(table))
    add_step(window)

    assert not resumed.restore(window.state())

    totals = resumed.take(alone)
    assert totals["tokens"] == 100
    assert set(totals["guidance_error"].values()) == {None}


def test_sums_hold_no_graph() -> None:
    window = make_window()
    value = torch.ones(2, 3, requires_grad=True)

    window.add(loss=value.sum())
    window.add_guidance(LAYERS_0_AND_2, GuidanceTerms(value, value.detach(), value.detach()))

    assert not window.counters.requires_grad
    assert not window.by_head.requires_grad


# The log


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, first_step: int, steps: list[int], tensorboard: Path | None = None) -> None:
    log = MetricsLog(path, tensorboard, first_step)
    for step in steps:
        log.write("train", {"step": step, "loss": 1.0 / step, "mass": {"next": [0.5, None]}})
    log.close()


def test_line_says_its_kind_and_time(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, 0, [1])

    line = json.loads(path.read_text(encoding="utf-8"))

    assert line["kind"] == "train"
    assert line["time"].endswith("+00:00")
    assert (line["step"], line["loss"]) == (1, 1.0)


def test_lines_are_on_disk_as_soon_as_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, None, 0)

    log.write("train", {"step": 1})

    assert steps_in(path) == [1]
    log.close()


def test_continuing_drops_the_lines_of_steps_that_are_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, 0, [2, 4, 6, 8])

    write_lines(path, 4, [6])

    assert steps_in(path) == [2, 4, 6]


def test_continuing_drops_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, 0, [2, 4])
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")

    write_lines(path, 4, [6])

    assert steps_in(path) == [2, 6]


def test_lines_are_strict_json_even_when_a_loss_is_not_a_number(tmp_path: Path) -> None:
    """NaN is no JSON: most readers outside Python refuse the whole file."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, None, 0)
    log.write("train", {"step": 1, "loss": math.nan})
    log.close()

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)["step"] == 1


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_lines(tmp_path / "metrics.jsonl", 0, [1, 2], tensorboard=tmp_path / "events")

    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/mass/next/00"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
