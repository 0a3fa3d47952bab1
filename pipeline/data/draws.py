"""What an objective adds to the rows of a corpus: a pure function of (seed, epoch, row), drawn by the loader.

Rows reach the model uncorrupted. Beside them stands what the objective drew: where to corrupt them, with
what, and uniform numbers for samples that the model itself takes. The objective corrupts on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.corpus import CorpusRows
from pipeline.data.counter_rng import UInt64s, make_keys


@dataclass(frozen=True)
class RowKeys:
    """What names n rows of a split in their epochs: the only source of random numbers.

    Attributes:
        seed: of the run; held-out rows have one of their own.
        epochs: passes over the split before each row, (n,), or one for all.
        rows: numbers in the split, (n,).
    """

    seed: int
    epochs: npt.NDArray[np.int64] | int
    rows: npt.NDArray[np.int64]

    def of(self, stream: int) -> UInt64s:
        """A key for each row, (n,). Different streams are independent of each other."""
        return np.broadcast_to(make_keys(stream, self.seed, self.epochs, self.rows), self.rows.shape)


@dataclass(frozen=True)
class Drawn:
    """What was drawn for n rows.

    Attributes:
        columns: by name, n in front; what the objective finds in its batch beside `input_ids`.
        counts: denominators of the objective, which must be known before the forward pass.
        fingerprint: int64 arrays (n, k) that the digest of the rows is made of: all that the model sees and
            is asked.
    """

    columns: Mapping[str, npt.NDArray]
    counts: Mapping[str, float]
    fingerprint: Sequence[npt.NDArray[np.int64]]


class Draw(Protocol):
    """An objective's draws. It is copied to the loader's workers."""

    def __call__(self, rows: CorpusRows, keys: RowKeys) -> Drawn:
        """Draw for some rows; those without tokens, which fill up a batch, must add to no count."""
        ...
