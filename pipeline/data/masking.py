"""Dynamic masking for masked language modelling, as a pure function of (seed, epoch, row).

BERT's rule (Devlin et al. 2019, section 3.1): a share of the ordinary tokens is predicted; of those 80 %
become the mask token, 10 % a random ordinary token, 10 % stay. The number predicted per row is exact,
round(rate * ordinary tokens), at least one, so that tensors have one shape and losses less noise.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import make_keys, random_bits, to_unit

IGNORED_LABEL = -100  # what torch's cross-entropy leaves out by default
_MASK_STREAM = 0x6D61736B  # keeps masks independent of every other use of the same seed


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

    def max_predictions(self, sequence_length: int) -> int:
        """Width K of the prediction tensors for rows of this length."""
        return max(1, round(self.rate * sequence_length))


@dataclass(frozen=True, kw_only=True)
class MaskedRows:
    """n masked rows: `input_ids` (n, T), `positions` and `labels` (n, K), padded with IGNORED_LABEL."""

    input_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def mask_rows(
    input_ids: npt.NDArray, rows: npt.NDArray, epochs: npt.NDArray | int, seed: int, rule: MaskingRule
) -> MaskedRows:
    """Mask `input_ids` (n, T), the corpus rows numbered `rows` (n,), as epoch `epochs` sees them."""
    num_rows, length = input_ids.shape
    width = rule.max_predictions(length)
    keys = make_keys(_MASK_STREAM, seed, epochs, rows)
    draws = random_bits(np.broadcast_to(keys, (num_rows,)), length + 2 * width)

    is_ordinary = np.isin(input_ids, rule.ordinary_ids)
    wanted = np.maximum(np.rint(rule.rate * is_ordinary.sum(1)), 1).astype(np.int64)
    # The rule's K smallest of one draw per token are a uniform choice without replacement.
    priority = np.where(is_ordinary, to_unit(draws[:, :length]), np.inf)
    positions = np.argsort(priority, axis=1, kind="stable")[:, :width]
    chosen = np.arange(width) < np.minimum(wanted, is_ordinary.sum(1))[:, None]
    originals = np.take_along_axis(input_ids, positions, 1).astype(np.int64)

    kind = to_unit(draws[:, length : length + width])
    random_index = draws[:, length + width :] % np.uint64(len(rule.ordinary_ids))
    replacement = np.where(kind < rule.mask_share, rule.mask_id, originals)
    is_random = (kind >= rule.mask_share) & (kind < rule.mask_share + rule.random_share)
    replacement = np.where(is_random, rule.ordinary_ids[random_index], replacement)

    corrupted = input_ids.astype(np.int64)
    np.put_along_axis(corrupted, positions, np.where(chosen, replacement, originals), 1)
    return MaskedRows(
        input_ids=corrupted,
        positions=np.where(chosen, positions, 0),
        labels=np.where(chosen, originals, IGNORED_LABEL),
    )
