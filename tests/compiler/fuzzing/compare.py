"""Whether two tiers agree as far as rounding lets them.

Two right implementations round differently: sums in another order, a product and a sum in one
step, half precisions kept wide between two ops, functions off by an ulp or two. How far that
carries depends on the graph (a difference of large numbers, a comparison, an argmax), so it is
found by experiment: the reference runs several times with every rounded result moved by about as
much as an implementation may be off. What no such run comes near is an error. (Stochastic
arithmetic: Parker, "Monte Carlo arithmetic", 1997.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np

from schuss import dtypes
from schuss.execution import tiers
from schuss.execution.evaluate import watchers
from schuss.graph import Node, Op
from schuss.ops.body import Body

# Results that are the same bits in every right implementation, given the same inputs.
EXACT = frozenset(
    [
        "alias",
        "detach",
        "reshape",
        "permute",
        "broadcast_to",
        "slice",
        "reverse",
        "windows",
        "slice_update",
        "concat",
        "gather",
        "scatter",
        "where",
        "negative",
        "abs",
        "relu",
        "sign",
        "floor",
        "ceil",
        "trunc",
        "round",
        "max",
        "min",
        "maximum",
        "minimum",
        "nextafter",
        "checked_index",
        "positions",
        "random_bits",
        "real",
        "imag",
        "conj",
        "astype",
        "argmax",
        "argmin",
        "argsort",
        "sort",
        "scan",  # what rounds is in its body
    ]
)
_FUNCTIONS = frozenset(
    [
        "exp",
        "expm1",
        "log",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "erf",
        "sigmoid",
        "power",
        "atan2",
    ]
)
_SUMS = frozenset(
    [
        "sum",
        "cumsum",
        "matmul",
        "convolve",
        "convolve_input",
        "convolve_weight",
        "overlap",
        "scatter_add",
    ]
)
_WHOLE = frozenset(["attention", "attention_gradient", "solve"])  # moved at their inputs too
_OFF = 4.0  # ulps that functions may be off


class Noise:
    """Moves the result of each op that rounds, as far as another implementation might."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.cancels = seed % 2 == 1  # what is left of a difference but roundings is nothing
        self._sides: dict[Node, np.ndarray] = {}  # of differences: |a| + |b| of a - b

    def __call__(self, node: Node) -> None:
        inputs: list[Any] = [each.value for each in node.inputs]
        value: Any = self.moved(node.op, inputs, node.attributes, node.value)  # type: ignore[arg-type]
        sides = self._sides_of(node, inputs)
        if sides is not None and node.op.name == "sum":  # it may be a difference of two sums
            rough = 2 * _epsilon(dtypes.accumulator(value.dtype))
            value = self._moved(value, node.op.reference(sides, **node.attributes) * rough)
        elif sides is not None:
            self._sides[node] = sides
        node.value = value

    def _sides_of(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray | None:
        """How large the sides are of a difference, times what is the same along some axes."""
        name, sides = node.op.name, self._sides.get(node.inputs[0]) if node.inputs else None
        if name == "subtract" and dtypes.is_floating(inputs[0].dtype):
            return np.abs(widely(inputs[0])) + np.abs(widely(inputs[1]))
        if name in ("multiply", "divide"):
            place = 0 if sides is not None else 1
            sides = self._sides.get(node.inputs[place])
            other = np.abs(widely(inputs[1 - place]))
            if sides is None or (name == "divide" and place) or not _is_spread(other, sides.shape):
                return None
            with np.errstate(all="ignore"):
                return np.asarray(node.op.reference(sides, other))
        if name == "add" and sides is not None and node.inputs[1] in self._sides:
            return sides + self._sides[node.inputs[1]]
        return sides if name in ("negative", "sum") else None

    def moved(
        self, op: Op, inputs: list[np.ndarray], attributes: dict[str, Any], value: np.ndarray
    ) -> np.ndarray:
        """A result of an op, for these inputs, as another implementation might have it."""
        name, reach = op.name, None
        if name == "copysign":  # NaN has no sign to speak of
            unclear = np.isnan(inputs[1]) & (self.rng.random(value.shape) < 0.5)
            return np.where(unclear, -value, value)
        if name in EXACT or not dtypes.is_inexact(value.dtype) or not value.size:
            return value
        with np.errstate(all="ignore"):
            if name in _SUMS:
                reach = self._of_sum(op, inputs, attributes, value)
            elif name in _WHOLE:
                value = self._moved_inputs(op, inputs, attributes).astype(value.dtype)
                reach = _epsilon(value.dtype) * 2 * float(np.abs(value).max())
                if name == "attention":
                    reach = np.maximum(reach, self._of_mean(op, inputs, attributes))
            ulps = _OFF if name in _FUNCTIONS else 1.0
            if name in ("prod", "cumprod"):
                ulps = max(1.0, inputs[0].size / max(1, value.size)) ** 0.5 + 1
                value = self._of_product(op, inputs[0], attributes, value)
            size = np.abs(value).astype(np.float64) * (ulps * _epsilon(value.dtype))
            moved = self._moved(value, size if reach is None else reach + size, name in _FUNCTIONS)
            if name == "subtract" and self.cancels:
                sides = np.abs(widely(inputs[0])) + np.abs(widely(inputs[1]))
                moved = np.where(np.abs(moved) <= sides * _epsilon(value.dtype), 0 * moved, moved)
            if name.startswith("convolve") and not np.isfinite(reach).all():
                spoilt = ~np.isfinite(reach) & (self.rng.random(moved.shape) < 0.5)
                moved = np.where(spoilt, np.asarray(np.nan, moved.dtype), moved)
            if name in _SUMS and reach is not None:  # terms may cancel, one rounding or another
                cancels = (np.abs(value) <= reach) & (self.rng.random(moved.shape) < 0.5)
                moved = np.where(cancels, 0 * moved, moved)
            if name in _SUMS or name in _WHOLE:  # a sum of zeros may be either of the two zeros
                turned = np.where(self.rng.random(moved.shape) < 0.5, -moved, moved)
                moved = np.where(moved == 0, turned, moved)
            return moved

    def body(self, body: Body, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What `Body.run` gives, with every result of a step of a loop moved."""
        values = [*arrays, *[each.array() for each in body.literals]]
        for step in body.steps:
            inputs, attributes = [values[i] for i in step.places], dict(step.attributes)
            made = np.asarray(step.op.reference(*inputs, **attributes))
            values.append(self.moved(step.op, inputs, attributes, made))
        return [values[i] for i in body.outputs]

    def _moved(
        self, value: np.ndarray, reach: np.ndarray | float, alike: bool = False
    ) -> np.ndarray:
        """Values moved within their reach; with `alike` those that are equal stay equal."""
        wide = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
        reach = np.where(np.isfinite(reach), reach, 0.0)
        by = self.rng.uniform(-1, 1, value.shape)
        if alike and value.size:
            _, first, places = np.unique(wide, return_index=True, return_inverse=True)
            by = by.reshape(-1)[first][places].reshape(value.shape)
        return (wide + by * reach).astype(value.dtype)

    def _of_sum(
        self, op: Op, inputs: list[np.ndarray], attributes: dict[str, Any], value: np.ndarray
    ) -> np.ndarray:
        """What adding up in another order may change: in proportion to the sum of sizes."""
        wide = [np.abs(x).astype(np.float64) if dtypes.is_inexact(x.dtype) else x for x in inputs]
        total = op.reference(*wide, **attributes)
        terms = max(1.0, max(each.size for each in inputs) / max(1, value.size))
        if op.name == "cumsum":  # of equal numbers all are rounded the same way
            terms = 4 * value.shape[attributes["axis"]]
        rough = _epsilon(dtypes.accumulator(value.dtype))
        reach = np.asarray(total, np.float64) * rough * max(2.0, terms**0.5 / 2)
        if op.name.startswith("convolve") and value.ndim == 4:
            is_weight = op.name == "convolve_weight"
            if min(value.shape[:2] if is_weight else value.shape[1:2]) >= 32:
                return _in_tiles(reach, is_weight, value.dtype in dtypes.HALF)
        return reach

    def _of_product(
        self, op: Op, x: np.ndarray, attributes: dict[str, Any], value: np.ndarray
    ) -> np.ndarray:
        """A product may overflow or vanish on the way, in an unlucky order of its factors."""
        sizes, coin = np.abs(x), self.rng.integers(0, 4, value.shape)
        most = op.reference(np.maximum(sizes, 1).astype(sizes.dtype), **attributes)
        least = op.reference(np.minimum(sizes, 1).astype(sizes.dtype), **attributes)
        wide = op.reference(x.astype(np.result_type(x, np.longdouble)), **attributes)
        likely = wide.astype(value.dtype)
        found = np.where(coin == 0, likely, value)
        found = np.where(np.isinf(most) & (likely != 0) & (coin == 1), np.inf * likely, found)
        vanishes = least < dtypes_finfo(sizes.dtype).tiny
        found = np.where(vanishes & (coin == 2), 0, found)
        both = vanishes & np.isinf(most) & (coin == 3)  # parts of it: infinity times nothing
        return np.where(both, np.nan, found).astype(value.dtype)

    def _of_mean(self, op: Op, inputs: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
        """The same for attention: its terms are the values, whose sizes may cancel."""
        q, k, v, *mask = inputs
        total = op.reference(q, k, np.abs(v), *mask, **attributes)
        rough = _epsilon(dtypes.accumulator(v.dtype))
        return np.asarray(total, np.float64) * rough * max(2.0, k.shape[-2] ** 0.5)

    def _moved_inputs(
        self, op: Op, inputs: list[np.ndarray], attributes: dict[str, Any]
    ) -> np.ndarray:
        """What inputs beside these give; or in more digits, in which less overflows or vanishes."""
        moved = [
            self._moved(x, np.abs(x).astype(np.float64) * (4 * _epsilon(x.dtype)))
            if dtypes.is_inexact(x.dtype) else x
            for x in inputs
        ]  # fmt: skip
        if self.rng.random() < 0.5:
            moved = [widely(x) for x in moved]
        return np.asarray(op.reference(*moved, **attributes))


def _is_spread(x: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether an operand repeats itself along some axis of the result."""
    return x.size < math.prod(shape) or any(
        (x == x.take([0], axis)).all() for axis, n in enumerate(x.shape) if n > 1
    )


def _in_tiles(reach: np.ndarray, is_weight: bool, is_half: bool) -> np.ndarray:
    """Minimal filtering multiplies sums of inputs with sums of weights: its errors grow with
    products that are no terms of the plain sum. Those of all taps, or of neighbouring outputs,
    stand for them: for half precisions more of them, and more of each.
    """
    times, far = (16, 5) if is_half else (2, 1)
    if is_weight:
        return np.broadcast_to(times * reach.max(axis=(2, 3), keepdims=True), reach.shape)
    around = np.pad(reach, ((0, 0), (0, 0), (far, far), (far, far)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (2 * far + 1,) * 2, axis=(2, 3))
    return times * windows.max(axis=(4, 5))


def _epsilon(dtype: dtypes.DType) -> float:
    return float(dtypes_finfo(dtype).eps)


def dtypes_finfo(dtype: dtypes.DType) -> np.finfo:
    """finfo, which for bfloat16 comes from elsewhere."""
    import ml_dtypes

    return ml_dtypes.finfo(dtype)


def with_noise(evaluate: Callable[[], list[np.ndarray]], seed: int) -> list[np.ndarray]:
    """The values of a reference run in which every rounding is moved."""
    noise = Noise(seed)
    watchers.append(noise)
    try:
        with tiers.using("reference"), patch.object(Body, "run", _with(noise)):
            return evaluate()
    finally:
        watchers.remove(noise)


def _with(noise: Noise) -> Callable[..., list[np.ndarray]]:
    return lambda body, arrays: noise.body(body, arrays)


def widely(x: np.ndarray) -> np.ndarray:
    """Floats as float64 or complex128, the rest as it is."""
    if dtypes.is_complex(x.dtype):
        return x.astype(np.complex128)
    return x.astype(np.float64) if dtypes.is_floating(x.dtype) else x


def differing(reference: np.ndarray, other: np.ndarray, ulps: float = 4.0) -> np.ndarray:
    """Where two arrays of one dtype differ by more than some ulps."""
    if not dtypes.is_inexact(reference.dtype):
        return np.asarray(reference != other)
    a, b = widely(reference), widely(other)
    info = dtypes_finfo(reference.dtype)
    with np.errstate(all="ignore"):
        near = np.abs(a - b) <= ulps * float(info.eps) * np.abs(a) + float(info.tiny)
    return ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))


def unexplained(
    reference: np.ndarray, other: np.ndarray, moved: list[np.ndarray], reach: float = 4.0
) -> np.ndarray:
    """Where `other` is further from the reference than `reach` times all moved runs."""
    wrong = differing(reference, other, 8.0)
    if not dtypes.is_inexact(reference.dtype):
        left = wrong.copy()
        for each in moved:
            left &= each == reference  # or it hangs on a rounding
        many = np.count_nonzero(wrong) >= _SELDOM * np.count_nonzero(left)
        return left & (not many)
    a, b = widely(reference), widely(other)
    spread = np.zeros(a.shape)
    with np.errstate(all="ignore"):
        for each in moved:
            distance = np.abs(widely(each) - a)
            same = (widely(each) == a) | (np.isnan(a) & np.isnan(widely(each)))
            distance = np.where(same, 0.0, np.where(np.isfinite(distance), distance, np.inf))
            spread = np.maximum(spread, distance)
        within = np.abs(a - b) <= reach * spread
    left = wrong & ~within & ~np.isinf(spread)
    return left & ~_is_chaotic(np.abs(a[wrong]), spread[wrong], np.count_nonzero(left))


def _is_chaotic(sizes: np.ndarray, spread: np.ndarray, left: int) -> bool:
    """Whether roundings grow until a value may be any other, as in long recurrences: a few runs
    do not show all that each of many elements can be.
    """
    if not left or left > sizes.size / _SELDOM:
        return False
    return bool(np.median(spread) > np.median(sizes) / 10)


_SELDOM = 50  # one in so many elements that differ may be left unexplained there
