"""Sequences whose attention is looked at: rows of a run's corpus, or sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.build import Corpus
from pipeline.data.batches import rows_evaluated
from pipeline.data.corpus import CorpusRows, CorpusSplit
from pipeline.data.documents import Documents
from pipeline.errors import DataError
from pipeline.runs.located_corpus import read_located_recipe
from pipeline.runs.run_dir import RunDir


@dataclass(frozen=True)
class ProbeText:
    """B sequences of up to N positions.

    Attributes:
        input_ids: uncorrupted tokens, (B, N).
        lengths: real tokens of each, (B,).
        documents: which document each position belongs to.
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    documents: Documents

    @staticmethod
    def of_sequences(sequences: Sequence[Sequence[int]]) -> "ProbeText":
        """Sequences of token ids, a document each."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        input_ids = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for row, sequence in zip(input_ids, sequences):
            row[: len(sequence)] = torch.tensor(sequence)
        return ProbeText(input_ids, lengths, Documents.one_per_row(lengths, input_ids.shape[1]))

    def attention_mask(self) -> torch.Tensor:
        """1 for real tokens, (B, N)."""
        positions = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        return (positions < self.lengths[:, None]).long()

    def batches(self, batch_size: int, device: torch.device) -> Iterator["ProbeText"]:
        """So many sequences at a time, without positions where none has a token."""
        for start in range(0, len(self.lengths), batch_size):
            rows = slice(start, start + batch_size)
            columns = slice(0, int(self.lengths[rows].max()))
            starts, ends = self.documents.starts[rows, columns], self.documents.ends[rows, columns]
            documents = Documents(starts=starts.to(device), ends=ends.to(device))
            input_ids, lengths = self.input_ids[rows, columns], self.lengths[rows]
            yield ProbeText(input_ids.to(device), lengths.to(device), documents)


def held_out_text(run: RunDir, max_rows: int | None, corpora: Sequence[str] = ()) -> ProbeText:
    """The first held-out rows of a run's corpus, as the run attends to them.

    Where its attention stays inside documents, each is a sequence of its own, which is the same to rounding.
    For `corpora` see `read_located_recipe`. A DataError if the corpus holds no row out.
    """
    recipe = read_located_recipe(run, corpora)
    corpus = Corpus.open(recipe.corpus)
    split = CorpusSplit(corpus.path, "valid", corpus.manifest)
    num_rows = rows_evaluated(split.num_rows, max_rows)
    if num_rows == 0:
        raise DataError(f"{corpus.path} has no held-out rows; prepare it with --valid-fraction above 0")
    rows = split.read(np.arange(num_rows))
    if not recipe.data.attend_across_documents:
        return ProbeText.of_sequences(_pieces(rows))
    documents = Documents(starts=torch.from_numpy(rows.starts), ends=torch.from_numpy(rows.ends))
    return ProbeText(torch.from_numpy(rows.input_ids), torch.from_numpy(rows.lengths), documents)


def _pieces(rows: CorpusRows) -> list[list[int]]:
    """Token ids of every document piece."""
    positions = np.arange(rows.input_ids.shape[1])
    is_first = (rows.starts == positions) & (rows.ends > 0)
    return [
        rows.input_ids[row, start : rows.ends[row, start]].tolist() for row, start in np.argwhere(is_first)
    ]
