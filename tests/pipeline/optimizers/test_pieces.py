import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.optimizers.pieces import Layout, Piece


def cut(sizes: list[int], num_processes: int) -> list[Layout]:
    """Parameters end to end, cut into equal flat tensors, as ZeRO stages 1 and 2 do."""
    share = -(-sum(sizes) // num_processes)
    layouts = []
    for rank in range(num_processes):
        pieces, offset = [], 0
        for number, size in enumerate(sizes):
            start, end = max(offset, rank * share), min(offset + size, (rank + 1) * share)
            if start < end:
                pieces.append(Piece(number, start - rank * share, end - start))
            offset += size
        layouts.append(Layout(len(sizes), pieces, torch.device("cpu")))
    return layouts


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), num_processes=st.integers(1, 8))
def test_sums_over_processes_are_those_of_whole_parameters(sizes: list[int], num_processes: int) -> None:
    layouts = cut(sizes, num_processes)
    share = -(-sum(sizes) // num_processes)
    flat = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([flat, torch.full((share * num_processes - len(flat),), torch.nan)])
    sums = sum(
        layout.sums_of_squares(layout.split(part)) for layout, part in zip(layouts, padded.split(share))
    )
    expected = torch.stack([part.double().square().sum() for part in flat.split(sizes)])
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=0.0)


def test_pieces_are_views() -> None:
    flat = torch.zeros(6)
    first, second = Layout(3, [Piece(0, 0, 2), Piece(2, 3, 3)], flat.device).split(flat)
    first += 1.0
    second += 2.0
    assert flat.tolist() == [1.0, 1.0, 0.0, 2.0, 2.0, 2.0]
