"""Dynamic masking, as a pure function of (seed, epoch, row).

BERT's rule (Devlin et al. 2019, section 3.1): a share of the ordinary tokens is predicted; of those 80 %
become the mask token, 10 % a random ordinary token, 10 % stay. The number predicted per row is exact,
round(rate * ordinary tokens), at least one, so that tensors have one shape and losses less noise.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.data.corpus import CorpusRows
from pipeline.data.counter_rng import UInt64s, make_keys, random_bits, to_unit
from pipeline.data.draws import Drawn, RowKeys

IGNORED_LABEL = -100  # what torch's cross-entropy leaves out by default
_MASK_STREAM = 0x6D61736B  # keeps masks independent of every other use of the same seed
_COLUMN_BITS = np.uint64(0xFFFF)  # rows have at most 65535 tokens
_NOT_ORDINARY = np.uint64(1 << 63)


@dataclass(frozen=True, kw_only=True)
class MaskingRule:
    """How rows are masked.

    `ordinary_ids` are the token ids that are not special, shape (V,); only they are predicted or drawn as
    replacements. Shares are of the predicted tokens; what is left of `mask_share + random_share` stays.
    """

    rate: float
    mask_share: float
    random_share: float
    mask_id: int
    ordinary_ids: npt.NDArray[np.int64]

    def is_ordinary(self, token_ids: npt.NDArray) -> npt.NDArray[np.bool_]:
        """Which of some token ids, of any shape, are ordinary ones."""
        return self._is_ordinary_id.take(token_ids, mode="clip")

    @cached_property
    def _is_ordinary_id(self) -> npt.NDArray[np.bool_]:
        """By id; the last stands for all greater ones, too."""
        table = np.zeros(int(self.ordinary_ids.max(initial=-1)) + 2, dtype=np.bool_)
        table[self.ordinary_ids] = True
        return table

    def max_predictions(self, sequence_length: int) -> int:
        """Width K of the prediction tensors for rows of this length."""
        return max(1, round(self.rate * sequence_length))


@dataclass(frozen=True, kw_only=True)
class MaskedRows:
    """n masked rows.

    Attributes:
        input_ids: corrupted tokens, (n, T).
        positions: columns to predict, (n, K), different ones in each row.
        labels: original tokens there, (n, K); IGNORED_LABEL where a row has fewer than K.
        replacements: what stands there in `input_ids`, (n, K); the original where nothing is predicted.
    """

    input_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    replacements: npt.NDArray[np.int64]


@dataclass(frozen=True)
class MaskDraw:
    """The draw of masked language modelling, see `Draw`: columns `positions`, `labels` and `replacements`.

    They are those of MaskedRows; the count `predicted` is the number of labels.
    """

    rule: MaskingRule

    def __call__(self, rows: CorpusRows, keys: RowKeys) -> Drawn:
        """Mask rows."""
        masked = mask_rows(
            rows.input_ids, keys.rows, keys.epochs, keys.seed, self.rule, has_tokens=rows.lengths > 0
        )
        is_predicted = masked.labels != IGNORED_LABEL
        return Drawn(
            columns={
                "positions": masked.positions,
                "labels": masked.labels,
                "replacements": masked.replacements,
            },
            counts={"predicted": float(is_predicted.sum())},
            fingerprint=(masked.input_ids, np.where(is_predicted, masked.positions, 0), masked.labels),
        )


def mask_rows(
    input_ids: npt.NDArray,
    rows: npt.NDArray,
    epochs: npt.NDArray | int,
    seed: int,
    rule: MaskingRule,
    *,
    has_tokens: npt.NDArray[np.bool_] | None = None,
) -> MaskedRows:
    """Mask rows of a split.

    Args:
        input_ids: their tokens, (n, T).
        rows: their numbers, (n,).
        epochs: passes over the split before, (n,), or one number for all.
        seed: of the masks.
        rule: how.
        has_tokens: rows that may be masked, (n,); None for all.
    """
    num_rows, length = input_ids.shape
    width = rule.max_predictions(length)
    keys = make_keys(_MASK_STREAM, seed, epochs, rows)
    draws = random_bits(np.broadcast_to(keys, (num_rows,)), length + 2 * width)

    is_ordinary = rule.is_ordinary(input_ids)
    if has_tokens is not None:
        is_ordinary &= has_tokens[:, None]
    num_ordinary = np.count_nonzero(is_ordinary, axis=1)
    wanted = np.minimum(np.maximum(np.rint(rule.rate * num_ordinary), 1), num_ordinary)
    chosen = np.arange(width) < wanted[:, None]
    positions = _in_random_order(is_ordinary, draws[:, :length])[:, :width]
    row = np.arange(num_rows)[:, None]
    originals = input_ids[row, positions].astype(np.int64, copy=False)

    kind = to_unit(draws[:, length : length + width])
    random_index = draws[:, length + width :] % np.uint64(len(rule.ordinary_ids))
    replacement = np.where(kind < rule.mask_share, rule.mask_id, originals)
    is_random = (kind >= rule.mask_share) & (kind < rule.mask_share + rule.random_share)
    replacement = np.where(is_random, rule.ordinary_ids[random_index], replacement)

    replacement = np.where(chosen, replacement, originals)
    corrupted = input_ids.astype(np.int64)
    corrupted[row, positions] = replacement
    return MaskedRows(
        input_ids=corrupted,
        positions=positions,
        labels=np.where(chosen, originals, IGNORED_LABEL),
        replacements=replacement,
    )


def _in_random_order(is_ordinary: npt.NDArray[np.bool_], draws: UInt64s) -> npt.NDArray[np.int64]:
    """Columns of each row (n, T) by their draws (n, T), those of ordinary tokens first.

    Of columns with distinct draws the first k are a uniform choice without replacement, for every k. To sort
    plain integers is several times faster than to sort indices; hence each column's number takes the lowest
    bits of its draw, and the highest says whether it may be chosen.
    """
    order = (draws >> np.uint64(1)) & ~_COLUMN_BITS
    order |= np.arange(draws.shape[1], dtype=np.uint64)
    order |= ~is_ordinary * _NOT_ORDINARY
    order.sort(axis=1)
    return (order & _COLUMN_BITS).astype(np.int64)
