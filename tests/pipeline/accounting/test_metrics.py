import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.accounting.metrics import MetricsLog, WindowSums, values_of, window_of_version_1
from pipeline.objectives.protocol import Metric
from pipeline.processes.cluster import Cluster

CPU = torch.device("cpu")
METRICS = (
    Metric("loss", "loss", "predicted", "nats"),
    Metric("perplexity", "loss", "predicted", "", math.exp, only_held_out=True),
    Metric("hits", "correct", "tokens", "share"),
)


def make_window() -> WindowSums:
    return WindowSums(CPU)


def add_step(window: WindowSums, scale: float = 1.0) -> None:
    """A step of two micro-batches with sums of several shapes."""
    for _ in range(2):
        window.add({"loss": torch.tensor(6.0 * scale), "correct": torch.tensor(1), "predicted": 4.0})
        window.add({"by head": torch.tensor([[2.0, 4.0, 6.0], [3.0, 1.0, 0.0]]) * scale, "tokens": 50.0})
    window.add({"steps": 1})


def values(totals: dict[str, torch.Tensor]) -> dict[str, object]:
    return {name: value.tolist() for name, value in totals.items()}


@dataclass
class TwoAlike(Cluster):
    """Two processes that have counted the same."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values.mul_(2)


# Sums of a window


def test_totals_are_sums_by_name_in_their_shapes(alone: Cluster) -> None:
    window = make_window()
    add_step(window)
    add_step(window, scale=3.0)

    totals = window.take(alone)

    assert values(totals) == {
        "loss": 2 * 6.0 + 2 * 18.0,
        "correct": 4.0,
        "predicted": 16.0,
        "tokens": 200.0,
        "steps": 2.0,
        "by head": [[16.0, 32.0, 48.0], [24.0, 8.0, 0.0]],
    }
    assert {value.dtype for value in totals.values()} == {torch.float64}


shapes = st.lists(st.integers(0, 3), max_size=3)


@given(st.dictionaries(st.text(max_size=4), shapes, max_size=5), st.integers(1, 4))
def test_sums_may_have_any_shape_and_any_name(by_name: dict[str, list[int]], times: int) -> None:
    window, generator = make_window(), torch.Generator().manual_seed(0)
    added = {name: torch.rand(shape, generator=generator) for name, shape in by_name.items()}
    for _ in range(times):
        window.add(added)

    totals = window.take(TwoAlike(0, 0, 2, CPU))

    assert totals.keys() == added.keys()
    for name, value in added.items():
        torch.testing.assert_close(totals[name], 2 * times * value.double())


def test_order_of_names_does_not_matter(alone: Cluster) -> None:
    """Processes sum by place, so all must lay their sums out alike."""
    one, other = make_window(), make_window()
    one.add({"b": torch.ones(2), "a": 3.0, "c": torch.tensor(2.0)})
    other.add({"c": torch.tensor(2.0), "a": 3.0})
    other.add({"b": torch.ones(2)})

    first, second = one.take(alone), other.take(alone)

    assert list(first) == list(second)
    assert values(first) == values(second)


def test_numbers_and_tensors_of_a_name_are_one_sum(alone: Cluster) -> None:
    window = make_window()
    window.add({"steps": torch.tensor(2.0)})
    window.add({"steps": 1})

    assert values(window.take(alone)) == {"steps": 3.0}


def test_what_is_added_is_not_changed(alone: Cluster) -> None:
    window, value = make_window(), torch.ones(2, dtype=torch.float64)
    window.add({"a": value})
    window.add({"a": value})

    assert values(window.take(alone)) == {"a": [2.0, 2.0]}
    assert value.tolist() == [1.0, 1.0]


def test_sums_of_single_steps_make_those_of_the_window(alone: Cluster) -> None:
    window, expected = make_window(), make_window()
    for scale in (1.0, 3.0):
        step = make_window()
        add_step(step, scale)
        window.add_sums(step)
        add_step(expected, scale)

    assert values(window.take(alone)) == values(expected.take(alone))


def test_digests_tell_windows_apart_and_survive_a_restart(alone: Cluster) -> None:
    whole, first, resumed, other = make_window(), make_window(), make_window(), make_window()
    for window in (whole, first, other):
        window.add_digest(4, 77)
    resumed.restore(first.state())
    for window in (whole, resumed):
        window.add_digest(5, 78)
    other.add_digest(5, 79)

    assert whole.digest == resumed.digest != other.digest
    assert 0 < whole.digest < 2**64
    whole.take(alone)
    assert whole.digest == 0  # a new window


def test_taking_begins_a_new_window(alone: Cluster) -> None:
    window, fresh = make_window(), make_window()
    add_step(window, scale=100.0)
    window.take(alone)
    assert window.take(alone) == {}
    add_step(window)
    add_step(fresh)

    assert values(window.take(alone)) == values(fresh.take(alone))


def test_processes_are_summed(alone: Cluster) -> None:
    window, doubled = make_window(), make_window()
    add_step(window)
    add_step(doubled)

    one, both = window.take(alone), doubled.take(TwoAlike(0, 0, 2, CPU))

    for name, value in one.items():
        assert torch.equal(both[name], 2 * value)
    assert values_of(METRICS, both, held_out=True) == values_of(METRICS, one, held_out=True)


def test_state_continues_a_window_elsewhere(alone: Cluster, tmp_path: Path) -> None:
    whole, first = make_window(), make_window()
    add_step(whole)
    add_step(first)
    torch.save(first.state(), tmp_path / "state.pt")
    resumed = make_window()
    add_step(resumed, scale=50.0)  # forgotten
    resumed.restore(torch.load(tmp_path / "state.pt"))

    add_step(whole, scale=2.0)
    add_step(resumed, scale=2.0)

    assert values(resumed.take(alone)) == values(whole.take(alone))


def test_counters_by_place_are_told_by_name(alone: Cluster) -> None:
    by_head = torch.arange(6.0, dtype=torch.float64).view(3, 1, 2)
    state = {"counters": torch.arange(9.0, dtype=torch.float64), "by_head": by_head, "digest": 5}
    window = make_window()

    window.restore(window_of_version_1({**state, "heads": []}, "of heads"))

    assert window.digest == 5
    assert values(window.take(alone)) == {
        **{"loss": 0.0, "predicted": 1.0, "correct": 2.0, "tokens": 3.0, "positions": 4.0, "flops": 5.0},
        **{"guidance_loss": 6.0, "steps": 7.0, "skipped_steps": 8.0, "of heads": by_head.tolist()},
    }


def test_sums_hold_no_graph() -> None:
    window = make_window()
    value = torch.ones(2, 3, requires_grad=True)

    for _ in range(2):
        window.add({"loss": value.sum(), "by head": value})

    assert not any(kept.requires_grad for kept in window.state().values() if isinstance(kept, torch.Tensor))


# Metrics


def test_metrics_are_quotients_of_sums(alone: Cluster) -> None:
    window = make_window()
    add_step(window)
    add_step(window, scale=3.0)
    totals = window.take(alone)

    found = values_of(METRICS, totals, held_out=False)

    assert found == {"loss": 48.0 / 16, "hits": 4 / 200}
    held_out = values_of(METRICS, totals, held_out=True)
    assert held_out == {**found, "perplexity": pytest.approx(math.exp(3.0))}


def test_empty_window_has_no_loss() -> None:
    assert math.isnan(values_of(METRICS, {}, held_out=False)["loss"])
    zero = {"loss": torch.tensor(0.0), "predicted": torch.tensor(0.0)}
    assert math.isnan(values_of(METRICS, zero, held_out=False)["loss"])


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
