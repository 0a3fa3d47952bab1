"""A corpus as a figure: how long its document pieces are, how often its tokens occur."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_prep.format import Manifest
from data_prep.inspection.rows import Sample


def draw_sample(sample: Sample, manifest: Manifest, title: str, path: Path) -> None:
    """Write `path` as PNG: a histogram of piece lengths, and token counts by rank."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    figure.suptitle(title)
    lengths, ranks = figure.subplots(1, 2)
    edges = np.linspace(0, manifest.sequence_length, 65)
    lengths.hist(sample.piece_lengths, bins=edges, color="#3b6fb6")
    lengths.set(xlabel="tokens per document piece", ylabel="pieces", title="Lengths", yscale="log")
    lengths.set_ylim(bottom=0.8)
    counts = np.sort(sample.counts[sample.counts > 0])[::-1]
    ranks.loglog(np.arange(1, len(counts) + 1), counts, color="#3b6fb6")
    ranks.set(xlabel="rank of the token", ylabel="occurrences", title="Token frequencies")
    for axes in (lengths, ranks):
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.getvalue())
