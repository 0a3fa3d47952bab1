"""Guidance of a run: schedule, targets, loss, formation and figures put together."""

import math
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch

from pipeline.accounting.metrics import WindowSums
from pipeline.data.batches import Batch
from pipeline.data.masking import IGNORED_LABEL
from pipeline.guidance.allocation import allocate
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.loss import make_guidance_loss
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import GuidedLayer, GuidedStep
from pipeline.guidance.targets import Targets
from pipeline.objectives.protocol import Scored, Term
from pipeline.processes.cluster import Cluster
from tests.pipeline.guidance.cases import documents_of, schedule_of
from tests.pipeline.guidance.dense import TOKEN_SETS, Rows, target_matrices
from tests.pipeline.modules import batch_of_rows

ROWS = Rows(torch.tensor([[9, 0, 9, 2, 9, 9], [0, 9, 9, 2, 2, 2]]), [[4, 2], [3]])
HEADS = {"next": 1, "delimiters": 2}
MASK_ID = 4
VALID = ["guidance/valid rows/0", "guidance/valid rows/1"]
# Layer 0: heads 0 and 1 "next", head 2 "first". Layer 1: none. Layer 2: head 0 "first", head 1 "next".
UNEVEN = [{"next": 2, "first": 1}, {}, {"first": 1, "next": 1}]


def make_guidance(
    table: list[dict[str, int]] | None = None, name: str = "guidance", **changes: object
) -> RunGuidance:
    """Of two layers, one of them looked at in a sampled step, or of those in the table."""
    allocation = allocate(table or [HEADS] * 2, TOKEN_SETS)
    schedule = schedule_of(**changes)
    loss = make_guidance_loss(allocation, "mean")
    network = SimpleNamespace(training=False)
    return RunGuidance(network, AttentionGuide(allocation), schedule, loss, Formation(schedule, 0.5), name)


def masked_batch() -> Batch:
    """ROWS with the delimiter of the first document masked, and another one made of an ordinary token."""
    batch = batch_of_rows(
        ROWS.ids.clone(),
        torch.tensor(ROWS.lengths),
        positions=torch.tensor([[1, 0], [1, 2]]),
        labels=torch.tensor([[0, IGNORED_LABEL], [9, IGNORED_LABEL]]),
        documents=documents_of(ROWS),
    )
    batch.columns["replacements"] = torch.tensor([[MASK_ID, 9], [2, 9]])
    return batch


def terms_of(mass: float, rows: float = 10.0, num_layers: int = 2) -> GuidanceTerms:
    """Of layers of three heads, all alike."""
    shape = (num_layers, 3)
    return GuidanceTerms(
        errors=torch.ones(shape, requires_grad=True),
        mass=torch.full(shape, mass * rows),
        rows=torch.full(shape, rows),
    )


def go_around(
    guidance: RunGuidance, step: int | None, terms: GuidanceTerms, monkeypatch: pytest.MonkeyPatch
) -> Scored:
    """A forward pass in which the guide collects these terms."""
    monkeypatch.setattr(guidance.guide, "collect", lambda _device: terms)
    rows = torch.zeros(2, 2)

    def score(_batch: Batch, _step: int | None) -> Scored:
        return Scored({"own": Term(torch.ones(()), "predicted")}, rows, {"own": torch.ones(())})

    return guidance.around(score, masked_batch(), step, dict.fromkeys(VALID, 20.0))


def told(guidance: RunGuidance, guided: GuidedStep, *many: GuidanceTerms) -> Mapping[str, torch.Tensor]:
    """Sums of forward passes with these terms."""
    window = WindowSums(torch.device("cpu"))
    for terms in many:
        window.add({guidance._by_head: guidance._sums_by_head(guided, terms)})
    return window.take(Cluster(0, 0, 1, torch.device("cpu")))


def test_targets_are_those_of_the_uncorrupted_tokens() -> None:
    guidance, batch = make_guidance(), masked_batch()

    guidance.prepare(batch, 0)

    targets = Targets.of_batch(batch, "guidance", as_published=False)
    assert targets is not None
    expected = [target_matrices(name, ROWS).sum(-1) > 0 for name in HEADS]
    assert torch.equal(targets.valid, torch.stack(expected))
    assert targets.columns[0].tolist() == [[0.0, 0.5, 0.0, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    assert targets.documents is batch.documents


@pytest.mark.parametrize(
    ("guided", "needed"),
    [(GuidedStep(), False), (GuidedStep(bias=1.0), True), (GuidedStep.looking_at([1]), True)],
)
def test_targets_are_made_where_a_step_needs_them(
    guided: GuidedStep, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance, batch = make_guidance(), masked_batch()
    monkeypatch.setattr(guidance, "at", lambda step: guided)

    guidance.prepare(batch, 5)

    assert (Targets.of_batch(batch, "guidance", as_published=False) is not None) == needed
    assert set(VALID) <= batch.counts.keys()  # the same names on all processes, in every step


def test_valid_rows_are_counted_by_pattern() -> None:
    guidance, batch = make_guidance(), masked_batch()

    guidance.prepare(batch, 0)

    # "next": 3 and 1 of the first row's documents, 2 of the second's; delimiters: 4, 0 and 3.
    assert [batch.counts[name] for name in VALID] == [6.0, 7.0]


def test_nothing_is_counted_where_nothing_is_looked_at() -> None:
    guidance, batch = make_guidance(), masked_batch()

    guidance.prepare(batch, 100)  # guidance has ended

    assert [batch.counts[name] for name in VALID] == [0.0, 0.0]


def test_a_second_network_has_names_of_its_own() -> None:
    first, second, batch = make_guidance(), make_guidance(name="generator_guidance"), masked_batch()
    first.prepare(batch, 0)
    alone = set(batch.columns) | set(batch.counts)

    second.prepare(batch, 0)

    added = (set(batch.columns) | set(batch.counts)) - alone
    assert len(added) == 5
    assert all(name.startswith("generator_guidance/") for name in added)
    line = second.line(0, {"steps": torch.tensor(1.0)})
    assert set(line) == {
        *("generator_guidance_loss", "generator_guidance_weight", "generator_guidance_bias"),
        *("generator_guided_layers", "generator_guidance_error", "generator_guidance_mass"),
    }


def test_loss_is_added_by_the_valid_rows_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, terms = make_guidance(), terms_of(0.1)

    scored = go_around(guidance, 3, terms, monkeypatch)

    expected = guidance.loss(guidance.at(3), terms.errors, torch.tensor([20.0, 20.0], dtype=torch.float64))
    assert scored.terms["own"].per == "predicted"
    assert scored.terms["guidance"].per is None  # divided already
    assert scored.terms["guidance"].sum.item() == expected.item() > 0
    assert scored.terms["guidance"].sum.requires_grad
    assert scored.sums["guidance_loss"].item() == expected.item()
    assert scored.sums["own"].item() == 1
    assert not any(value.requires_grad for value in scored.sums.values())


def test_an_evaluation_has_figures_and_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = go_around(make_guidance(), None, terms_of(0.1), monkeypatch)

    assert set(scored.terms) == {"own"}
    assert len(scored.sums) == 2
    assert "guidance_loss" not in scored.sums


def test_nothing_is_added_where_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = go_around(make_guidance(), 100, terms_of(0.1, num_layers=0), monkeypatch)

    assert (set(scored.terms), set(scored.sums)) == ({"own"}, {"own"})


def test_a_step_is_what_the_schedule_says_before_and_after_the_patterns_form() -> None:
    guidance = make_guidance()
    before = [guidance.at(step) for step in range(100)]

    guidance.formation.formed_step = 20

    assert before == [guidance.schedule.at(step) for step in range(100)]
    assert [len(guidance.at(step).layers) for step in range(40)] == [2] * 20 + [1] * 20


def test_patterns_form_in_a_step_that_is_due(alone: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, outcomes = make_guidance(), []

    for step in range(30):
        go_around(guidance, step, terms_of(mass=0.02 * step), monkeypatch)
        go_around(guidance, step, terms_of(mass=0.02 * step + 0.1), monkeypatch)
        outcomes.append(guidance.after_step(step, alone))

    # Steps 9 and 19 (counted from 0) have 0.23 and 0.43 on target, step 29 has 0.63.
    assert outcomes[:29] == [None] * 29
    assert outcomes[29] == {"kind": "patterns formed", "step": 30, "mean_mass": pytest.approx(0.63)}
    assert guidance.formation.formed_step == 30


def test_nothing_is_measured_where_the_dense_phase_has_a_fixed_length(
    alone: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = make_guidance(dense_steps=20)

    for step in range(30):
        terms = terms_of(mass=0.9, num_layers=len(guidance.at(step).layers))
        go_around(guidance, step, terms, monkeypatch)
        assert guidance.after_step(step, alone) is None

    assert guidance.formation.formed_step is None


def test_an_evaluation_does_not_count_for_formation(alone: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = make_guidance()

    go_around(guidance, None, terms_of(mass=0.9), monkeypatch)

    assert guidance.formation._sums is None


def test_formed_step_is_kept_and_forgotten_where_heads_have_changed() -> None:
    guidance = make_guidance()
    guidance.formation.formed_step = 20
    same, other = make_guidance(), make_guidance([HEADS, {"next": 1, "delimiters": 1}])
    other.formation.formed_step = 10

    for resumed in (same, other):
        resumed.restore(guidance.state())

    assert same.formation.formed_step == 20
    assert other.formation.formed_step is None


# Figures


def terms_with(errors: list[list[float]], rows: list[list[float]]) -> GuidanceTerms:
    """The mass is half of the errors."""
    return GuidanceTerms(torch.tensor(errors), torch.tensor(errors) / 2, torch.tensor(rows))


def uneven_terms(scale: float = 1.0) -> GuidanceTerms:
    """Of layers 0 and 2."""
    errors = [[2.0 * scale, 4.0 * scale, 6.0 * scale], [3.0 * scale, 1.0 * scale, 0.0]]
    return terms_with(errors, [[10.0, 10.0, 12.0], [12.0, 10.0, 0.0]])


def test_errors_and_mass_are_means_over_what_was_looked_at() -> None:
    guidance = make_guidance(UNEVEN)
    added = [uneven_terms(), uneven_terms(), uneven_terms(3.0), uneven_terms(3.0)]

    line = guidance.line(None, told(guidance, GuidedStep.looking_at([0, 2]), *added))

    # Each head was added twice at scale 1 and twice at scale 3, over four times its rows.
    assert line["guidance_error"] == {
        "next": pytest.approx(8 * (2 + 4 + 1) / (4 * 3 * 10)),
        "first": pytest.approx(8 * (6 + 3) / (4 * 2 * 12)),
    }
    assert line["guidance_mass"] == {
        "next": [pytest.approx(8 * 3 / (4 * 2 * 10)), None, pytest.approx(8 * 0.5 / (4 * 10))],
        "first": [pytest.approx(8 * 3 / (4 * 12)), None, pytest.approx(8 * 1.5 / (4 * 12))],
    }
    assert line.keys() == {"guidance_error", "guidance_mass"}


def test_patterns_are_told_in_the_order_of_the_layers() -> None:
    guidance = make_guidance([{"last": 1}, {"delimiters": 1, "next": 1, "last": 1}])

    line = guidance.line(None, {})

    assert list(line["guidance_error"]) == list(line["guidance_mass"]) == ["last", "delimiters", "next"]


def test_layers_looked_at_in_other_steps_are_told_apart() -> None:
    """As sampled steps do: a layer a step, and of the rows some."""
    guidance = make_guidance(UNEVEN)
    window = WindowSums(torch.device("cpu"))
    for layer, terms in (
        (2, terms_with([[4.0, 8.0, 0.0]], [[2.0, 4.0, 0.0]])),
        (0, terms_with([[6.0, 2.0, 1.0]], [[3.0, 1.0, 1.0]])),
    ):
        guided = GuidedStep(layers=(GuidedLayer(layer=layer, probability=0.5),))
        window.add({guidance._by_head: guidance._sums_by_head(guided, terms)})

    line = guidance.line(None, window.take(Cluster(0, 0, 1, torch.device("cpu"))))

    assert line["guidance_error"] == {"next": 16.0 / 8.0, "first": 5.0 / 3.0}
    assert line["guidance_mass"] == {"next": [1.0, None, 1.0], "first": [0.5, None, 1.0]}


def test_a_window_without_guidance_has_no_errors() -> None:
    guidance = make_guidance(UNEVEN)

    line = guidance.line(120, {"steps": torch.tensor(2.0)})

    assert line["guidance_error"] == {"next": None, "first": None}
    assert line["guidance_mass"]["next"] == [None, None, None]
    assert (line["guidance_loss"], line["guidance_weight"], line["guided_layers"]) == (0.0, 0.0, 0)


def test_a_model_without_guided_heads_has_no_patterns() -> None:
    line = make_guidance([{}, {}], layers=()).line(None, {})

    assert (line["guidance_error"], line["guidance_mass"]) == ({}, {})


def test_loss_is_told_per_step_and_with_it_what_the_last_step_did() -> None:
    guidance = make_guidance()
    guidance.formation.formed_step = 20

    line = guidance.line(30, {"steps": torch.tensor(4.0), "guidance_loss": torch.tensor(2.0)})

    assert line["guidance_loss"] == 0.5
    assert line["guidance_weight"] == guidance.at(30).weight > 0
    assert (line["guidance_bias"], line["guided_layers"]) == (0.0, 1)
    assert math.isnan(guidance.line(30, {"steps": torch.tensor(0.0)})["guidance_loss"])


def test_sums_of_other_heads_have_another_name() -> None:
    """After a change of heads that the user has accepted; also where their number is the same."""
    tables = (UNEVEN, [{"next": 1}, {}, {}], [{"first": 1, "next": 2}, {}, {"next": 1, "first": 1}])
    before, *others = (make_guidance(table) for table in tables)
    totals = told(before, GuidedStep.looking_at([0, 2]), uneven_terms())

    assert all(value is not None for value in before.line(None, totals)["guidance_error"].values())
    for guidance in others:
        assert set(guidance.line(None, totals)["guidance_error"].values()) == {None}
    assert make_guidance(UNEVEN)._by_head == before._by_head
