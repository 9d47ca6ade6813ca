"""What each op means, written a second time: loops over Python numbers, nothing of the op's own.

`ORACLES[name](*arrays, **attributes)` gives the values that the reference of the op must give.
Slow and obvious; the shapes of the samples are small.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .matrix_oracles import MATRIX_ORACLES
from .special_oracles import special_oracles

Oracle = Callable[..., Any]


# --- element by element ---


def each(function: Callable[..., Any]) -> Oracle:
    """`function` of the Python numbers at each place, after broadcasting."""

    def oracle(*arrays: np.ndarray) -> np.ndarray:
        wide = np.broadcast_arrays(*arrays)
        columns = zip(*[x.ravel().tolist() for x in wide], strict=True)
        return np.array([function(*numbers) for numbers in columns]).reshape(wide[0].shape)

    return oracle


def masked_product(g: float, d: float) -> float:
    return 0.0 if g == 0 and not math.isfinite(d) else g * d


def astype(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.int32:
        return each(math.trunc)(x)
    if str(dtype) == "bfloat16":
        return each(rounded_to_bfloat16)(x)
    assert dtype == np.float64
    return x


def rounded_to_bfloat16(x: float) -> float:
    """The upper half of the bits of a float32, rounded to the nearest, ties to even."""
    bits = int(np.float32(x).view(np.uint32))
    bits += 0x7FFF + (bits >> 16 & 1)
    return float(np.uint32(bits & 0xFFFF0000).view(np.float32))


# --- over axes ---


def reduce(function: Callable[[list[Any]], Any]) -> Oracle:
    """`function` of the list of the elements that fall on one place of the result."""

    def oracle(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        rest = [axis for axis in range(x.ndim) if axis not in axes]
        shape = tuple(x.shape[axis] for axis in rest)
        groups: dict[tuple[int, ...], list[Any]] = {place: [] for place in np.ndindex(*shape)}
        for place in np.ndindex(*x.shape):
            groups[tuple(place[axis] for axis in rest)].append(x[place].item())
        return np.array([function(group) for group in groups.values()]).reshape(shape)

    return oracle


def lines(function: Callable[[list[Any]], Any], keep: bool) -> Oracle:
    """`function` of each line along the axis; gives a line again (`keep`) or one number."""

    def oracle(x: np.ndarray, axis: int) -> np.ndarray:
        rest = x.shape[:axis] + x.shape[axis + 1 :]
        result = np.zeros(x.shape if keep else rest)
        for place in np.ndindex(*rest):
            line = (*place[:axis], slice(None), *place[axis:])
            found = function(x[line].tolist())
            result[line if keep else place] = found
        return result

    return oracle


def positions_in_order(line: list[float]) -> list[int]:
    return sorted(range(len(line)), key=line.__getitem__)


def running(function: Callable[[Any, Any], Any]) -> Oracle:
    return lines(lambda line: list(itertools.accumulate(line, function)), keep=True)


# --- moving elements ---


def reshape(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.array([x[place] for place in np.ndindex(*x.shape)]).reshape(shape)


def permute(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    result = np.zeros([x.shape[axis] for axis in axes])
    for place in np.ndindex(*x.shape):
        result[tuple(place[axis] for axis in axes)] = x[place]
    return result


def reverse(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    result = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        mirrored = [
            n - 1 - i if axis in axes else i
            for axis, (i, n) in enumerate(zip(place, x.shape, strict=True))
        ]
        result[tuple(mirrored)] = x[place]
    return result


def broadcast_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    result = np.zeros(shape)
    lead = len(shape) - x.ndim
    for place in np.ndindex(*shape):
        source = [0 if n == 1 else i for i, n in zip(place[lead:], x.shape, strict=True)]
        result[place] = x[tuple(source)]
    return result


def cut_places(cut: Any) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(place in the part, place in the whole)"""
    for place in np.ndindex(*[size for _, size, _ in cut]):
        pairs = zip(place, cut, strict=True)
        yield place, tuple(start + i * step for i, (start, _, step) in pairs)


def slice_(x: np.ndarray, cut: Any) -> np.ndarray:
    result = np.zeros([size for _, size, _ in cut])
    for part, whole in cut_places(cut):
        result[part] = x[whole]
    return result


def slice_update(x: np.ndarray, part: np.ndarray, cut: Any) -> np.ndarray:
    result = x.copy()
    for place, whole in cut_places(cut):
        result[whole] = part[place]
    return result


def concat(*xs: np.ndarray, axis: int) -> np.ndarray:
    if axis:
        return np.swapaxes(concat(*[np.swapaxes(x, 0, axis) for x in xs], axis=0), 0, axis)
    rows = [row for x in xs for row in x]
    return np.array(rows).reshape(len(rows), *xs[0].shape[1:])


def gathered(
    x: np.ndarray, indices: tuple[np.ndarray, ...], axes: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(place in the result, place in x), in the order of the indices."""
    wide = np.broadcast_arrays(*indices)
    rest_axes = [axis for axis in range(x.ndim) if axis not in axes]
    for lead in np.ndindex(*wide[0].shape):
        for rest in np.ndindex(*[x.shape[axis] for axis in rest_axes]):
            source = dict(zip(rest_axes, rest, strict=True))
            source |= {axis: int(index[lead]) for axis, index in zip(axes, wide, strict=True)}
            yield lead + rest, tuple(source[axis] % x.shape[axis] for axis in range(x.ndim))


def gather(x: np.ndarray, *indices: np.ndarray, axes: tuple[int, ...], wrap: bool) -> np.ndarray:
    rest = [n for axis, n in enumerate(x.shape) if axis not in axes]
    result = np.zeros((*np.broadcast_shapes(*[index.shape for index in indices]), *rest))
    for place, source in gathered(x, indices, axes):
        result[place] = x[source]
    return result


def scatter(x: np.ndarray, part: np.ndarray, *indices: np.ndarray, axes: Any, wrap: bool) -> Any:
    result = x.copy()
    for place, target in gathered(x, indices, axes):
        result[target] = part[place]
    return result


def scatter_add(
    x: np.ndarray, part: np.ndarray, *indices: np.ndarray, axes: Any, wrap: bool
) -> Any:
    result = x.copy()
    for place, target in gathered(x, indices, axes):
        result[target] += part[place]
    return result


# --- windows and convolutions ---


def taps(counts: Any, kernel: Any, stride: Any, dilation: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(position, place in the kernel, place in the input)"""
    for position in np.ndindex(*counts):
        for tap in np.ndindex(*kernel):
            steps = zip(position, tap, stride, dilation, strict=True)
            yield position, tap, tuple(p * s + k * d for p, k, s, d in steps)


def count(n: int, k: int, s: int, d: int) -> int:
    """How many windows fit, by trying."""
    return sum(1 for start in range(0, n, s) if start + d * (k - 1) < n)


def windows(x: np.ndarray, kernel: Any, stride: Any, dilation: Any) -> np.ndarray:
    lead = x.ndim - len(kernel)
    counts = [count(*each) for each in zip(x.shape[lead:], kernel, stride, dilation, strict=True)]
    result = np.zeros((*x.shape[:lead], *counts, *kernel))
    for first in np.ndindex(*x.shape[:lead]):
        for position, tap, place in taps(counts, kernel, stride, dilation):
            result[first + position + tap] = x[first + place]
    return result


def overlap(w: np.ndarray, sizes: Any, stride: Any, dilation: Any) -> np.ndarray:
    rank = len(sizes)
    lead = w.ndim - 2 * rank
    result = np.zeros((*w.shape[:lead], *sizes))
    for first in np.ndindex(*w.shape[:lead]):
        windows_of = taps(w.shape[lead : lead + rank], w.shape[lead + rank :], stride, dilation)
        for position, tap, place in windows_of:
            result[first + place] += w[first + position + tap]
    return result


def products(
    x_shape: Any, w_shape: Any, y_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Iterator[tuple[Any, Any, Any]]:
    """The places in x, w and y of every product that a convolution adds up."""
    outputs = w_shape[0] // groups
    for position, tap, place in taps(y_shape[2:], w_shape[2:], stride, dilation):
        inside = tuple(i - before for i, (before, _) in zip(place, padding, strict=True))
        if any(not 0 <= i < n for i, n in zip(inside, x_shape[2:], strict=True)):
            continue
        for n, o, c in np.ndindex(x_shape[0], w_shape[0], w_shape[1]):
            channel = o // outputs * w_shape[1] + c
            yield (n, channel, *inside), (o, c, *tap), (n, o, *position)


def convolve(
    x: np.ndarray, w: np.ndarray, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    sizes = [n + before + after for n, (before, after) in zip(x.shape[2:], padding, strict=True)]
    counts = [count(*each) for each in zip(sizes, w.shape[2:], stride, dilation, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *counts))
    for in_x, in_w, in_y in products(x.shape, w.shape, y.shape, stride, padding, dilation, groups):
        y[in_y] += x[in_x] * w[in_w]
    return y


def convolve_input(g: np.ndarray, w: np.ndarray, *, sizes: Any, groups: int, **named: Any) -> Any:
    x = np.zeros((g.shape[0], w.shape[1] * groups, *sizes))
    for in_x, in_w, in_y in products(x.shape, w.shape, g.shape, groups=groups, **named):
        x[in_x] += g[in_y] * w[in_w]
    return x


def convolve_weight(x: np.ndarray, g: np.ndarray, *, kernel: Any, groups: int, **named: Any) -> Any:
    w = np.zeros((g.shape[1], x.shape[1] // groups, *kernel))
    for in_x, in_w, in_y in products(x.shape, w.shape, g.shape, groups=groups, **named):
        w[in_w] += x[in_x] * g[in_y]
    return w


# --- matrices ---


def solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Gauss and Jordan, without pivots: the samples are dominated by their diagonals."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, lead + a.shape[-2:]).copy()
    b = np.broadcast_to(b, lead + b.shape[-2:]).copy()
    for place in np.ndindex(*lead):
        left, right = a[place], b[place]
        for i in range(len(left)):
            right[i] /= left[i, i]
            left[i] /= left[i, i].copy()
            for j in set(range(len(left))) - {i}:
                right[j] -= left[j, i] * right[i]
                left[j] -= left[j, i].copy() * left[i]
    return b


# --- random bits ---


def philox(seed: int, stream: int, position: int) -> list[int]:
    """One block of Philox 4x32-10, as the paper writes it."""
    low = 2**32 - 1
    key = [seed & low, seed >> 32]
    c = [position & low, position >> 32, stream & low, stream >> 32]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ key[0], second & low, first >> 32 ^ c[3] ^ key[1], first & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return c


def random_bits(state: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    seed, stream, position = (int(part) for part in state)
    needed = math.prod(shape)
    drawn = [n for i in range(-(-needed // 4)) for n in philox(seed, stream, position + i)]
    return np.array(drawn[:needed]).reshape(shape)


# --- order ---


def position(line: np.ndarray, value: float, side: str) -> int:
    return sum(1 for each in line if each < value or (side == "right" and each == value))


def positions_of_extremes(line: list[float]) -> list[int]:
    found, best = [], 0
    for i, value in enumerate(line):
        best = i if value >= line[best] else best
        found.append(best)
    return found


def running_logsumexp(line: list[float]) -> list[float]:
    return [math.log(math.fsum(math.exp(x) for x in line[: i + 1])) for i in range(len(line))]


def segment_max(x: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    y = np.full((count, *x.shape[1:]), -math.inf)
    for row, place in zip(x, ids, strict=True):
        y[place] = np.where(row > y[place], row, y[place])
    return y


def substream(state: np.ndarray) -> np.ndarray:
    seed, stream, position = (int(part) for part in state)
    low, high, _, _ = philox(stream ^ 0xBA7C4ED0BA7C4ED0, seed, position)
    return np.array([seed, low + 2**32 * high, 0], np.uint64)


def attention_rows(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    causal: bool,
    scale: float,
) -> Iterator[tuple[tuple[int, ...], int, list[float]]]:
    """Every batch place and query with the weights of its keys."""
    batch, (queries, keys) = q.shape[:-2], (q.shape[-2], k.shape[-2])
    bias = np.zeros((*batch, queries, keys))
    bias += 0.0 if mask is None else mask
    for place in np.ndindex(*batch):
        for i in range(queries):
            scores = [
                -math.inf if causal and j > i else
                scale * math.fsum(q[place][i] * k[place][j]) + bias[(*place, i, j)]
                for j in range(keys)
            ]  # fmt: skip
            top = max(scores, default=0.0)
            powers = [0.0 if s == -math.inf else math.exp(s - top) for s in scores]
            yield place, i, [p / (math.fsum(powers) or 1.0) for p in powers]


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *mask: np.ndarray,
              causal: bool, scale: float) -> np.ndarray:  # fmt: skip
    y = np.zeros((*q.shape[:-1], v.shape[-1]))
    for place, i, weights in attention_rows(q, k, v, *mask, causal=causal, scale=scale):
        for j, weight in enumerate(weights):
            y[place][i] += weight * v[place][j]
    return y


def attention_gradient(g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, y: np.ndarray,
                       *mask: np.ndarray, causal: bool, scale: float) -> np.ndarray:  # fmt: skip
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for place, i, weights in attention_rows(q, k, v, *mask, causal=causal, scale=scale):
        dot = math.fsum(g[place][i] * y[place][i])
        for j, weight in enumerate(weights):
            slope = scale * weight * (math.fsum(g[place][i] * v[place][j]) - dot)
            dq[place][i] += slope * k[place][j]
            dk[place][j] += slope * q[place][i]
            dv[place][j] += weight * g[place][i]
    return np.concatenate([dq.ravel(), dk.ravel(), dv.ravel()])


def cond(w: np.ndarray, x: np.ndarray, chosen: np.ndarray, branches: Any, wanted: Any) -> Any:
    """The two branches of the samples."""
    results = [np.tanh(x * w), 2 * w] if chosen else [x * x, w * w]
    return np.concatenate([y.ravel() for y, w in zip(results, wanted, strict=True) if w])


def scan(w: np.ndarray, xs: np.ndarray, h: np.ndarray, loop: Any) -> np.ndarray:
    """The RNN of the samples: h = tanh(h W + x), y = h x, and all h from first to last."""
    steps = range(len(xs))[::-1] if loop.reverse else range(len(xs))
    hs, ys = [h], {}
    for t in steps:
        hs.append(np.tanh(hs[-1] @ w + xs[t]))
        ys[t] = hs[-1] * xs[t]
    found = {"last": hs[-1:], "history": hs[::-1] if loop.reverse else hs, "": []}
    kept = found[loop.carries[0]] + [ys[t] for t in sorted(ys) if loop.ys[0]]
    return np.concatenate([each.ravel() for each in kept])


ORACLES: dict[str, Oracle] = {
    # one input
    "negative": each(operator.neg),
    "exp": each(math.exp),
    "expm1": each(math.expm1),
    "log": each(math.log),
    "log1p": each(math.log1p),
    "sqrt": each(math.sqrt),
    "sin": each(math.sin),
    "cos": each(math.cos),
    "tan": each(math.tan),
    "asin": each(math.asin),
    "acos": each(math.acos),
    "atan": each(math.atan),
    "sinh": each(math.sinh),
    "cosh": each(math.cosh),
    "tanh": each(math.tanh),
    "asinh": each(math.asinh),
    "acosh": each(math.acosh),
    "atanh": each(math.atanh),
    "erf": each(math.erf),
    "sigmoid": each(lambda x: 1 / (1 + math.exp(-x))),
    "relu": each(lambda x: x if x > 0 else 0.0),
    "abs": each(lambda x: x if x > 0 else -x),
    "sign": each(lambda x: float((x > 0) - (x < 0))),
    "floor": each(math.floor),
    "ceil": each(math.ceil),
    "trunc": each(math.trunc),
    "round": each(round),
    "isnan": each(lambda x: x != x),
    "isinf": each(lambda x: x in (math.inf, -math.inf)),
    "isfinite": each(lambda x: x - x == 0),
    "logical_not": each(operator.not_),
    "bitwise_invert": each(lambda x: -x - 1),
    "real": each(lambda x: x.real),
    "imag": each(lambda x: x.imag),
    "conj": each(lambda x: complex(x.real, -x.imag)),
    "phase": each(lambda x: x / abs(x)),
    "astype": astype,
    "detach": each(lambda x: x),
    "alias": each(lambda x: x),
    # several inputs
    "masked_product": each(masked_product),
    "add": each(operator.add),
    "subtract": each(operator.sub),
    "multiply": each(operator.mul),
    "divide": each(operator.truediv),
    "maximum": each(lambda a, b: a if a > b else b),
    "minimum": each(lambda a, b: a if a < b else b),
    "atan2": each(math.atan2),
    "power": each(math.pow),
    "remainder": each(operator.mod),
    "floor_divide": each(operator.floordiv),
    "copysign": each(math.copysign),
    "nextafter": each(math.nextafter),
    "equal": each(operator.eq),
    "not_equal": each(operator.ne),
    "less": each(operator.lt),
    "less_equal": each(operator.le),
    "logical_and": each(lambda a, b: a and b),
    "logical_or": each(lambda a, b: a or b),
    "logical_xor": each(lambda a, b: a is not b),
    "bitwise_and": each(operator.and_),
    "bitwise_or": each(operator.or_),
    "bitwise_xor": each(operator.xor),
    "bitwise_left_shift": each(lambda a, b: a * 2**b),
    "bitwise_right_shift": each(lambda a, b: a // 2**b),
    "where": each(lambda condition, a, b: a if condition else b),
    # over axes
    "sum": reduce(math.fsum),
    "prod": reduce(math.prod),
    "max": reduce(max),
    "first_max": reduce(max),
    "min": reduce(min),
    "any": reduce(any),
    "all": reduce(all),
    "argmax": lines(lambda line: line.index(max(line)), keep=False),
    "argmin": lines(lambda line: line.index(min(line)), keep=False),
    "argsort": lines(positions_in_order, keep=True),
    "sort": lines(sorted, keep=True),
    "cumsum": running(operator.add),
    "cumprod": running(operator.mul),
    # moving elements
    "broadcast_to": broadcast_to,
    "reshape": reshape,
    "permute": permute,
    "reverse": reverse,
    "slice": slice_,
    "slice_update": slice_update,
    "concat": concat,
    "checked_index": lambda index, size, axis, ignored: index,
    "positions": lambda shape, axis: np.indices(shape)[axis],
    "gather": gather,
    "scatter": scatter,
    "scatter_add": scatter_add,
    "windows": windows,
    "overlap": overlap,
    # products
    "matmul": lambda x, y: np.einsum("...ij,...jk->...ik", x, y),
    "convolve": convolve,
    "convolve_input": convolve_input,
    "convolve_weight": convolve_weight,
    "solve": solve,
    "attention": attention,
    "attention_gradient": attention_gradient,
    "scan": scan,
    "cond": cond,
    "random_bits": random_bits,
    "searchsorted": lambda line, values, side: each(lambda v: position(line, v, side))(values),
    "running_argmax": lines(positions_of_extremes, keep=True),
    "logcumsumexp": lines(running_logsumexp, keep=True),
    "segment_max": segment_max,
    **MATRIX_ORACLES,
    **special_oracles(each, philox),
    "substream": substream,
}
