"""The fused attention kernels against the NumPy meaning of the ops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from schuss import dtypes
from schuss.compiler.cpu import attention as template
from schuss.compiler.cpu import attention_steps as steps
from schuss.compiler.cpu.attention import Attention, dense, lower_backward, lower_forward
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.matmul import Lowered
from schuss.compiler.cpu.runtime import OK, Launch, Sequence, get_num_threads, set_num_threads
from schuss.ops.attention import attention, attention_gradient

SCALE = 0.4
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 1e-2, "float16": 2e-3}

pytestmark = pytest.mark.usefixtures("restored_threads")


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


def run(lowered: Lowered, words: list[np.ndarray]) -> None:
    """Run the stages one after the other. Word 5 becomes a workspace full of NaN."""
    room = np.full(lowered.workspace + 64, 0xFF, np.uint8)
    workspace = room[-room.ctypes.data % 64 :]
    words = [*words[:5], workspace, *words[6:]]
    stages = [stage for stage in lowered.stages if stage.parts]
    found = compile_kernels([Source(stage.text, (stage.name,)) for stage in stages])
    slots = tuple(range(1, len(words) + 1))
    waves = [[Launch(found[s.name], slots, s.parts, s.scratch)] for s in stages]
    sequence = Sequence(waves, len(words) + 1)
    for slot, word in zip(slots, words, strict=True):
        sequence.slots[slot] = word.ctypes.data
    assert sequence.run() == OK


class Case:
    """Random inputs of an attention, its specification, and what it should give."""

    def __init__(self, batch: tuple[int, ...], tq: int, tk: int, d: int, dv: int, causal: bool,
                 mask: tuple[int, ...] | None = None, dtype: str = "float32") -> None:  # fmt: skip
        rng = np.random.default_rng(0)
        self.dtype = dtypes.as_dtype(dtype)
        self.q, self.k, self.v, self.g = (
            rng.standard_normal((*batch, *shape)).astype(self.dtype)
            for shape in ((tq, d), (tk, d), (tk, dv), (tq, dv))
        )
        self.mask: list[np.ndarray] = []
        strides = None
        if mask is not None:
            values = rng.standard_normal(mask)
            values[rng.random(mask) < 0.2] = -np.inf
            self.mask = [values.astype(self.dtype)]
            wide = np.broadcast_to(self.mask[0], (*batch, tq, tk))
            strides = tuple(step // self.dtype.itemsize for step in wide.strides)
        self.spec = Attention(dtype, batch, tq, tk, d, dv, causal, SCALE, mask=strides)
        self.named: dict[str, Any] = {"causal": causal, "scale": SCALE}
        self.y = attention.reference(self.q, self.k, self.v, *self.mask, **self.named)
        inputs = (self.g, self.q, self.k, self.v, self.y, *self.mask)
        self.gradient = attention_gradient.reference(*inputs, **self.named)

    def words(self, output: np.ndarray) -> list[np.ndarray]:
        mask = self.mask[0] if self.mask else self.q
        return [self.q, self.k, self.v, mask, output, output, self.g, self.y]

    def forward(self, spec: Attention | None = None) -> np.ndarray:
        output = np.full(self.y.shape, np.nan, self.dtype)
        run(lower_forward(spec or self.spec), self.words(output))
        return output

    def backward(self, spec: Attention | None = None) -> np.ndarray:
        output = np.full(self.gradient.shape, np.nan, self.dtype)
        run(lower_backward(spec or self.spec), self.words(output))
        return output

    def check(self) -> None:
        for found, expected in ((self.forward(), self.y), (self.backward(), self.gradient)):
            close(found, expected, TOLERANCE[str(self.dtype)])


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    wide = expected.astype(np.float64)
    error = tolerance * max(1.0, np.abs(wide).max(initial=0.0))
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=tolerance, atol=error)


SHAPES: list[tuple[Any, ...]] = [  # batch, tq, tk, d, dv, causal
    ((2, 3), 1, 1, 1, 1, True),
    ((2,), 7, 7, 5, 5, True),
    ((2,), 129, 129, 33, 33, True),
    ((64,), 128, 128, 32, 32, True),
    ((), 129, 129, 64, 64, False),
    ((2,), 40, 70, 5, 33, True),
    ((2,), 70, 40, 33, 5, True),
    ((), 65, 65, 128, 128, True),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: tuple[Any, ...]) -> None:
    Case(*shape).check()


@pytest.mark.parametrize(
    "shape",
    [
        ((0,), 3, 3, 2, 2, True),
        ((2,), 0, 3, 2, 2, False),
        ((2,), 3, 0, 2, 2, False),
        ((2,), 3, 3, 0, 2, True),
        ((2,), 3, 3, 2, 0, False),
    ],
)
def test_empty(shape: tuple[Any, ...]) -> None:
    Case(*shape).check()


@pytest.mark.parametrize(
    "mask", [(2, 1, 1, 40), (2, 3, 33, 40), (33, 40), (33, 1), (3, 1, 40), (1,)]
)
def test_masks(mask: tuple[int, ...]) -> None:
    Case((2, 3), 33, 40, 9, 10, False, mask).check()


def test_mask_and_causal() -> None:
    Case((2, 3), 33, 40, 9, 10, True, (33, 40)).check()


@pytest.mark.parametrize("mask", [None, (70, 40)])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtypes(dtype: str, mask: tuple[int, ...] | None) -> None:
    Case((2,), 70, 40, 33, 5, mask is None, mask, dtype).check()


@pytest.mark.parametrize(("causal", "mask"), [(False, None), (True, (60, 100)), (False, (1, 100))])
def test_several_blocks_of_keys(
    causal: bool, mask: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two whole blocks and a rest, so that maxima and sums are corrected on the way."""
    monkeypatch.setattr(template, "KEYS", 40)
    case = Case((2,), 60, 100, 9, 10, causal, mask)
    case.q *= 4  # the maximum moves far
    case.y = attention.reference(case.q, case.k, case.v, *case.mask, **case.named)
    close(case.forward(), case.y, 1e-5)


def test_a_query_without_keys_gets_zeros() -> None:
    case = Case((2,), 5, 6, 4, 4, False, (5, 6))
    case.mask[0][3] = -np.inf
    assert not case.forward()[:, 3].any()
    dq = case.backward()[: case.q.size].reshape(case.q.shape)
    assert not dq[:, 3].any()


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    """Two keys of equal weight: the results are float32 means, and some lie between neighbours."""
    case = Case((), 1, 2, 1, 7, False, dtype="bfloat16")
    case.q[:] = case.k[:] = 0
    case.v[0] = 1
    case.v[1] = [0.0078125, 0.015625, 0.0234375, 3e38, np.inf, -np.inf, np.nan]
    expected = ((1 + case.v[1].astype(np.float32)) * np.float32(0.5)).astype(case.dtype)
    np.testing.assert_array_equal(case.forward()[0].astype(np.float32), expected.astype(np.float32))


def test_nan_and_infinity_stay_with_their_query() -> None:
    case = Case((), 40, 40, 8, 8, True)
    case.q[3, 0], case.q[5, 0] = np.nan, np.inf
    y = case.forward()
    bad = np.isnan(y).any(axis=1)
    assert np.flatnonzero(bad).tolist() == [3, 5]
    np.testing.assert_allclose(y[~bad], case.y[~bad], rtol=1e-5, atol=1e-5)


def test_large_scores_do_not_overflow() -> None:
    case = Case((), 20, 20, 8, 8, False)
    case.q *= 1e4
    case.y = attention.reference(case.q, case.k, case.v, **case.named)
    close(case.forward(), case.y, 1e-5)


def permuted(x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """(B, H, T, d) stored as (B, T, H, d), and its strides in elements as (B, H, T, d)."""
    moved = np.ascontiguousarray(x.swapaxes(1, 2))
    b, h, t, d = dense(moved.shape)
    return moved, (b, t, h, d)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heads_beside_each_other(dtype: str) -> None:
    """What is read and what is written may be stored as (B, T, H, d)."""
    case = Case((2, 3), 40, 50, 16, 9, True, dtype=dtype)
    spec = case.spec
    named: dict[str, Any] = {}
    expected = case.y, case.gradient
    for name in ("q", "k", "v", "g"):
        moved, named[name] = permuted(getattr(case, name))
        setattr(case, name, moved)
    y, named["y"] = permuted(case.y)
    strided = Attention(spec.dtype, spec.batch, 40, 50, 16, 9, True, SCALE, **named)
    close(case.forward(strided).reshape(y.shape), y, TOLERANCE[dtype])
    case.y = y
    close(case.backward(strided), expected[1], TOLERANCE[dtype])
    gradients = {"dq": named["q"], "dk": named["k"], "dv_": named["v"]}
    everything = Attention(spec.dtype, spec.batch, 40, 50, 16, 9, True, SCALE, **named, **gradients)
    found, start = case.backward(everything), 0
    for length, width in ((40, 16), (50, 16), (50, 9)):
        stop = start + 2 * 3 * length * width
        part = found[start:stop].reshape(2, length, 3, width).swapaxes(1, 2)
        wanted = expected[1][start:stop].reshape(part.shape)
        close(part, wanted, TOLERANCE[dtype])
        start = stop


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_apart_from_each_other(dtype: str) -> None:
    """(B, d, T) in memory, and keys and values that all places of the batch share."""
    case = Case((2,), 40, 50, 6, 9, False, dtype=dtype)
    case.k[1], case.v[1] = case.k[0], case.v[0]
    case.y = attention.reference(case.q, case.k, case.v, **case.named)
    inputs = (case.g, case.q, case.k, case.v, case.y)
    case.gradient = attention_gradient.reference(*inputs, **case.named)
    case.q, case.k, case.v, case.g = (
        np.ascontiguousarray(x.swapaxes(1, 2)) for x in (case.q, case.k, case.v, case.g)
    )
    layouts = {"q": (240, 1, 40), "k": (0, 1, 50), "v": (0, 1, 50), "g": (360, 1, 40)}
    spec = Attention(dtype, (2,), 40, 50, 6, 9, False, SCALE, **layouts)  # type: ignore[arg-type]
    close(case.forward(spec), case.y, TOLERANCE[dtype])
    close(case.backward(spec), case.gradient, TOLERANCE[dtype])
    back = np.full((2, 9, 40), np.nan, case.dtype)
    turned = Attention(dtype, (2,), 40, 50, 6, 9, False, SCALE, y=(360, 1, 40), **layouts)  # type: ignore[arg-type]
    run(lower_forward(turned), case.words(back))
    close(back.swapaxes(1, 2), case.y, TOLERANCE[dtype])


def test_gradients_beside_each_other() -> None:
    """q, k and v are cut from one (B, T, 3, H, d), and so are their gradients."""
    case = Case((2, 3), 40, 40, 8, 8, True)
    parts = [x.swapaxes(1, 2) for x in (case.q, case.k, case.v)]
    together = np.ascontiguousarray(np.stack(parts, axis=2))  # stack keeps an order of its own
    case.q, case.k, case.v = (together[:, :, i:] for i in range(3))
    strides = (40 * 72, 8, 72, 1)
    names: dict[str, Any] = dict.fromkeys(("q", "k", "v", "dq", "dk", "dv_"), strides)
    spec = Attention("float32", (2, 3), 40, 40, 8, 8, True, SCALE, **names, starts=(0, 24, 48))
    close(case.forward(spec), case.y, 1e-5)
    found = case.backward(spec).reshape(2, 40, 3, 3, 8).transpose(2, 0, 3, 1, 4)
    close(found, case.gradient.reshape(found.shape), 1e-5)


def test_small_batches_are_shared_out() -> None:
    """One place of the batch in several parts, whose sums a second stage adds up."""
    case = Case((), 300, 200, 16, 16, True)
    assert [stage.parts > 1 for stage in lower_backward(case.spec).stages] == [True, True]
    case.check()


def test_workspace_has_a_limit() -> None:
    """A long sequence is not shared out at the cost of memory."""
    for t in (1024, 16384, 262144):
        lowered = lower_backward(Attention("float32", (1,), t, t, 64, 64, False, SCALE))
        assert lowered.workspace <= template.WORKSPACE
        assert (lowered.stages[0].parts > 1) == (t < 262144)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    case = Case((3,), 300, 150, 16, 16, True)
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append(np.concatenate([case.forward().ravel(), case.backward()]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_scratch_grows_with_keys_not_with_their_square() -> None:
    def scratch(t: int) -> int:
        spec = Attention("float32", (1,), t, t, 32, 32, True, SCALE)
        return max(s.scratch for low in (lower_forward, lower_backward) for s in low(spec).stages)

    assert scratch(8192) < 2.1 * scratch(4096) < 64 * 1024 * 1024


def test_tiles_cover_all_rows_in_nearly_equal_heights() -> None:
    for count in range(1, 100):
        found = steps.tiles(count, 14)
        rows = [row for start, stop, height in found for row in range(start, stop, height)]
        assert (found[0][0], found[-1][1]) == (0, count)
        assert len(rows) == math.ceil(count / 14)
        heights = [height for *_, height in found]
        assert max(heights) <= min(14, min(heights) + 1)
