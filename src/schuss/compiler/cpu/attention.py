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
5 workspace (aligned to 64 bytes); backward also 6 g, 7 y. The output is dense, unless the spec says
how it is strided.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from hashlib import sha256

from schuss import dtypes
from schuss.compiler.cpu import attention_steps as steps
from schuss.compiler.cpu import math as vector_math
from schuss.compiler.cpu.attention_steps import WIDTH
from schuss.compiler.cpu.attention_text import Index, Machine, Matrix, Printer
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.matmul import Lowered, Stage

Strides = tuple[int, ...]

KEYS = 512  # keys in a block of the forward kernel: its scores stay in the second-level cache
NEAR = 2**18  # bytes: the pages that the first level of address translation holds
PARTS = 64  # so many shares of work are enough for any number of threads
SUMS = 16  # the same for the backward kernel, where each share has sums of its own,
WORKSPACE = 2**26  # which take no more bytes than this

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
        dq, dk, dv_: strides of the gradients.
        starts: where in the output, in elements, dq, dk and dv begin; None: behind each other.
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
    starts: tuple[int, int, int] | None = None

    @property
    def heads(self) -> int:
        return math.prod(self.batch)

    @property
    def blocks(self) -> int:
        """Blocks of queries."""
        return -(-self.tq // WIDTH)


def dense(shape: tuple[int, ...]) -> Strides:
    """The strides of a dense array in row-major order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _chunks(spec: Attention, most: int) -> int:
    """How many parts, at most `most`, share the blocks of a place of the batch evenly."""
    most = max(1, min(spec.blocks, most))
    return -(-spec.blocks // -(-spec.blocks // most)) if spec.blocks else 1


class _Kernel:
    """What the kernels share: operands of a part, its query blocks, scratch, running maxima."""

    def __init__(self, spec: Attention, name: str, chunks: int) -> None:
        self.spec, self.chunks, self.bytes = spec, chunks, 0
        self.m = m = _machine(spec.dtype)
        self.kind = _KINDS[spec.dtype]
        self.name = f"{name}_{sha256(f'{spec}{m}'.encode()).hexdigest()[:16]}"
        signature = f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        self.f = Printer(signature, m)
        self.top, self.some, self.total, self.dots = (steps.block(self.f) for _ in range(4))
        self.head, self.chunk = self.f.divide("%part", chunks)

    def take(self, count: int) -> str:
        """Scratch for `count` elements, aligned to 64 bytes."""
        start = self.bytes
        self.bytes += -(-count * self.m.size // 64) * 64
        return self.f.at("i8", "%scratch", start)

    def matrix(self, pointer: str, width: int) -> Matrix:
        """Rows of `width` elements, one behind the other in scratch or in the workspace."""
        return Matrix(pointer, width, 1, self.m.element)

    def operand(
        self, word: int, rows: int, columns: int, strides: Strides | None, offset: int = 0
    ) -> Matrix:
        """The matrix of this part's place in the batch."""
        f = self.f
        *outer, row, column = strides or dense((*self.spec.batch, rows, columns))
        place: Index = offset
        rest: Index = self.head
        for size, stride in zip(reversed(self.spec.batch), reversed(outer), strict=True):
            rest, index = f.divide(rest, size)
            place = f.add(place, f.mul(index, stride))
        return Matrix(f.at(self.kind, f.word(word), place), row, column, self.kind)

    def gradient(self, which: int) -> Matrix:
        """dq (0), dk (1) or dv (2) in the output."""
        spec = self.spec
        rows, columns = (spec.tq, spec.tk, spec.tk)[which], (spec.d, spec.d, spec.dv)[which]
        sizes = spec.heads * spec.tq * spec.d, spec.heads * spec.tk * spec.d
        starts = spec.starts or (0, sizes[0], sum(sizes))
        strides = (spec.dq, spec.dk, spec.dv_)[which]
        return self.operand(4, rows, columns, strides, starts[which])

    def rows(self, x: Matrix, count: Index, room: int, columns: int) -> Matrix:
        """x as rows of whole vectors: itself where it is that, else a copy in scratch.

        Rows that lie far apart are copied too, as they are read again for every block of queries.
        """
        whole = x.kind == self.m.element and x.column == 1 and columns % self.m.lanes == 0
        near = x.row <= 2 * columns or room * x.row * self.m.size <= NEAR
        if whole and near:
            return x
        return steps.copy_rows(self.f, x, self.take(room * self.m.padded(columns)), count, columns)

    def keys_and_values(self) -> tuple[Matrix, Matrix]:
        """k and v as rows of whole vectors."""
        spec, tk = self.spec, self.spec.tk
        k, v = self.operand(1, tk, spec.d, spec.k), self.operand(2, tk, spec.dv, spec.v)
        return self.rows(k, tk, tk, spec.d), self.rows(v, tk, tk, spec.dv)

    def blocks(self) -> tuple[Index, Index]:
        """The first block of queries of this part, and the one behind its last."""
        size = -(-self.spec.blocks // self.chunks)
        first = self.f.mul(self.chunk, size)
        return first, self.f.smaller(self.f.add(first, size), self.spec.blocks)

    # --- the softmax ---

    def start(self) -> None:
        """No key met yet: the maximum is the least finite number, so that -inf - top is -inf."""
        double = self.m.element == "double"
        lowest = -sys.float_info.max if double else -(2.0 - 2.0**-23) * 2.0**127
        self.top.set(self.f, [self.f.constant(lowest)] * len(self.top.slots))
        self.total.set(self.f, ["zeroinitializer"] * len(self.total.slots))

    def bias(self, room: str, query: Index, count: Index, key: Index, keys: int) -> Matrix | None:
        """The mask for a block of queries and `keys` keys, turned over like the scores."""
        spec, f = self.spec, self.f
        if spec.mask is None:
            return None
        mask = f.from_row(self.operand(3, spec.tq, spec.tk, spec.mask), query)
        over = f.from_row(mask.turned, key)  # (keys, queries)
        return over if mask.row == 0 else steps.turn(f, over.turned, room, count, keys)

    def find_largest(
        self, scores: str, keys: Index, query: Index, key: Index, bias: Matrix | None
    ) -> None:
        """The maximum over the rows 0 to `keys` of scores, the first of which is key `key`."""
        f, seen = self.f, keys
        if self.spec.causal:  # keys up to the first query count for the whole block
            seen = f.smaller(f.positive(f.sub(f.add(query, 1), key)), keys)
        steps.largest(f, scores, (0, seen), self.top, query=None, bias=bias)
        if self.spec.causal:
            steps.largest(f, scores, (seen, keys), self.top, query=query, bias=bias, first_key=key)

    def correct(self, before: list[str], factors: str) -> None:
        """Bring sums to the new maximum: the factors are stored for the rows of the output."""
        f, corrected = self.f, []
        for v, total in enumerate(self.total.get(f)):
            factor = f.exp(f.op("fsub", before[v], self.top.get(f)[v]))
            f.store(factor, factors, v * self.m.lanes)
            corrected.append(f.op("fmul", total, factor))
        self.total.set(f, corrected)

    # --- what of a sum over keys or queries is not 0 ---

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
            return self.f.positive(self.f.sub(row, query)) if self.spec.causal else 0, count

        return span

    def stage(self) -> Stage:
        """The kernel, with the exponential and all else that it calls."""
        self.f.line("ret void")
        computed = "float64" if self.m.element == "double" else "float32"
        exp, declared = vector_math.definition("exp", computed, self.m.lanes)
        lines = sorted({*declared, *self.f.declarations(self.kind)})
        text = "\n".join([*lines, exp, *self.f.helpers.values(), str(self.f)]) + "\n"
        return Stage(text, self.name, self.spec.heads * self.chunks, self.bytes)


def _machine(dtype: str) -> Machine:
    """How the host computes attention of a dtype."""
    computed = dtypes.accumulator(dtypes.as_dtype(dtype))
    # Of 16 or 32 registers: heights that divide a block waste nothing at the causal edge.
    rows = 4 if host().vector_bits == 256 else 8
    lanes = host().lanes(computed)
    exp = vector_math.symbol("exp", str(computed), lanes)
    return Machine(_KINDS[str(computed)], lanes, rows, exp)


# --- forward ---


def lower_forward(spec: Attention) -> Lowered:
    """The kernel of y = softmax(scale q k^T + mask) v."""
    if spec.heads * spec.tq * spec.dv == 0:
        return Lowered((), (), 0)
    forward = _Forward(spec)
    with forward.f.loop(*forward.blocks()) as block:
        forward.block(block)
    return Lowered((), (forward.stage(),), 0)


class _Forward(_Kernel):
    """The forward kernel: operands, scratch, and the steps for one block of queries."""

    def __init__(self, spec: Attention) -> None:
        super().__init__(spec, "attention", _chunks(spec, -(-PARTS // spec.heads)))
        self.width = self.m.padded(spec.dv)
        self.q = self.operand(0, spec.tq, spec.d, spec.q)
        self.y = self.operand(4, spec.tq, spec.dv, spec.y)
        self.size = min(KEYS, spec.tk)
        self.single = 0 < spec.tk == self.size
        self.turned, self.factors = self.take(spec.d * WIDTH), self.take(WIDTH)
        self.scores = self.matrix(self.take(self.size * WIDTH), WIDTH)
        self.room = self.take(self.size * WIDTH if spec.mask else 0)
        self.out = self.matrix(self.take(WIDTH * self.width), self.width)
        self.k, self.v = self.keys_and_values()

    def block(self, block: Index) -> None:
        """The results of a block of queries."""
        f, spec = self.f, self.spec
        query = f.mul(block, WIDTH)
        count = f.smaller(WIDTH, f.sub(spec.tq, query))
        limit = f.smaller(f.add(query, count), spec.tk) if spec.causal else spec.tk
        q = f.from_row(self.q, query)
        queries = steps.turn(f, q, self.turned, count, spec.d, spec.scale)
        self.start()
        if not self.single:
            steps.clear(f, self.out.pointer, WIDTH * self.width)
        if self.size:
            whole = spec.tk - spec.tk % self.size
            with f.loop(0, f.smaller(whole, limit), self.size) as key:
                self.meet(queries, query, count, key, self.size, f.sub(limit, key))
            if whole < spec.tk:
                with f.when(f.let(f"icmp slt i64 {whole}, {limit}")):
                    rest = spec.tk - whole
                    self.meet(queries, query, count, whole, rest, f.sub(limit, whole))
        for v, inverse in enumerate(steps.inverses(f, self.total)):
            f.store(inverse, self.factors, v * self.m.lanes)
        target = f.from_row(self.y, query)
        steps.write_rows(f, self.out, target, count, spec.dv, self.factors)

    def meet(
        self, queries: Matrix, query: Index, count: Index, key: Index, size: int, left: Index
    ) -> None:
        """Take into account the block of `size` keys from `key` on, of which `left` count."""
        f, scores, width = self.f, self.scores, self.width
        present = f.smaller(size, left)
        steps.product(f, f.from_row(self.k, key), queries, scores, rows=size, below=present,
                      columns=WIDTH, span=lambda row, height: (0, self.spec.d))  # fmt: skip
        bias = self.bias(self.room, query, count, key, size)
        before = self.top.get(f)
        self.find_largest(scores.pointer, present, query, key, bias)
        if not self.single:
            self.correct(before, self.factors)
            steps.rescale(f, self.out, self.factors, width)
        steps.powers(f, scores.pointer, present, self.top, self.some, self.total)
        values, span = f.from_row(self.v, key), self.keys_seen(f.sub(query, key), present)
        steps.product(f, scores.turned, values, self.out, rows=WIDTH, below=WIDTH, columns=width,
                      span=span, add=not self.single)  # fmt: skip


# --- backward ---


def lower_backward(spec: Attention) -> Lowered:
    """The kernels of dq, dk and dv, from g (the gradient of y), q, k, v and y."""
    sizes = (spec.tq * spec.d, spec.tk * spec.d, spec.tk * spec.dv)
    if spec.heads * sum(sizes) == 0:
        return Lowered((), (), 0)
    backward = _Backward(spec)
    with backward.f.loop(*backward.blocks()) as block:
        backward.block(block)
    if backward.chunks == 1:
        backward.write()
        return Lowered((), (backward.stage(),), 0)
    stages = (backward.stage(), _sum_of_chunks(spec, backward.chunks))
    return Lowered((), stages, spec.heads * backward.chunks * backward.share * backward.m.size)


class _Backward(_Kernel):
    """The backward kernel: operands, scratch, and the steps for one block of queries."""

    def __init__(self, spec: Attention) -> None:
        m = _machine(spec.dtype)
        self.widths = m.padded(spec.d), m.padded(spec.dv)
        self.share = spec.tk * sum(self.widths)  # elements of dk and dv
        room = WORKSPACE // max(1, spec.heads * self.share * m.size)
        most = min(-(-SUMS // spec.heads), spec.blocks // 4, room)
        super().__init__(spec, "attention_gradient", _chunks(spec, most))
        take = self.take
        self.q = self.operand(0, spec.tq, spec.d, spec.q)
        self.g = self.operand(6, spec.tq, spec.dv, spec.g)
        self.y = self.operand(7, spec.tq, spec.dv, spec.y)
        self.turned = [take(n * WIDTH) for n in (spec.d, spec.dv, spec.dv)]
        self.weights, self.towards = (self.matrix(take(spec.tk * WIDTH), WIDTH) for _ in range(2))
        self.room = take(spec.tk * WIDTH if spec.mask else 0)
        self.dq = self.matrix(take(WIDTH * self.widths[0]), self.widths[0])
        self.k, self.v = self.keys_and_values()
        if self.chunks == 1:
            sums = take(self.share)
        else:  # this part's share of the workspace
            sums = self.f.at(m.element, self.f.word(5), self.f.mul("%part", self.share))
        self.dk = self.matrix(sums, self.widths[0])
        second = self.f.at(m.element, sums, spec.tk * self.widths[0])
        self.dv = self.matrix(second, self.widths[1])
        steps.clear(self.f, sums, self.share)

    def block(self, block: Index) -> None:
        """All that a block of queries gives: its dq, and its share of dk and dv."""
        f, spec = self.f, self.spec
        query = f.mul(block, WIDTH)
        count = f.smaller(WIDTH, f.sub(spec.tq, query))
        keys: Index = spec.tk
        if spec.causal:  # whole tiles, as what follows adds up whole tiles
            keys = steps.tile_end(f, spec.tk, f.smaller(f.add(query, count), spec.tk))
        q, g, y = (f.from_row(x, query) for x in (self.q, self.g, self.y))
        self.find_weights(q, query, count, keys)
        self.find_slopes(g, y, count, keys)
        steps.product(f, self.towards.turned, self.k, self.dq, rows=WIDTH, below=WIDTH,
                      columns=self.widths[0], span=self.keys_seen(query, keys))  # fmt: skip
        steps.write_rows(f, self.dq, f.from_row(self.gradient(0), query), count, spec.d)
        seeing = self.queries_seeing(query, count)
        for left, right, total, columns in (
            (self.weights, g, self.dv, spec.dv),
            (self.towards, q, self.dk, spec.d),
        ):
            rows = self.rows(right, count, WIDTH, columns)
            steps.product(f, left, rows, total, rows=spec.tk, below=keys, columns=total.row,
                          span=seeing, add=True)  # fmt: skip

    def find_weights(self, q: Matrix, query: Index, count: Index, keys: Index) -> None:
        """The powers of the softmax in `weights`, not yet divided by their sum."""
        f, spec = self.f, self.spec
        queries = steps.turn(f, q, self.turned[0], count, spec.d, spec.scale)
        steps.product(f, self.k, queries, self.weights, rows=spec.tk, below=keys, columns=WIDTH,
                      span=lambda row, height: (0, spec.d))  # fmt: skip
        self.start()
        bias = self.bias(self.room, query, count, 0, spec.tk)
        self.find_largest(self.weights.pointer, keys, query, 0, bias)
        steps.powers(f, self.weights.pointer, keys, self.top, self.some, self.total)

    def find_slopes(self, g: Matrix, y: Matrix, count: Index, keys: Index) -> None:
        """P in `weights` and scale dS in `towards`: the factor comes in with g."""
        f, spec = self.f, self.spec
        turned = steps.turn(f, g, self.turned[1], count, spec.dv, spec.scale)
        steps.turn(f, y, self.turned[2], count, spec.dv)
        steps.dot_columns(f, self.turned[1], self.turned[2], spec.dv, self.dots)
        steps.product(f, self.v, turned, self.towards, rows=spec.tk, below=keys, columns=WIDTH,
                      span=lambda row, height: (0, spec.dv))  # fmt: skip
        inverse = steps.inverses(f, self.total)
        steps.slopes(f, self.weights.pointer, self.towards.pointer, keys, inverse, self.dots)

    def write(self) -> None:
        """dk and dv to the output."""
        spec = self.spec
        steps.write_rows(self.f, self.dk, self.gradient(1), spec.tk, spec.d)
        steps.write_rows(self.f, self.dv, self.gradient(2), spec.tk, spec.dv)


def _sum_of_chunks(spec: Attention, chunks: int) -> Stage:
    """The second stage: dk and dv of a place of the batch, added up over its chunks."""
    kernel = _Kernel(spec, "attention_sum", chunks=-(-spec.tk // WIDTH))
    f, m = kernel.f, kernel.m
    widths = m.padded(spec.d), m.padded(spec.dv)
    share = spec.tk * sum(widths)
    row = f.mul(kernel.chunk, WIDTH)
    count = f.smaller(WIDTH, f.sub(spec.tk, row))
    for which, columns in enumerate((spec.d, spec.dv)):
        width = widths[which]
        place = f.add(f.mul(kernel.head, chunks * share), which * spec.tk * widths[0])
        parts = f.at(m.element, f.word(5), f.add(place, f.mul(row, width)))
        rows = kernel.matrix(kernel.take(WIDTH * width), width)
        steps.add_up(f, parts, rows.pointer, f.mul(count, width), chunks, share)
        steps.write_rows(f, rows, f.from_row(kernel.gradient(which + 1), row), count, columns)
    return kernel.stage()
