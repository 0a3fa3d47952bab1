import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.counter_rng import make_keys, random_bits
from pipeline.data.masking import IGNORED_LABEL, MaskedRows, MaskingRule, mask_rows

SPECIAL = np.arange(5)
MASK_ID = 4
ORDINARY = np.arange(5, 100)
LENGTH = 24
MAX_LENGTH = 65_535  # of a row in any corpus


def make_rule(rate: float = 0.15, mask_share: float = 0.8, random_share: float = 0.1) -> MaskingRule:
    return MaskingRule(
        rate=rate, mask_share=mask_share, random_share=random_share, mask_id=MASK_ID, ordinary_ids=ORDINARY
    )


def make_rows(count: int, seed: int = 0) -> np.ndarray:
    """Rows of 0 to LENGTH ordinary tokens with special ones among them."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(5, 100, (count, LENGTH))
    share = generator.random((count, 1)) * (np.arange(count) % 2)[:, None]
    return np.where(generator.random((count, LENGTH)) < share, generator.integers(0, 5, ids.shape), ids)


def full_rows(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(5, 100, (count, LENGTH))


def predicted_cells(masked: MaskedRows) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every predicted token."""
    rows, slots = np.nonzero(masked.labels != IGNORED_LABEL)
    return rows, masked.positions[rows, slots]


rates = st.sampled_from([0.05, 0.15, 0.3, 0.4, 0.77])
seeds = st.integers(0, 2**63 - 1)


@given(rates, seeds)
def test_number_of_predictions_is_exact(rate: float, seed: int) -> None:
    ids = make_rows(40)

    masked = mask_rows(ids, np.arange(40), 0, seed, make_rule(rate))

    num_ordinary = np.isin(ids, ORDINARY).sum(1)
    expected = [max(1, round(rate * count)) if count else 0 for count in num_ordinary.tolist()]
    assert (masked.labels != IGNORED_LABEL).sum(1).tolist() == expected


def test_row_without_ordinary_tokens_stays_as_it_is() -> None:
    ids = np.full((1, LENGTH), 2)

    masked = mask_rows(ids, np.array([3]), 0, 0, make_rule())

    assert (masked.input_ids == ids).all()
    assert (masked.labels == IGNORED_LABEL).all()


@given(rates, seeds)
def test_special_tokens_are_never_predicted_nor_drawn(rate: float, seed: int) -> None:
    ids = make_rows(40)

    masked = mask_rows(ids, np.arange(40), 0, seed, make_rule(rate, mask_share=0.3, random_share=0.6))

    is_special = np.isin(ids, SPECIAL)
    assert (masked.input_ids[is_special] == ids[is_special]).all()
    assert np.isin(masked.labels[masked.labels != IGNORED_LABEL], ORDINARY).all()
    assert np.isin(masked.input_ids[~is_special], [MASK_ID, *ORDINARY]).all()


@given(rates, seeds)
def test_labels_are_the_originals_and_the_rest_is_untouched(rate: float, seed: int) -> None:
    ids = make_rows(40)

    masked = mask_rows(ids, np.arange(40), 0, seed, make_rule(rate))

    rows, columns = predicted_cells(masked)
    assert (masked.labels[masked.labels != IGNORED_LABEL] == ids[rows, columns]).all()
    assert len(set(zip(rows.tolist(), columns.tolist()))) == len(rows)
    restored = masked.input_ids.copy()
    restored[rows, columns] = ids[rows, columns]
    assert (restored == ids).all()


@given(rates, seeds)
def test_every_slot_has_a_column_of_its_own_and_what_stands_there(rate: float, seed: int) -> None:
    """So that replacements can be scattered into a row in any order."""
    ids = make_rows(40)

    masked = mask_rows(ids, np.arange(40), 0, seed, make_rule(rate))

    assert all(len(set(columns)) == len(columns) for columns in masked.positions.tolist())
    assert (np.take_along_axis(masked.input_ids, masked.positions, 1) == masked.replacements).all()


@given(seeds, st.lists(st.integers(0, 39), min_size=1, max_size=12), st.integers(0, 50))
def test_a_mask_depends_on_seed_epoch_and_row_only(seed: int, chosen: list[int], epoch: int) -> None:
    ids, numbers = make_rows(40), np.arange(40) * 1000
    everything = mask_rows(ids, numbers, epoch, seed, make_rule())

    some = mask_rows(ids[chosen], numbers[chosen], np.full(len(chosen), epoch), seed, make_rule())

    assert (some.input_ids == everything.input_ids[chosen]).all()
    assert (some.positions == everything.positions[chosen]).all()
    assert (some.labels == everything.labels[chosen]).all()


def test_rows_of_two_epochs_may_share_a_batch() -> None:
    ids = full_rows(2)

    both = mask_rows(ids, np.array([8, 9]), np.array([0, 1]), 5, make_rule())

    for index, (row, epoch) in enumerate([(8, 0), (9, 1)]):
        alone = mask_rows(ids[index : index + 1], np.array([row]), epoch, 5, make_rule())
        assert (both.input_ids[index] == alone.input_ids[0]).all()


def test_masks_change_with_seed_epoch_and_row() -> None:
    ids = np.repeat(full_rows(1), 64, axis=0)
    rows = np.arange(64)

    base = mask_rows(ids, rows, 0, 0, make_rule()).positions
    other_epoch = mask_rows(ids, rows, 1, 0, make_rule()).positions
    other_seed = mask_rows(ids, rows, 0, 1, make_rule()).positions
    other_rows = mask_rows(ids, rows + 64, 0, 0, make_rule()).positions

    for other in (other_epoch, other_seed, other_rows):
        assert (np.sort(base, 1) == np.sort(other, 1)).all(1).mean() < 0.05


def masked_one_by_one(
    ids: list[int], row: int, epoch: int, seed: int, rule: MaskingRule
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Corrupted ids, positions, labels and replacements of one row, draw by draw.

    A run that is resumed with another version must find the masks it began with: this is their definition.
    """
    width = rule.max_predictions(len(ids))
    key = make_keys(0x6D61736B, seed, epoch, row)
    draws = [int(draw) for draw in random_bits(key, len(ids) + 2 * width)[0]]
    ordinary = set(rule.ordinary_ids.tolist())
    columns = sorted(
        range(len(ids)), key=lambda column: (ids[column] not in ordinary, draws[column] >> 17, column)
    )
    num_ordinary = sum(token in ordinary for token in ids)
    chosen = columns[: min(num_ordinary, max(1, round(rule.rate * num_ordinary)))]

    corrupted = list(ids)
    for place, column in enumerate(chosen):
        kind = (draws[len(ids) + place] >> 11) * 2.0**-53
        if kind < rule.mask_share:
            corrupted[column] = rule.mask_id
        elif kind < rule.mask_share + rule.random_share:
            corrupted[column] = rule.ordinary_ids[draws[len(ids) + width + place] % len(ordinary)]
    positions = columns[:width]  # slots without a prediction have columns of their own, too
    labels = [ids[column] for column in chosen] + [IGNORED_LABEL] * (width - len(chosen))
    return corrupted, positions, labels, [corrupted[column] for column in positions]


@given(rates, seeds, st.integers(0, 9), st.sampled_from([np.int64, np.uint16, np.uint32]))
def test_masks_are_those_of_the_slow_and_plain_way(
    rate: float, seed: int, epoch: int, dtype: np.dtype
) -> None:
    """Special tokens before, between and above the ordinary ones."""
    ordinary = np.setdiff1d(np.arange(5, 90), [40, 41])
    rule = MaskingRule(rate=rate, mask_share=0.6, random_share=0.3, mask_id=MASK_ID, ordinary_ids=ordinary)
    ids, rows = make_rows(20, seed % 1000), np.arange(20) * 77

    masked = mask_rows(ids.astype(dtype), rows, epoch, seed, rule)

    one_by_one = [masked_one_by_one(ids[i].tolist(), int(rows[i]), epoch, seed, rule) for i in range(20)]
    arrays = (masked.input_ids, masked.positions, masked.labels, masked.replacements)
    for found, expected in zip(arrays, zip(*one_by_one), strict=True):
        assert found.tolist() == list(map(list, expected))
        assert found.dtype == np.int64


def test_ordinary_ids_are_told_from_all_others() -> None:
    rule = MaskingRule(rate=0.15, mask_share=0.8, random_share=0.1, mask_id=4, ordinary_ids=np.array([5, 7]))

    found = rule.is_ordinary(np.array([[0, 4, 5, 6], [7, 8, 9, 60_000]], dtype=np.uint16))

    assert found.tolist() == [[False, False, True, False], [True, False, False, False]]


def test_the_longest_rows_are_masked_to_their_end() -> None:
    ids = np.full((1, MAX_LENGTH), 5)

    masked = mask_rows(ids, np.array([0]), 0, 0, make_rule())

    positions = masked.positions[0]
    assert len(np.unique(positions)) == round(0.15 * MAX_LENGTH) == (masked.labels == 5).sum()
    assert positions.min() < 100
    assert positions.max() > MAX_LENGTH - 100


def test_masking_leaves_the_rows_it_is_given_alone() -> None:
    ids = make_rows(8)
    before = ids.copy()

    mask_rows(ids, np.arange(8), 0, 0, make_rule())

    assert (ids == before).all()


def shares_of(rule: MaskingRule) -> tuple[float, float, float]:
    """Shares of predicted tokens that became the mask, another token, or stayed."""
    ids = full_rows(5000)
    masked = mask_rows(ids, np.arange(5000), 0, 0, rule)
    rows, columns = predicted_cells(masked)
    now, before = masked.input_ids[rows, columns], ids[rows, columns]
    is_mask, is_same = (now == MASK_ID).mean(), (now == before).mean()
    return is_mask, 1 - is_mask - is_same, is_same


def test_80_10_10() -> None:
    masked, replaced, kept = shares_of(make_rule())

    chance = 0.1 / len(ORDINARY)  # a random token may be the one that was there
    assert masked == pytest.approx(0.8, abs=0.01)
    assert replaced == pytest.approx(0.1 - chance, abs=0.01)
    assert kept == pytest.approx(0.1 + chance, abs=0.01)


def test_extreme_shares_are_exact() -> None:
    assert shares_of(make_rule(mask_share=1.0, random_share=0.0)) == (1.0, 0.0, 0.0)
    assert shares_of(make_rule(mask_share=0.0, random_share=0.0)) == (0.0, 0.0, 1.0)


def test_every_position_and_replacement_is_equally_likely() -> None:
    ids = full_rows(8000)

    masked = mask_rows(ids, np.arange(8000), 0, 0, make_rule(mask_share=0.0, random_share=1.0))

    rows, columns = predicted_cells(masked)
    for counts, kinds in [
        (np.bincount(columns, minlength=LENGTH), LENGTH),
        (np.bincount(masked.input_ids[rows, columns], minlength=100)[5:], len(ORDINARY)),
    ]:
        expected = len(rows) / kinds
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_what_replaces_a_token_does_not_depend_on_where_it_is() -> None:
    ids = full_rows(20_000)

    masked = mask_rows(ids, np.arange(20_000), 0, 0, make_rule())

    rows, columns = predicted_cells(masked)
    is_mask = masked.input_ids[rows, columns] == MASK_ID
    for column in range(LENGTH):
        assert is_mask[columns == column].mean() == pytest.approx(0.8, abs=0.035)
