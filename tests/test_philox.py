"""The generator: known answers, statistics, state."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError
from schuss.philox import Generator, bits_at, philox_blocks

# Philox 4x32-10 in the file kat_vectors of Random123: counter, key, result.
KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    c = [int(word, 16) for word in counter.split()]
    k = [int(word, 16) for word in key.split()]
    for blocks in (1, 3):  # one is made of integers, more of arrays
        seed, stream, position = (low | high << 32 for low, high in (k, c[2:], c[:2]))
        block = philox_blocks(seed, stream, position, blocks)[0]
        assert " ".join(f"{word:08x}" for word in block) == expected


def test_any_part_of_a_stream_can_be_computed_alone() -> None:
    whole = philox_blocks(7, 3, 100, 10_000)
    np.testing.assert_array_equal(whole[5000:5003], philox_blocks(7, 3, 5100, 3))


def test_positions_wrap() -> None:
    top = 2**64 - 1
    both = philox_blocks(1, 2, top, 2)
    np.testing.assert_array_equal(both[0], philox_blocks(1, 2, top, 1)[0])
    np.testing.assert_array_equal(both[1], philox_blocks(1, 2, 0, 1)[0])


def test_no_blocks() -> None:
    assert philox_blocks(0, 0, 0, 0).shape == (0, 4)
    assert bits_at(np.array([0, 0, 0], np.uint64), 0).shape == (0,)


def test_draws_do_not_overlap() -> None:
    generator = Generator(5)
    parts = np.concatenate([generator.bits(n) for n in (1, 4, 5, 16)])
    assert len(np.unique(parts)) == len(parts)
    assert generator.position == 1 + 1 + 2 + 4


def test_bits_are_even() -> None:
    bits = Generator(11).bits(100_000)
    ones = np.unpackbits(bits.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(100_000)
    counts = np.bincount(bits >> 24, minlength=256)
    chi_squared = ((counts - 100_000 / 256) ** 2 / (100_000 / 256)).sum()
    assert chi_squared < 255 + 5 * np.sqrt(2 * 255)


def test_neighbours_are_not_correlated() -> None:
    for make in (lambda i: Generator(i), lambda i: Generator(0, i)):
        draws = np.stack([make(i).bits(2000) for i in range(8)]) / 2.0**32
        correlation = np.corrcoef(draws) - np.eye(8)
        assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_seeds_and_streams_differ() -> None:
    draws = {tuple(Generator(seed, stream).bits(4)) for seed in range(10) for stream in range(10)}
    assert len(draws) == 100


def test_state() -> None:
    generator = Generator(9, 4)
    generator.bits(10)
    state = generator.state_dict()
    assert state == {"seed": 9, "stream": 4, "position": 3}
    first = generator.bits(8)
    other = Generator()
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.bits(8), first)
    assert repr(other) == "Generator(seed=9, stream=4, position=5)"


def test_each_child_is_another() -> None:
    parent = Generator(1, 2)
    streams = [parent.child(7).stream for _ in range(20)]
    assert streams[0] == parent.fork(7).stream
    assert len(set(streams)) == 20
    parent.load_state_dict(parent.state_dict())
    assert [parent.child(7).stream for _ in range(20)] == streams


def test_fork() -> None:
    parent = Generator(1)
    a, b, again = parent.fork(0, 1), parent.fork(1, 0), parent.fork(0, 1)
    assert parent.position == 0
    np.testing.assert_array_equal(a.bits(4), again.bits(4))
    assert a.stream != b.stream != parent.stream
    children = {parent.fork(i, j).stream for i in range(30) for j in range(30)}
    assert len(children) == 900


def test_permutation() -> None:
    order = Generator(2).permutation(1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, np.arange(1000))
    assert Generator(2).permutation(0).shape == (0,)
    firsts = [Generator(i).permutation(4)[0] for i in range(2000)]
    assert np.abs(np.bincount(firsts) - 500).max() < 5 * np.sqrt(2000 * 3 / 16)


def test_numpy_generator() -> None:
    a, b = Generator(3), Generator(3)
    assert a.numpy().random() == b.numpy().random()
    assert a.numpy().random() != Generator(3).numpy().random(), "the next block, the next seed"


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "a", None])
def test_wrong_seeds(seed) -> None:
    with pytest.raises(ArgumentError, match=r"seed must be an integer from 0 to 2\*\*64 - 1"):
        Generator(seed)


def test_the_largest_seed() -> None:
    assert schuss.Generator(2**64 - 1).bits(4).shape == (4,)
    assert Generator(np.int64(3)).seed == 3
