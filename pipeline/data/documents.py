"""Which document each position of a row belongs to."""

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

    @staticmethod
    def one_per_row(lengths: torch.Tensor, num_positions: int) -> "Documents":
        """Rows of one document each, of the given numbers of tokens (B,)."""
        is_real = torch.arange(num_positions, device=lengths.device) < lengths[:, None]
        ends = (is_real * lengths[:, None]).int()
        return Documents(starts=torch.zeros_like(ends), ends=ends)
