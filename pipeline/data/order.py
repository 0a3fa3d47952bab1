"""Which row is trained when: a seeded permutation per epoch that is computed, never stored.

Row `order(seed, epoch, n)(p)` for position p needs O(1) memory and time, so resuming at any position
costs nothing, and every process, whatever their number, agrees on the order. The permutation is a
balanced Feistel network over the next even power of two, walked until it falls below n (Black and
Rogaway 2002, "cycle walking"; fewer than four walks on average).
"""

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import make_keys, mix

_ROUNDS = 6


def permute(positions: npt.NDArray, num_rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Rows at `positions` (any shape, values in [0, num_rows)) of the epoch's permutation."""
    shape = np.shape(positions)
    half_bits = np.uint64(max(1, ((num_rows - 1).bit_length() + 1) // 2))
    keys = make_keys(seed, epoch, np.arange(_ROUNDS))
    values = _feistel(np.asarray(positions, dtype=np.uint64).ravel(), half_bits, keys)
    while (outside := values >= num_rows).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64).reshape(shape)


def _feistel(values: npt.NDArray, half_bits: np.uint64, keys: npt.NDArray) -> npt.NDArray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) & mask)
    return (left << half_bits) | right


def rows_of_step(
    step: int, global_batch_size: int, num_rows: int, seed: int, place_of_step_zero: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and epochs of one optimizer step, both of shape (global_batch_size,).

    Steps count from 0. A batch may cross into the next epoch. Step 0 begins at `place_of_step_zero` of the
    order, which is not 0 where steps of another batch size or corpus came before (see phases.py).
    """
    consumed = place_of_step_zero + step * global_batch_size + np.arange(global_batch_size, dtype=np.int64)
    epochs, positions = np.divmod(consumed, num_rows)
    rows = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        rows[chosen] = permute(positions[chosen], num_rows, seed, int(epoch))
    return rows, epochs
