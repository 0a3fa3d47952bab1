"""What the heads look at in a sentence: the model's own attention, taken without leaving a trace."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.corpus import CorpusSplit, Vocabulary
from pipeline.engine import PretrainingModule
from pipeline.evaluation.attention_snapshot import (
    Snapshot,
    pick_sentence,
    read_snapshots,
    record_attention,
    snapshot_steps,
    write_snapshot,
)
from pipeline.guidance.schedule import GuidedStep
from tests.pipeline import modules
from tests.pipeline.modules import batch_of_rows, guide_of, score, sums_by_head
from tests.pipeline.tiny_models import FAMILIES, tiny_inputs, tiny_model

SENTENCE = np.random.default_rng(0).integers(5, 97, 19)


def guided_module(family: str, **settings: object) -> PretrainingModule:
    return modules.guided_module(tiny_model(family, **settings), [{"next": 1, "first": 2}] * 3)


def record(module: PretrainingModule) -> np.ndarray:
    return record_attention(module, module, SENTENCE)


def taps_of(module: PretrainingModule) -> list[object]:
    return [tap for layer in module.modules() for tap in getattr(layer, "attention_taps", ())]


def guidance_terms(module: PretrainingModule) -> list[torch.Tensor]:
    """Loss and guidance terms of a padded batch, all layers looked at."""
    inputs = tiny_inputs()
    positions = torch.zeros(len(inputs["input_ids"]), 1, dtype=torch.long)
    batch = batch_of_rows(inputs["input_ids"], inputs["attention_mask"].sum(1), positions, positions + 7)
    scored = score(module, batch, GuidedStep.looking_at([0, 1, 2]))
    return [*(term.sum for term in scored.terms.values()), scored.rows, sums_by_head(scored)]


# Recording


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_attention_is_the_models_own(family: str) -> None:
    eager = tiny_model(family).eval()
    eager.set_attn_implementation("eager")
    attentions = eager(torch.from_numpy(SENTENCE)[None], output_attentions=True).attentions

    found = record(guided_module(family))

    assert found.shape == (3, 4, 19, 19)
    assert found.dtype == np.float32
    for layer, probs in enumerate(attentions):
        np.testing.assert_allclose(found[layer], probs[0].detach().numpy(), rtol=1e-4, atol=1e-6)


def test_recorded_attention_of_local_layers_stays_in_their_window() -> None:
    """Layers 1 and 2 reach 4 tokens to either side."""
    found = record(guided_module("modernbert"))

    distance = np.abs(np.subtract.outer(np.arange(19), np.arange(19)))
    assert (found[1:, :, distance > 4] == 0).all()
    assert (found[0] > 0).any(axis=0)[distance > 4].all()
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)


def test_dropout_is_off_while_recording() -> None:
    dropping = guided_module("roberta", dropout=0.5, attention_dropout=0.5).train()

    np.testing.assert_array_equal(record(dropping), record(guided_module("roberta")))


@pytest.mark.parametrize("training", [True, False])
def test_recording_leaves_no_trace(training: bool) -> None:
    module, untouched = guided_module("roberta", dropout=0.2), guided_module("roberta", dropout=0.2)
    for each in (module, untouched):
        each.train(training)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(0)
    random_state = torch.get_rng_state()

    record(module)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert module.training == training
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert taps_of(module) == guide_of(module).taps
    found = guidance_terms(module)
    torch.manual_seed(0)
    for value, expected in zip(found, guidance_terms(untouched), strict=True):
        assert torch.equal(value, expected)


def test_recorders_are_taken_away_when_the_forward_pass_fails() -> None:
    module = guided_module("roberta").train()
    beyond = np.array([5, 96, 128])  # the last of 128 embeddings, some without a token, is 127

    with pytest.raises(IndexError):
        record_attention(module, module, beyond)

    assert taps_of(module) == guide_of(module).taps
    assert module.training


def test_recording_needs_no_gradient() -> None:
    module = guided_module("bert")

    record(module)
    total, *_ = guidance_terms(module)
    total.backward()  # the graph of the training step is its own

    assert all(p.grad is not None for p in module.parameters() if p.requires_grad and p.ndim == 2)


# The sentence


class OneRow:
    """A split whose first row has the given tokens."""

    def __init__(self, tokens: list[int], num_positions: int = 40) -> None:
        self.tokens, self.num_positions = tokens, num_positions

    def read(self, rows: np.ndarray) -> object:
        assert rows.tolist() == [0]
        padded = self.tokens + [1] * (self.num_positions - len(self.tokens))
        return type("Rows", (), {"input_ids": np.array([padded]), "lengths": np.array([len(self.tokens)])})


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([0, *range(5, 20), 2, 0, *range(30, 50), 2], [0, *range(5, 20), 2]),  # one document, then another
        ([0, 5, 6, 2, 0, *range(30, 60), 2], [0, 5, 6, 2, 0, *range(30, 52), 2]),  # too short to stop there
        ([0, *range(5, 44)], [0, *range(5, 31), 2]),  # goes on: cut
        ([0, 5, 6, 7], [0, 5, 6, 7, 2]),  # all there is
    ],
    ids=["document", "short document", "long document", "short row"],
)
def test_sentence_is_a_legible_beginning_that_ends_with_a_separator(
    tokens: list[int], expected: list[int]
) -> None:
    found = pick_sentence(OneRow(tokens), sep_id=2)

    assert found.tolist() == expected
    assert len(found) <= 28


def test_sentence_of_a_real_corpus_is_held_out_text(tiny_corpus: Path, vocabulary: Vocabulary) -> None:
    split = CorpusSplit(tiny_corpus, "valid")

    found = pick_sentence(split, vocabulary.sep_id)

    assert found[:-1].tolist() == split.read(np.array([0])).input_ids[0, : len(found) - 1].tolist()
    assert found[-1] == vocabulary.sep_id
    assert 12 <= len(found) <= 28


# Files


def random_snapshot(step: int) -> Snapshot:
    scores = np.random.default_rng(step).normal(size=(2, 3, 5, 5))
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return Snapshot(step, probs.astype(np.float32))


def test_snapshots_come_back_by_step(tmp_path: Path) -> None:
    written = [random_snapshot(step) for step in (7, 0, 123_456_789)]  # the last has nine digits
    for snapshot in written:
        write_snapshot(tmp_path / "attention", snapshot)

    found = read_snapshots(tmp_path / "attention")

    assert [snapshot.step for snapshot in found] == [0, 7, 123_456_789]
    for snapshot, expected in zip(found, sorted(written, key=lambda snapshot: snapshot.step)):
        assert snapshot.probs.dtype == np.float32
        np.testing.assert_allclose(snapshot.probs, expected.probs, rtol=1e-3)


def test_snapshot_of_a_step_taken_again_replaces_the_first(tmp_path: Path) -> None:
    write_snapshot(tmp_path, random_snapshot(0))
    again = Snapshot(0, random_snapshot(1).probs)
    write_snapshot(tmp_path, again)

    (found,) = read_snapshots(tmp_path)

    np.testing.assert_allclose(found.probs, again.probs, rtol=1e-3)


def test_no_snapshots_yet(tmp_path: Path) -> None:
    assert read_snapshots(tmp_path / "attention") == []


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_the_array(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def name_the_array_otherwise(path: Path) -> None:
    np.savez_compressed(path, scores=np.zeros(3))


def replace_by_text(path: Path) -> None:
    path.write_text("no archive", encoding="utf-8")


@pytest.mark.parametrize(
    "damage", [empty, cut_short, flip_a_byte_of_the_array, name_the_array_otherwise, replace_by_text]
)
def test_damaged_snapshot_is_named_and_left_out(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (0, 1, 2):
        write_snapshot(tmp_path, random_snapshot(step))
    damage(tmp_path / "step-00000001.npz")

    assert [snapshot.step for snapshot in read_snapshots(tmp_path)] == [0, 2]
    assert caplog.text.count(f"{tmp_path / 'step-00000001.npz'} is damaged") == 1


def test_other_files_are_no_snapshots(tmp_path: Path) -> None:
    write_snapshot(tmp_path, random_snapshot(3))
    for name in ("step-1.npz", "step-00000004.npz.tmp", "step-last.npz", "notes.txt"):
        (tmp_path / name).write_bytes((tmp_path / "step-00000003.npz").read_bytes())

    assert [snapshot.step for snapshot in read_snapshots(tmp_path)] == [3]


# When


@pytest.mark.parametrize(
    ("num_steps", "steps"),
    [(1, (0, 1)), (12, (0, 1)), (149, (0, 1)), (700, (0, 7)), (1_000_000, (0, 10_000))],
)
def test_snapshots_are_kept_at_the_start_and_after_a_hundredth(
    num_steps: int, steps: tuple[int, int]
) -> None:
    assert snapshot_steps(num_steps) == steps
