import torch

from pipeline.checkpoints.host_copy import HostCopy


def test_values_are_equal_and_independent() -> None:
    state = {
        "a": torch.arange(4.0),
        "list": [torch.ones(2), {"n": 3, "none": None}],
        "pair": (1, torch.zeros(1)),
    }
    with HostCopy().taking() as copy:
        copied = copy(state)
    state["a"].fill_(9)
    state["list"][1]["n"] = 4

    assert copied["a"].tolist() == [0, 1, 2, 3]
    assert copied["list"][0].tolist() == [1, 1]
    assert copied["list"][1] == {"n": 3, "none": None}
    assert copied["pair"][0] == 1


def test_a_shared_tensor_stays_shared_and_a_view_of_another_shape_does_not() -> None:
    tied = torch.arange(6.0)
    with HostCopy().taking() as copy:
        copied = copy({"in": tied, "out": tied, "view": tied.view(2, 3)})

    assert copied["in"] is copied["out"]
    assert copied["view"].shape == (2, 3)


def test_memory_is_used_again_and_follows_other_shapes() -> None:
    copies = HostCopy()
    with copies.taking() as copy:
        first = copy([torch.ones(3), torch.ones(2)])
    with copies.taking() as copy:
        second = copy([torch.zeros(3), torch.zeros(5, dtype=torch.int64)])

    assert second[0].data_ptr() == first[0].data_ptr()
    assert second[1].tolist() == [0] * 5
    assert second[1].dtype == torch.int64


def test_parts_of_one_tensor_are_copied_apart() -> None:
    """Two halves of a flat partition have the same storage and other addresses."""
    flat = torch.arange(6.0)
    with HostCopy().taking() as copy:
        head, tail = copy([flat[:3], flat[3:]])

    assert (head.tolist(), tail.tolist()) == ([0, 1, 2], [3, 4, 5])
