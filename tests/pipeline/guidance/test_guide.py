"""The guide's terms inside real models of every family."""

import pytest
import torch

from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.schedule import GuidedLayer, GuidedStep
from tests.pipeline.guidance import dense
from tests.pipeline.guidance.cases import documents_of
from tests.pipeline.guidance.dense import sums
from tests.pipeline.guidance.models import (
    ALL_LAYERS,
    FULL,
    HEADS,
    TOKEN_SETS,
    eager_attentions,
    gradients,
    guided_model,
    make_guide,
    rows_of,
    run_guided,
)
from tests.pipeline.tiny_models import FAMILIES, LENGTH, LENGTHS, tiny_model

EVERY_LAYER = GuidedStep.looking_at(ALL_LAYERS)
MIX = {"delimiters": 1, "first": 1, "sentence_ends": 1, "last": 1}  # for models that attend everywhere
PIECES = {"one each": None, "several": [[10, 3, 11], [9], [1, 8, 8], [1, 1]]}

every_family = pytest.mark.parametrize("family", FAMILIES)
padded_or_full = pytest.mark.parametrize("lengths", [LENGTHS, FULL], ids=["padded", "full"])


@pytest.fixture(autouse=True)
def model_token_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas look for the tokens that stand in the models' texts."""
    monkeypatch.setattr(dense, "TOKEN_SETS", TOKEN_SETS)


def assert_sums_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Errors, mass and rows, (3, H)."""
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@every_family
@padded_or_full
def test_terms_equal_the_dense_formula_on_the_models_own_attention(family: str, lengths: list[int]) -> None:
    guide, rows = make_guide(HEADS), rows_of(lengths)

    _, terms = run_guided(guided_model(family, guide), guide, EVERY_LAYER, rows)

    for layer, probs in enumerate(eager_attentions(tiny_model(family), lengths)):
        found = torch.stack([terms.errors[layer], terms.mass[layer], terms.rows[layer]])
        assert_sums_equal(found, sums(probs, HEADS, rows))


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_documents_inside_rows_have_their_own_targets(family: str, pieces: list[list[int]] | None) -> None:
    guide, rows = make_guide(MIX), rows_of(LENGTHS, pieces)

    _, terms = run_guided(guided_model(family, guide), guide, EVERY_LAYER, rows)

    for layer, probs in enumerate(eager_attentions(tiny_model(family), LENGTHS)):
        found = torch.stack([terms.errors[layer], terms.mass[layer], terms.rows[layer]])
        assert_sums_equal(found, sums(probs, MIX, rows))
    assert 0 < terms.rows[0, 2] < terms.rows[0, 1] == sum(LENGTHS)  # some have no sentence end


@pytest.mark.parametrize(
    ("family", "published"), [*((family, False) for family in FAMILIES), ("roberta", True), ("bert", True)]
)
def test_gradients_equal_those_of_the_dense_formula(family: str, published: bool) -> None:
    guide, rows = make_guide(HEADS, as_published=published), rows_of(LENGTHS, PIECES["several"])
    model, dense_model = guided_model(family, guide), tiny_model(family)
    _, terms = run_guided(model, guide, EVERY_LAYER, rows)
    terms.errors.sum().backward()

    attentions = eager_attentions(dense_model, LENGTHS)
    sum(sums(probs, HEADS, rows, published=published)[0].sum() for probs in attentions).backward()

    found, expected = gradients(model), gradients(dense_model)
    for name in expected.keys() & found.keys():  # the last layer's output plays no part
        difference = (found[name] - expected[name]).norm()
        assert difference <= 1e-4 * expected[name].norm() + 1e-5, name
    pulled = [name for name in expected if "query.weight" in name or "Wqkv.weight" in name]
    assert len(pulled) == len(ALL_LAYERS)
    assert all(found[name].norm() > 0.01 for name in pulled)


@every_family
@pytest.mark.parametrize(("first_rows", "stride"), [((0, 0, 0), 2), ((3, 1, 4), 5), ((0, 30, 23), 40)])
def test_sampled_rows_are_those_asked_for(family: str, first_rows: tuple[int, ...], stride: int) -> None:
    guide, rows = make_guide(HEADS), rows_of(LENGTHS)
    layers = tuple(
        GuidedLayer(layer=layer, probability=0.5, first_row=first_row)
        for layer, first_row in enumerate(first_rows)
    )

    _, terms = run_guided(
        guided_model(family, guide), guide, GuidedStep(layers=layers, row_stride=stride), rows
    )

    for layer, probs in enumerate(eager_attentions(tiny_model(family), LENGTHS)):
        errors, mass, counted = dense.terms(probs.double().clamp(min=1e-200).log(), HEADS, rows)
        looked_at = counted & (torch.arange(LENGTH) % stride == first_rows[layer])
        expected = [(value * looked_at).sum((0, 2)) for value in (errors, mass, torch.ones_like(mass))]
        found = torch.stack([terms.errors[layer], terms.mass[layer], terms.rows[layer]])
        assert_sums_equal(found, torch.stack(expected))


def test_published_terms_take_dropout_into_account_in_training_alone() -> None:
    """Whatever the dropout's draw, the errors are its mean; documents and padding are not known."""
    rate = 0.2
    rows = rows_of(FULL, [[24], [20, 4], [8, 8, 8], [1, 23]])
    guide = make_guide(MIX, LossForm(keep=1.0 - rate), as_published=True)
    model = guided_model("roberta", guide, attention_dropout=rate)
    probs = eager_attentions(tiny_model("roberta"), FULL)[0]

    for training, keep in [(True, 1.0 - rate), (False, 1.0)]:
        model.train(training)
        _, terms = run_guided(model, guide, GuidedStep.looking_at([0]), rows)
        expected = sums(probs, MIX, rows, keep=keep, published=True)
        assert_sums_equal(torch.stack([terms.errors[0], terms.mass[0], terms.rows[0]]), expected)
        assert terms.rows.unique().tolist() == [4 * LENGTH]


def test_published_terms_count_padding_too() -> None:
    guide, rows = make_guide(MIX, as_published=True), rows_of(LENGTHS)

    _, terms = run_guided(guided_model("bert", guide), guide, EVERY_LAYER, rows)

    probs = eager_attentions(tiny_model("bert"), LENGTHS)[0]
    found = torch.stack([terms.errors[0], terms.mass[0], terms.rows[0]])
    assert_sums_equal(found, sums(probs, MIX, rows, published=True))


@pytest.mark.parametrize("training", [True, False])
def test_our_own_terms_do_not_know_dropout(training: bool) -> None:
    """Attention is guided before its dropout, so that its target can be reached."""
    without, with_dropout = make_guide(HEADS), make_guide(HEADS)
    first = GuidedStep.looking_at([0])

    model = guided_model("bert", with_dropout, attention_dropout=0.5).train(training)
    _, found = run_guided(model, with_dropout, first)

    _, expected = run_guided(guided_model("bert", without), without, first)
    assert torch.equal(found.errors, expected.errors)


@pytest.mark.parametrize("training", [True, False])
def test_cross_entropy_reaches_the_terms(training: bool) -> None:
    guide, rows = make_guide(MIX, LossForm(name="cross_entropy")), rows_of(LENGTHS)

    _, terms = run_guided(guided_model("roberta", guide).train(training), guide, EVERY_LAYER, rows)

    for layer, probs in enumerate(eager_attentions(tiny_model("roberta"), LENGTHS)):
        expected = sums(probs, MIX, rows, form="cross_entropy")
        assert_sums_equal(torch.stack([terms.errors[layer], terms.mass[layer], terms.rows[layer]]), expected)


def test_layers_may_have_different_heads() -> None:
    """The heads a layer has not are zero in its line, and a layer without any is not looked at."""
    table = [{"next": 1, "last": 2}, {}, {"delimiters": 1}]
    guide, rows = make_guide(table), rows_of(LENGTHS)

    _, terms = run_guided(guided_model("bert", guide), guide, GuidedStep.looking_at([0, 2]), rows)

    attentions = eager_attentions(tiny_model("bert"), LENGTHS)
    assert terms.errors.shape == terms.mass.shape == terms.rows.shape == (2, 3)
    for line, layer in enumerate((0, 2)):
        found = torch.stack([terms.errors[line], terms.mass[line], terms.rows[line]])
        expected = sums(attentions[layer], table[layer], rows)
        assert_sums_equal(found[:, : expected.shape[1]], expected)
        assert not found[:, expected.shape[1] :].any()


def test_guidance_of_a_layer_does_not_pull_the_layers_above() -> None:
    guide = make_guide(HEADS)
    model = guided_model("bert", guide)

    _, terms = run_guided(model, guide, GuidedStep.looking_at([1]))
    terms.errors.sum().backward()

    pulled = {name.split(".")[3] for name in gradients(model) if ".layer." in name}
    assert pulled == {"0", "1"}


def test_only_guided_heads_are_pulled() -> None:
    guide = make_guide([{"next": 1, "first": 1}, {}, {"next": 4}])
    model = guided_model("bert", guide)

    _, terms = run_guided(model, guide, GuidedStep.looking_at([0]))
    terms.errors.sum().backward()

    attention = model.bert.encoder.layer[0].attention.self
    by_head = attention.query.weight.grad.reshape(4, 8, 32).abs().sum((1, 2))
    assert (by_head[:2] > 0).all()
    assert by_head[2:].tolist() == [0.0, 0.0]


def test_terms_come_in_the_order_of_the_layers() -> None:
    guide = make_guide(HEADS)
    model = guided_model("roberta", guide)
    _, everything = run_guided(model, guide, EVERY_LAYER)

    _, some = run_guided(model, guide, GuidedStep.looking_at([2, 0]))

    assert torch.equal(some.errors, everything.errors[[0, 2]])
    assert torch.equal(some.mass, everything.mass[[0, 2]])
    assert torch.equal(some.rows, everything.rows[[0, 2]])


@pytest.mark.parametrize("heads", [HEADS, {}])
def test_nothing_looked_at_nothing_collected(heads: dict[str, int]) -> None:
    guide = make_guide(heads)
    model = guided_model("roberta", guide)
    run_guided(model, guide, GuidedStep.looking_at(guide.allocation.guided_layers))

    _, terms = run_guided(model, guide, GuidedStep())

    assert terms.errors.shape == terms.mass.shape == terms.rows.shape == (0, len(heads))


def test_a_pass_without_targets_is_not_looked_at() -> None:
    guide = make_guide(HEADS)
    model = guided_model("roberta", guide)
    guide.watch(EVERY_LAYER, None, training=True)

    model(input_ids=rows_of(FULL).ids)

    assert guide.collect(torch.device("cpu")).errors.shape == (0, 3)


def test_a_pass_that_was_broken_off_leaves_nothing_behind() -> None:
    """An error between the two, such as for want of memory, skips `collect`."""
    guide, rows = make_guide(HEADS), rows_of(FULL)
    model = guided_model("roberta", guide)
    guide.watch(EVERY_LAYER, guide.targets(rows.ids, documents_of(rows)), training=True)
    model(input_ids=rows.ids)

    _, terms = run_guided(model, guide, GuidedStep.looking_at([1]), rows)

    assert terms.errors.shape == (1, 3)


def test_a_pass_after_collecting_is_not_looked_at() -> None:
    """What is recomputed in the backward pass holds a layer's query and key: it must not be kept."""
    guide, rows = make_guide(HEADS), rows_of(FULL)
    model = guided_model("bert", guide)
    run_guided(model, guide, EVERY_LAYER, rows)

    model(input_ids=rows.ids)

    assert guide.collect(torch.device("cpu")).errors.shape == (0, 3)


def test_targets_are_those_of_the_guides_patterns_and_conventions() -> None:
    rows = rows_of(LENGTHS)
    heads = {"delimiters": 1, "next": 2, "first": 1, "offset-3": 1}

    ours, theirs = (
        make_guide(heads, as_published=published).targets(rows.ids, documents_of(rows))
        for published in (False, True)
    )

    with_a_third_before = sum(max(0, length - 3) for length in LENGTHS)
    expected = [sum(LENGTHS) - len(LENGTHS), sum(LENGTHS), with_a_third_before]
    assert ours.count_valid()[:3].tolist() == expected
    assert theirs.count_valid().tolist() == [4 * LENGTH] * 4
