"""Attention on the CPU, forward and backward, without ever holding a Tq x Tk matrix.

    lower_forward(spec) -> Lowered      y = softmax(scale q k^T + mask) v
    lower_backward(spec) -> Lowered     dq, dk and dv behind each other, as `ops.attention` has them

Dao et al., "FlashAttention: fast and memory-efficient exact attention with IO-awareness" (2022).
A block of queries meets the keys a block at a time; a running maximum and sum of each query put
the softmax right as more keys come in (the online softmax of Milakov and Gimelshein, 2018). The
backward kernel computes the weights of a block of queries again, for all keys at once, so its
scratch grows with Tk but not with Tq * Tk. A part of the work is one place of the batch, or some of
its query blocks where the batch is small; then the contributions to dk and dv go to the
workspace, and a second stage adds them up in a fixed order.

Words of `%args`, in both: 0 q, 1 k, 2 v, 3 mask (anything where there is none), 4 output,
5 workspace; backward also 6 g, 7 y. The output is dense, unless the spec says how it is strided.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from schuss import dtypes
from schuss.compiler.cpu import attention_steps as steps
from schuss.compiler.cpu import math as vector_math
from schuss.compiler.cpu.attention_steps import WIDTH, Index, Machine, Matrix
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.matmul import Lowered, Stage
from schuss.compiler.cpu.matmul_text import Function

Strides = tuple[int, ...]

KEYS = 512  # keys in a block of the forward kernel: its scores stay in the second-level cache
PARTS = 64  # so many shares of work are enough for any number of threads

_KINDS = {"float32": "float", "float64": "double", "bfloat16": "bfloat", "float16": "half"}


@dataclass(frozen=True)
class Attention:
    """One attention: sizes, layouts and constants.

    Attributes:
        dtype: of all arrays: float32, float64, bfloat16 or float16 (computed in float32).
        batch: the axes before the last two.
        tq, tk, d, dv: queries, keys, features of both, features of values.
        q, k, v, g, y: strides in elements, an entry for each axis of the batch, then T, then
            features; None where dense. Strides 0 (broadcast) are fine for what is read.
        mask: strides of the additive mask over (*batch, tq, tk), 0 where it broadcasts; None
            where there is no mask.
        dq, dk, dv_: strides of the gradients, each within its own share of the output.
        causal: query i sees keys 0 to i.
        scale: the factor of the dot products.
    """

    dtype: str
    batch: tuple[int, ...]
    tq: int
    tk: int
    d: int
    dv: int
    causal: bool
    scale: float
    q: Strides | None = None
    k: Strides | None = None
    v: Strides | None = None
    y: Strides | None = None
    g: Strides | None = None
    mask: Strides | None = None
    dq: Strides | None = None
    dk: Strides | None = None
    dv_: Strides | None = None

    @property
    def heads(self) -> int:
        return math.prod(self.batch)

    @property
    def blocks(self) -> int:
        """Blocks of queries."""
        return -(-self.tq // WIDTH)

    @property
    def chunks(self) -> int:
        """How many parts share the blocks of one place of the batch, as evenly as it goes."""
        most = max(1, min(self.blocks, -(-PARTS // self.heads)))
        return -(-self.blocks // -(-self.blocks // most)) if self.blocks else 1


class _Scratch:
    """Hands out pieces of `%scratch`."""

    def __init__(self, f: Function, m: Machine) -> None:
        self.f, self.m, self.bytes = f, m, 0

    def take(self, count: int) -> str:
        """Room for `count` elements, aligned to 64 bytes."""
        start = self.bytes
        self.bytes += -(-count * self.m.size // 64) * 64
        return self.f.at("i8", "%scratch", start)


class _Kernel:
    """What both kernels begin with: the machine, the operands of this part, its query blocks."""

    def __init__(self, spec: Attention, m: Machine, name: str, chunks: int) -> None:
        self.spec, self.m, self.chunks = spec, m, chunks
        self.name = f"{name}_{sha256(f'{spec}{m}'.encode()).hexdigest()[:16]}"
        signature = f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        self.f = Function(signature)
        self.scratch = _Scratch(self.f, m)
        self.top, self.total, self.dots = (steps.block(self.f, m) for _ in range(3))
        self.head, self.chunk = self.f.divide("%part", chunks)

    def blocks(self) -> tuple[Index, Index]:
        """The first block of queries of this part, and the one behind its last."""
        size = -(-self.spec.blocks // self.chunks)
        first = self.f.mul(self.chunk, size)
        return first, self.f.smaller(self.f.add(first, size), self.spec.blocks)

    @property
    def parts(self) -> int:
        return self.spec.heads * self.chunks

    def operand(
        self, word: int, rows: int, columns: int, strides: Strides | None, offset: int = 0
    ) -> Matrix:
        """The matrix of this part's place in the batch."""
        f, kind = self.f, _KINDS[self.spec.dtype]
        *outer, row, column = strides or dense((*self.spec.batch, rows, columns))
        place: Index = offset
        rest = self.head
        for size, stride in zip(reversed(self.spec.batch), reversed(outer), strict=True):
            rest, index = f.divide(rest, size)
            place = f.add(place, f.mul(index, stride))
        return Matrix(f.at(kind, f.word(word), place), row, column, kind)

    def gradient(self, which: int) -> Matrix:
        """dq (0), dk (1) or dv (2) in the output, where they lie one behind the other."""
        spec = self.spec
        rows, columns = (spec.tq, spec.tk, spec.tk)[which], (spec.d, spec.d, spec.dv)[which]
        before = (0, spec.tq * spec.d, (spec.tq + spec.tk) * spec.d)[which]
        strides = (spec.dq, spec.dk, spec.dv_)[which]
        return self.operand(4, rows, columns, strides, spec.heads * before)

    def rows(self, x: Matrix, count: Index, room: int, columns: int) -> Matrix:
        """x as rows of whole vectors: itself where it is that, else a copy in scratch."""
        direct = x.kind == self.m.element and x.column == 1 and columns % self.m.lanes == 0
        if direct:
            return x
        to = self.scratch.take(room * self.m.padded(columns))
        return steps.copy_rows(self.f, self.m, x, to, count, columns)

    def bias(self, room: str, query: Index, count: Index, key: Index, keys: int) -> Matrix | None:
        """The mask for a block of queries and `keys` keys, turned over like the scores."""
        spec, f = self.spec, self.f
        if spec.mask is None:
            return None
        mask = self.operand(3, spec.tq, spec.tk, spec.mask)
        mask = mask.moved(f, query).turned().moved(f, key).turned()
        if mask.row == 0:
            return mask.turned()
        return steps.turn(f, self.m, mask, room, count, keys)

    def find_largest(
        self, scores: str, keys: Index, query: Index, key: Index, bias: Matrix | None
    ) -> None:
        """The maximum over the rows 0 to `keys` of scores, the first of which is key `key`."""
        f, m = self.f, self.m
        seen: Index = keys
        if self.spec.causal:  # keys up to the first query count for the whole block
            seen = f.smaller(_positive(f, f.sub(f.add(query, 1), key)), keys)
        steps.largest(f, m, scores, (0, seen), self.top, query=None, bias=bias)
        if self.spec.causal:
            steps.largest(
                f, m, scores, (seen, keys), self.top, query=query, bias=bias, first_key=key
            )

    def keys_seen(self, query: Index, keys: Index) -> steps.Span:
        """For rows that are queries, `query` the first: the keys that they see, counted alike."""

        def span(row: Index, height: int) -> tuple[Index, Index]:
            if not self.spec.causal:
                return 0, keys
            return 0, self.f.smaller(self.f.add(self.f.add(query, row), height), keys)

        return span

    def queries_seeing(self, query: Index, count: Index) -> steps.Span:
        """For rows that are keys: the queries of the block that see any of them."""

        def span(row: Index, height: int) -> tuple[Index, Index]:
            return _positive(self.f, self.f.sub(row, query)) if self.spec.causal else 0, count

        return span

    def start_rows(self) -> None:
        """No key met yet: the maximum is the least finite number, so that -inf - top is -inf."""
        m = self.m
        lowest = -sys.float_info.max if m.element == "double" else -(2.0 - 2.0**-23) * 2.0**127
        self.top.set(self.f, m, [steps.constant(m, lowest)] * m.width)
        self.total.set(self.f, m, ["zeroinitializer"] * m.width)

    def correct(self, before: list[str], factors: str) -> None:
        """Bring sums to the new maximum: the factors are stored for the rows of the output."""
        f, m = self.f, self.m
        sums = self.total.get(f, m)
        for v, (old, new) in enumerate(zip(before, self.top.get(f, m), strict=True)):
            below = f.let(f"fsub {m.vector} {old}, {new}")
            factor = f.let(f"call {m.vector} {m.exp}({m.vector} {below})")
            steps.store(f, m, factor, factors, v * m.lanes)
            sums[v] = f.let(f"fmul {m.vector} {sums[v]}, {factor}")
        self.total.set(f, m, sums)

    def stage(self) -> Stage:
        self.f.line("ret void")
        text = _module(self.f, self.m, _KINDS[self.spec.dtype])
        return Stage(text, self.name, self.parts, self.scratch.bytes)


def dense(shape: tuple[int, ...]) -> Strides:
    """The strides of a dense array in row-major order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def lower_forward(spec: Attention) -> Lowered:
    """The kernel of y = softmax(scale q k^T + mask) v."""
    if spec.heads * spec.tq * spec.dv == 0:
        return Lowered((), (), 0)
    kernel = _Kernel(spec, _machine(spec.dtype), "attention", spec.chunks)
    f, m, width = kernel.f, kernel.m, kernel.m.padded(spec.dv)
    q, k = kernel.operand(0, spec.tq, spec.d, spec.q), kernel.operand(1, spec.tk, spec.d, spec.k)
    v, y = kernel.operand(2, spec.tk, spec.dv, spec.v), kernel.operand(4, spec.tq, spec.dv, spec.y)
    size = min(KEYS, spec.tk)
    take = kernel.scratch.take
    turned, scores, out = take(spec.d * WIDTH), take(size * WIDTH), take(WIDTH * width)
    factors, room = take(WIDTH), take(size * WIDTH if spec.mask else 0)
    values = kernel.rows(v, spec.tk, spec.tk, spec.dv)
    with f.loop(*kernel.blocks()) as block:
        query = f.mul(block, WIDTH)
        count = f.smaller(WIDTH, f.sub(spec.tq, query))
        limit = f.smaller(f.add(query, count), spec.tk) if spec.causal else str(spec.tk)
        queries = steps.turn(f, m, q.moved(f, query), turned, count, spec.d, spec.scale)
        kernel.start_rows()
        if spec.tk > size or spec.tk == 0:
            steps.clear(f, m, out, WIDTH * width)

        def meet(key: Index, keys: int) -> None:
            """Take a block of keys into account."""
            present = f.smaller(keys, f.sub(limit, key))
            right, left = Matrix(scores, WIDTH, 1, m.element), k.moved(f, key)
            steps.product(f, m, left, queries, right, rows=keys, below=present, columns=WIDTH,
                          span=lambda row, height: (0, spec.d))  # fmt: skip
            bias = kernel.bias(room, query, count, key, keys)
            before = kernel.top.get(f, m)
            kernel.find_largest(scores, present, query, key, bias)
            if spec.tk > size:
                kernel.correct(before, factors)
                steps.rescale(f, m, Matrix(out, width, 1, m.element), factors, width)
            steps.powers(f, m, scores, (0, present), kernel.top, kernel.total)
            weights, target = right.turned(), Matrix(out, width, 1, m.element)
            steps.product(f, m, weights, values.moved(f, key), target, rows=WIDTH, below=WIDTH,
                          columns=width, add=spec.tk > size,
                          span=kernel.keys_seen(f.sub(query, key), present))  # fmt: skip

        _over_keys(f, spec.tk, size, limit, meet)
        for lane, inverse in enumerate(steps.inverses(f, m, kernel.total)):
            steps.store(f, m, inverse, factors, lane * m.lanes)
        result = Matrix(out, width, 1, m.element)
        steps.write_rows(f, m, result, y.moved(f, query), count, spec.dv, factors)
    return Lowered((), (kernel.stage(),), 0)


def _over_keys(
    f: Function, count: int, size: int, limit: str, meet: Callable[[Index, int], None]
) -> None:
    """Call `meet` for whole blocks of keys, and for what is left, as far as `limit`."""
    if count == 0:
        return
    whole = count - count % size
    with f.loop(0, f.smaller(whole, limit), size) as key:
        meet(key, size)
    if whole < count:
        with f.when(f.let(f"icmp slt i64 {whole}, {limit}")):
            meet(whole, count - whole)


def lower_backward(spec: Attention) -> Lowered:
    """The kernels of dq, dk and dv, from g (the gradient of y), q, k, v and y."""
    sizes = (spec.tq * spec.d, spec.tk * spec.d, spec.tk * spec.dv)
    if spec.heads * sum(sizes) == 0:
        return Lowered((), (), 0)
    kernel = _Kernel(spec, _machine(spec.dtype), "attention_gradient", spec.chunks)
    backward = _Backward(kernel)
    with kernel.f.loop(*kernel.blocks()) as block:
        backward.block(block)
    if kernel.chunks == 1:
        backward.write()
        return Lowered((), (kernel.stage(),), 0)
    share = spec.tk * (backward.width + backward.value_width)
    stages = (kernel.stage(), _gather(spec, kernel))
    return Lowered((), stages, kernel.parts * share * kernel.m.size)


def _gather(spec: Attention, before: _Kernel) -> Stage:
    """The second stage: dk and dv of a place of the batch, added up over its chunks."""
    kernel = _Kernel(spec, before.m, "attention_sum", chunks=-(-spec.tk // WIDTH))
    f, m, take = kernel.f, kernel.m, kernel.scratch.take
    widths = m.padded(spec.d), m.padded(spec.dv)
    share = spec.tk * sum(widths)
    first = f.mul(kernel.head, before.chunks * share)
    start = f.mul(kernel.chunk, WIDTH)
    count = f.smaller(WIDTH, f.sub(spec.tk, start))
    columns = (spec.d, spec.dv)
    for which, offset in ((0, 0), (1, spec.tk * widths[0])):
        width = widths[which]
        place = f.add(f.add(first, offset), f.mul(start, width))
        parts = f.at(m.element, f.word(5), place)
        rows = take(WIDTH * width)
        steps.add_up(f, m, parts, rows, f.mul(count, width), before.chunks, share)
        to = kernel.gradient(which + 1).moved(f, start)
        steps.write_rows(f, m, Matrix(rows, width, 1, m.element), to, count, columns[which], None)
    return kernel.stage()


class _Backward:
    """The backward kernel: operands, scratch, and the steps for one block of queries."""

    def __init__(self, kernel: _Kernel) -> None:
        self.kernel = kernel
        spec, m, take = kernel.spec, kernel.m, kernel.scratch.take
        self.width, self.value_width = m.padded(spec.d), m.padded(spec.dv)
        self.q = kernel.operand(0, spec.tq, spec.d, spec.q)
        self.k = kernel.operand(1, spec.tk, spec.d, spec.k)
        self.v = kernel.operand(2, spec.tk, spec.dv, spec.v)
        self.g = kernel.operand(6, spec.tq, spec.dv, spec.g)
        self.y = kernel.operand(7, spec.tq, spec.dv, spec.y)
        self.turned_q, self.turned_g = take(spec.d * WIDTH), take(spec.dv * WIDTH)
        self.turned_y, self.dq_rows = take(spec.dv * WIDTH), take(self.width * WIDTH)
        self.weights, self.towards = take(spec.tk * WIDTH), take(spec.tk * WIDTH)
        self.room = take(spec.tk * WIDTH if spec.mask else 0)
        self.keys = kernel.rows(self.k, spec.tk, spec.tk, spec.d)
        self.dots = kernel.dots
        self.dk, self.dv = self.sums(take)
        for x, width in ((self.dk, self.width), (self.dv, self.value_width)):
            steps.clear(kernel.f, m, x.pointer, spec.tk * width)

    def sums(self, take: Callable[[int], str]) -> tuple[Matrix, Matrix]:
        """Where dk and dv are gathered: in scratch, or in this part's share of the workspace."""
        kernel, tk = self.kernel, self.kernel.spec.tk
        count, value_count = tk * self.width, tk * self.value_width
        if kernel.chunks == 1:
            first, second = take(count), take(value_count)
        else:
            share = kernel.f.mul("%part", count + value_count)
            first = kernel.f.at(kernel.m.element, kernel.f.word(5), share)
            second = kernel.f.at(kernel.m.element, first, count)
        element = kernel.m.element
        return (
            Matrix(first, self.width, 1, element),
            Matrix(second, self.value_width, 1, element),
        )

    def block(self, block: str) -> None:
        """All that a block of queries gives: its dq, and its share of dk and dv."""
        kernel, spec, f, m = self.kernel, self.kernel.spec, self.kernel.f, self.kernel.m
        query = f.mul(block, WIDTH)
        count = f.smaller(WIDTH, f.sub(spec.tq, query))
        keys: Index = spec.tk
        if spec.causal:  # whole tiles, as what follows adds up whole tiles
            keys = _tile_end(f, spec.tk, m.rows, f.smaller(f.add(query, count), spec.tk))
        q, g = self.q.moved(f, query), self.g.moved(f, query)
        queries = steps.turn(f, m, q, self.turned_q, count, spec.d, spec.scale)
        # The factor stands for that of dS in dq = scale dS k and dk = scale dS^T q.
        slopes = steps.turn(f, m, g, self.turned_g, count, spec.dv, spec.scale)
        steps.turn(f, m, self.y.moved(f, query), self.turned_y, count, spec.dv)
        steps.dot_columns(f, m, self.turned_g, self.turned_y, spec.dv, self.dots)
        weights = Matrix(self.weights, WIDTH, 1, m.element)
        towards = Matrix(self.towards, WIDTH, 1, m.element)
        steps.product(f, m, self.k, queries, weights, rows=spec.tk, below=keys, columns=WIDTH,
                      span=lambda row, height: (0, spec.d))  # fmt: skip
        kernel.start_rows()
        bias = kernel.bias(self.room, query, count, 0, spec.tk)
        kernel.find_largest(self.weights, keys, query, 0, bias)
        steps.powers(f, m, self.weights, (0, keys), kernel.top, kernel.total)
        steps.product(f, m, self.v, slopes, towards, rows=spec.tk, below=keys, columns=WIDTH,
                      span=lambda row, height: (0, spec.dv))  # fmt: skip
        inverse = steps.inverses(f, m, kernel.total)
        steps.slopes(f, m, self.weights, self.towards, keys, inverse, self.dots)
        dq = Matrix(self.dq_rows, self.width, 1, m.element)
        steps.product(f, m, towards.turned(), self.keys, dq, rows=WIDTH, below=WIDTH,
                      columns=self.width, span=kernel.keys_seen(query, keys))  # fmt: skip
        target = kernel.gradient(0).moved(f, query)
        steps.write_rows(f, m, dq, target, count, spec.d, None)
        for left, right, total, columns, width in (
            (weights, g, self.dv, spec.dv, self.value_width),
            (towards, q, self.dk, spec.d, self.width),
        ):
            rows = kernel.rows(right, count, WIDTH, columns)
            steps.product(f, m, left, rows, total, rows=spec.tk, below=keys, columns=width,
                          span=kernel.queries_seeing(query, count), add=True)  # fmt: skip

    def write(self) -> None:
        """dk and dv to the output."""
        kernel, spec = self.kernel, self.kernel.spec
        for x, to in ((self.dk, kernel.gradient(1)), (self.dv, kernel.gradient(2))):
            columns = spec.d if x is self.dk else spec.dv
            steps.write_rows(kernel.f, kernel.m, x, to, spec.tk, columns, None)


def _positive(f: Function, x: Index) -> Index:
    """max(x, 0)."""
    return f.let(f"call i64 @llvm.smax.i64(i64 {x}, i64 0)")


def _tile_end(f: Function, rows: int, largest: int, row: Index) -> Index:
    """The first row behind the tile that row - 1 lies in; see `steps.tiles`."""
    end: Index = rows
    for start, stop, height in reversed(steps.tiles(rows, largest)):
        whole, _ = f.divide(f.add(f.sub(row, start), height - 1), height)
        here = f.add(f.mul(whole, height), start)
        inside = f.let(f"icmp sle i64 {row}, {stop}")
        end = f.choose(inside, "i64", here, end)
    return end


def _machine(dtype: str) -> Machine:
    """How the host computes attention of a dtype."""
    computed = dtypes.accumulator(dtypes.as_dtype(dtype))
    lanes = host().lanes(computed)
    # Of 16 or 32 registers: heights that divide a block waste nothing at the causal edge.
    rows = 4 if host().vector_bits == 256 else 8
    exp = vector_math.symbol("exp", str(computed), lanes)
    return Machine(_KINDS[str(computed)], lanes, rows, exp)


def _module(f: Function, m: Machine, kind: str) -> str:
    """The function with the exponential that it calls and all declarations."""
    computed = "float64" if m.element == "double" else "float32"
    exp, declarations = vector_math.definition("exp", computed, m.lanes)
    lines = {*declarations, *steps.declarations(m, kind)}
    return "\n".join([*sorted(lines), exp, str(f)]) + "\n"
