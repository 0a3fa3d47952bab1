"""What the loader draws for replaced-token detection: masks, and a uniform number for every sample."""

from dataclasses import dataclass

from pipeline.data.corpus import CorpusRows
from pipeline.data.counter_rng import random_bits, to_unit
from pipeline.data.draws import Drawn, RowKeys
from pipeline.data.masking import MaskDraw

_SAMPLE_STREAM = 0x73616D70  # keeps samples independent of masks


@dataclass(frozen=True)
class ElectraDraw:
    """The draw of replaced-token detection, see `Draw`: the columns of MaskDraw, and `uniforms` (n, K).

    A sample is a function of its row, epoch and seed, and of the generator: how rows are dealt out to
    processes and micro-batches does not change it.
    """

    mask: MaskDraw

    def __call__(self, rows: CorpusRows, keys: RowKeys) -> Drawn:
        """Mask rows and draw for the samples."""
        masked = self.mask(rows, keys)
        bits = random_bits(keys.of(_SAMPLE_STREAM), masked.columns["positions"].shape[1])
        return Drawn(
            columns={**masked.columns, "uniforms": to_unit(bits)},
            counts=masked.counts,
            fingerprint=(*masked.fingerprint, bits.view("int64")),
        )
