"""Counter-based random bits, and the generator that hands out the counters.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011): block number `p` of a stream is a pure function of (seed, stream, p), so the same numbers
come out on every device, in any order and after any restart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from schuss.errors import ArgumentError, fail

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers of the paper
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # what the key grows by each round
_LOW = 0xFFFFFFFF
_CHUNK = 4096  # blocks worked on at once, so that the rounds stay in cache
_MASK64 = (1 << 64) - 1
_SUBSTREAM = 0xBA7C4ED0BA7C4ED0  # tells what batches draw from what `fork` draws


def philox_blocks(seed: int, stream: int, position: int, blocks: int) -> np.ndarray:
    """`blocks` consecutive blocks of four 32-bit numbers: uint32 of shape (blocks, 4)."""
    out = np.empty((blocks, 4), np.uint32)
    if blocks == 1:  # Python's integers are faster than arrays of one
        out[0] = _rounds(seed, stream, position & _MASK64)
        return out
    for start in range(0, blocks, _CHUNK):
        count = min(_CHUNK, blocks - start)
        first = np.uint64((position + start) & _MASK64)
        with np.errstate(over="ignore"):
            counter = first + np.arange(count, dtype=np.uint64)
        out[start : start + count].T[:] = _rounds(seed, stream, counter)
    return out


def _rounds(seed: int, stream: int, counter: Any) -> tuple[Any, Any, Any, Any]:
    """The four numbers of blocks; `counter` is an integer, or uint64 of any shape."""
    c0, c1 = counter & _LOW, counter >> 32
    c2, c3 = stream & _LOW, stream >> 32 & _LOW
    k0, k1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        product0, product1 = c0 * _M0, c2 * _M1
        c0, c1 = product1 >> 32 ^ c1 ^ k0, product1 & _LOW
        c2, c3 = product0 >> 32 ^ c3 ^ k1, product0 & _LOW
        k0, k1 = k0 + _W0 & _LOW, k1 + _W1 & _LOW
    return c0, c1, c2, c3


class Generator:
    """A source of random numbers with a small, exact state.

    Args:
        seed: a 64-bit integer; the same seed gives the same numbers, everywhere.
        stream: streams of one seed are independent of each other.

    Each draw takes the next blocks of the stream; `state_dict()` is three integers.
    """

    __slots__ = ("_children", "position", "seed", "stream")

    def __init__(self, seed: int = 0, stream: int = 0) -> None:
        if not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) <= _MASK64:
            raise fail(
                ArgumentError, "Generator", "seed must be an integer from 0 to 2**64 - 1", seed=seed
            )
        self.seed = int(seed)
        self.stream = int(stream) & _MASK64
        self.position = 0
        self._children = 0

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, stream={self.stream}, position={self.position})"

    def reserve(self, count: int) -> np.ndarray:
        """Take the blocks for `count` 32-bit numbers: uint64 (seed, stream, position)."""
        state = np.array([self.seed, self.stream, self.position], np.uint64)
        self.position = (self.position + (count + 3) // 4) & _MASK64
        return state

    def bits(self, count: int) -> np.ndarray:
        """`count` random 32-bit numbers on the host: uint32 of shape (count,)."""
        return bits_at(self.reserve(count), count)

    def permutation(self, n: int) -> np.ndarray:
        """A random order of `range(n)` on the host: int64 of shape (n,)."""
        keys = self.bits(2 * n).view(np.uint64)  # 64-bit keys: ties do not happen in practice
        return np.argsort(keys, kind="stable")

    def fork(self, *keys: int) -> Generator:
        """The generator of a sub-task named by integers, say (epoch, index); this one stays."""
        stream = self.stream
        for key in keys:
            mixed = philox_blocks(stream ^ 0x5EED5EED5EED5EED, self.seed, int(key), 1)[0]
            stream = int(mixed[0]) | int(mixed[1]) << 32
        return Generator(self.seed, stream)

    def child(self, key: int) -> Generator:
        """As `fork(key)`, but another generator in each call since the seed was set.

        The key has 32 bits.
        """
        self._children += 1
        return self.fork(key + (self._children - 1 << 32))

    def numpy(self) -> np.random.Generator:
        """A NumPy generator seeded from the next block, for code that wants one."""
        key = self.bits(4).view(np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "stream": self.stream, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = [int(state[name]) for name in ("seed", "stream", "position")]
        if not all(0 <= value <= _MASK64 for value in values):
            raise fail(ArgumentError, "Generator", "a state is three 64-bit numbers", state=values)
        self.seed, self.stream, self.position = values
        self._children = 0


def bits_at(state: np.ndarray, count: int) -> np.ndarray:
    """The 32-bit numbers that `Generator.reserve` set aside."""
    seed, stream, position = (int(part) for part in state)
    return philox_blocks(seed, stream, position, (count + 3) // 4).reshape(-1)[:count]


def substream_at(state: np.ndarray) -> np.ndarray:
    """The state of a generator whose stream belongs to this state alone: uint64 of shape (3,)."""
    seed, stream, position = (int(part) & _MASK64 for part in state)
    words = philox_blocks(stream ^ _SUBSTREAM, seed, position, 1).view(np.uint64)
    return np.array([seed, words[0, 0], 0], np.uint64)


default_generator = Generator(0)
