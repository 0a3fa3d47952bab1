"""Hashes that must never change: a corpus made on one machine is compared with one made on another."""

import numpy as np

from data_prep.hashing import fold, mix


def test_the_first_numbers_of_splitmix64() -> None:
    """As published with the generator, for the seed 1234567."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + golden * step) % 2**64 for step in range(1, 6)], dtype=np.uint64)
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_mixing_leaves_its_argument_alone() -> None:
    values = np.arange(5, dtype=np.uint64)
    mix(values)
    assert values.tolist() == [0, 1, 2, 3, 4]


def test_every_part_and_the_order_count() -> None:
    hashes = [fold(), fold(1), fold(2), fold(1, 2), fold(2, 1), fold(1, 2, 0), fold(0, 1, 2), fold(-1)]
    assert len({int(value[0]) for value in hashes}) == len(hashes)
    assert fold(-1) == fold(2**64 - 1) == fold(np.array([-1]))


def test_arrays_fold_by_element_whatever_their_type() -> None:
    numbers = np.arange(50)
    folded = fold(7, numbers.astype(np.uint16), numbers[::-1].astype(np.int64))
    assert folded.tolist() == [int(fold(7, number, 49 - number)[0]) for number in range(50)]
    assert fold(np.arange(3)[:, None], np.arange(4)).shape == (3, 4)


def test_each_bit_changes_half_of_the_bits() -> None:
    values = fold(np.arange(1000))
    for bit in range(64):
        changed = mix(values) ^ mix(values ^ np.uint64(1 << bit))
        share = np.unpackbits(changed.view(np.uint8)).mean()
        assert 0.48 < share < 0.52
