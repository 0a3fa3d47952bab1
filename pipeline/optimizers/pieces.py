"""Where the pieces of parameters lie in the flat tensors that ZeRO gives an optimizer.

ZeRO lays the parameters of a group end to end and cuts that into one flat tensor per process (stages 1 and
2), or cuts every parameter and lays each process's pieces end to end (stage 3). Either way a process may have
the whole of a parameter, a part, or nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipeline.optimizers.norms import norms_of


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `start + numel` of a flat tensor are of the parameter with that number."""

    parameter: int
    start: int
    numel: int


@dataclass(frozen=True)
class Layout:
    """What one flat tensor consists of; what is in no piece is padding.

    Attributes:
        num_parameters: in the flat tensors of all processes together; pieces count them in the same order.
        pieces: those of this process.
        device: of the flat tensor.
    """

    num_parameters: int
    pieces: list[Piece]
    device: torch.device

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of the pieces."""
        return [flat.narrow(0, piece.start, piece.numel) for piece in self.pieces]

    def sums_of_squares(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Sum of squares of this process's piece of each parameter, float64, (num_parameters,)."""
        sums = torch.zeros(self.num_parameters, dtype=torch.float64, device=self.device)
        if pieces:
            numbers = torch.tensor([piece.parameter for piece in self.pieces], device=self.device)
            sums[numbers] = torch.stack(norms_of(pieces)).double().square()
        return sums


def find_layouts(
    zero_optimizer: Any, groups: Sequence[Sequence[torch.nn.Parameter]]
) -> dict[torch.Tensor, Layout]:
    """The layout of each flat tensor of a DeepSpeed ZeRO optimizer, which all processes must ask for.

    Args:
        zero_optimizer: around the optimizer that was given these parameters.
        groups: the parameters of each of its groups, none of them empty.
    """
    if hasattr(zero_optimizer, "fp32_partitioned_groups_flat"):
        return {
            flat: Layout(len(parameters), _pieces_of_stage_3(parameters), flat.device)
            for flat, parameters in zip(
                zero_optimizer.fp32_partitioned_groups_flat, zero_optimizer.fp16_groups
            )
        }
    flats = [group["params"][0] for group in zero_optimizer.optimizer.param_groups]
    return {
        flat: Layout(len(parameters), _linked_pieces(parameters), flat.device)
        for flat, parameters in zip(flats, groups)
    }


def _linked_pieces(parameters: Sequence[Any]) -> list[Piece]:
    """Stages 1 and 2 link a parameter to its piece of the flat tensor, for their checkpoints."""
    addresses = [
        None if parameter._hp_mapping is None else parameter._hp_mapping.get_hp_fragment_address()
        for parameter in parameters
    ]
    return [
        Piece(number, address.start, address.numel)
        for number, address in enumerate(addresses)
        if address is not None
    ]


def _pieces_of_stage_3(parameters: Sequence[Any]) -> list[Piece]:
    """All pieces of a parameter are equally long there; the last may end in padding that is never set."""
    pieces, start = [], 0
    for number, parameter in enumerate(parameters):
        size = parameter.partition_numel()
        numel = min(size, parameter.ds_numel - dist.get_rank() * size)
        if numel > 0:
            pieces.append(Piece(number, start, numel))
        start += size
    return pieces
