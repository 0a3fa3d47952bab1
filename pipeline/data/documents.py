"""Which document each position of a row belongs to, and what that means for attention inside documents.

Where attention stays inside documents, the padding of a row counts as a document of its own: nothing of a
real token depends on it, and every softmax has keys.
"""

from dataclasses import dataclass

import torch


def keys_of_document(starts: torch.Tensor, ends: torch.Tensor, num_keys: int) -> torch.Tensor:
    """Which keys belong to the documents [starts, ends) of some rows (...), (..., num_keys), bool."""
    keys = torch.arange(num_keys, device=starts.device)
    return (keys >= starts[..., None]) & (keys < ends[..., None])


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The positions [starts, ends) of each position's document, both (B, N), int32; in padding both are 0.

    A document here is a piece of one in a row: pieces of different documents stand side by side.
    """

    starts: torch.Tensor
    ends: torch.Tensor

    def to(self, device: torch.device) -> "Documents":
        """The same on `device`, copied asynchronously where the memory is pinned."""
        return Documents(
            starts=self.starts.to(device, non_blocking=True), ends=self.ends.to(device, non_blocking=True)
        )

    def pin_memory(self) -> "Documents":
        """The same in pinned memory."""
        return Documents(starts=self.starts.pin_memory(), ends=self.ends.pin_memory())

    def spans(self) -> torch.Tensor:
        """First key each position attends to and the key after its last, (2, B, N), int32; never empty."""
        num_positions = self.starts.shape[1]
        in_padding = self.ends == 0
        num_real = num_positions - in_padding.sum(1, keepdim=True, dtype=torch.int32)
        first = torch.where(in_padding, num_real, self.starts)
        return torch.stack([first, torch.where(in_padding, num_positions, self.ends)])

    def places(self) -> torch.Tensor:
        """Each position's place in its document, from 0, (B, N), int64; in padding 0."""
        positions = torch.arange(self.starts.shape[1], device=self.starts.device)
        return torch.where(self.ends == 0, 0, positions - self.starts)

    def borders(self) -> torch.Tensor:
        """Where the documents begin when all rows are laid end to end, then B * N, (S + 1,), int32.

        S is a power of two, so that batches have few shapes: the last documents are empty ones. To be asked
        of documents in host memory.
        """
        first = self.spans()[0]
        begins = (first == torch.arange(first.shape[1])).flatten().nonzero()[:, 0].int()
        num_sequences = 1 << (len(begins) - 1).bit_length()
        borders = begins.new_full((num_sequences + 1,), first.numel())
        borders[: len(begins)] = begins
        return borders

    def lengths(self) -> torch.Tensor:
        """Tokens of every document of all rows, (S,), int64."""
        is_first = (self.starts == torch.arange(self.starts.shape[1])) & (self.ends > 0)
        return (self.ends - self.starts)[is_first].long()

    @staticmethod
    def one_per_row(lengths: torch.Tensor, num_positions: int) -> "Documents":
        """Rows of one document each, of the given numbers of tokens (B,)."""
        is_real = torch.arange(num_positions, device=lengths.device) < lengths[:, None]
        ends = (is_real * lengths[:, None]).int()
        return Documents(starts=torch.zeros_like(ends), ends=ends)
