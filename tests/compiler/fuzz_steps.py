"""The lines that random programs are made of: each step proposes one, or None."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

UNARY = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
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
    "relu",
    "abs",
    "sign",
    "floor",
    "ceil",
    "trunc",
    "round",
    "negative",
    "square",
    "rsqrt",
    "reciprocal",
    "isnan",
    "isinf",
    "isfinite",
    "log2",
    "log10",
    "signbit",
    "exp",
    "tanh",
    "sqrt",
    "sigmoid",
    "relu",
    "log",
]
LAYERS = [
    "gelu",
    "silu",
    "elu",
    "selu",
    "softplus",
    "leaky_relu",
    "hardtanh",
    "softsign",
    "logsigmoid",
    "relu6",
]
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "maximum",
    "minimum",
    "add",
    "subtract",
    "multiply",
    "divide",
    "pow",
    "atan2",
    "remainder",
    "floor_divide",
    "copysign",
    "nextafter",
    "hypot",
    "logaddexp",
    "less",
    "less_equal",
    "greater",
    "equal",
    "not_equal",
]
OF_INTEGERS = [
    "add",
    "subtract",
    "multiply",
    "remainder",
    "floor_divide",
    "maximum",
    "minimum",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_left_shift",
    "bitwise_right_shift",
    "less",
    "equal",
    "not_equal",
    "greater_equal",
    "divide",
    "pow",
]
OF_TRUTH = ["logical_and", "logical_or", "logical_xor", "equal", "not_equal", "add", "multiply"]
DTYPES = [
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float32",
    "float32",
    "complex64",
]

Step = Callable[[Any], "str | None"]
STEPS: list[tuple[Step, float]] = []


def step(weight: float) -> Callable[[Step], Step]:
    def enter(function: Step) -> Step:
        STEPS.append((function, weight))
        return function

    return enter


# --- elementwise ---


@step(8)
def unary(m: Any) -> str:
    function = m.random.choice(UNARY)
    if m.wild and function == "signbit":  # NaN has no sign to speak of
        function = "isnan"
    return f"{m.fresh()} = schuss.{function}({m.pick('f')})"


@step(2)
def layer(m: Any) -> str:
    return f"{m.fresh()} = nn.functional.{m.random.choice(LAYERS)}({m.pick('f')})"


@step(12)
def binary(m: Any) -> str:
    a = m.pick("f")
    b = m.partner(a)
    if m.chance(0.3):
        a, b = b, a
    function = m.random.choice(BINARY)
    if m.wild and function == "copysign":
        function = "maximum"
    return f"{m.fresh()} = schuss.{function}({a}, {b})"


@step(3)
def of_integers(m: Any) -> str:
    a = m.pick("i", "u")
    return f"{m.fresh()} = schuss.{m.random.choice(OF_INTEGERS)}({a}, {m.partner(a)})"


@step(1.5)
def of_truth(m: Any) -> str:
    a = m.pick("b")
    if m.chance(0.2):
        return f"{m.fresh()} = schuss.{m.random.choice(['logical_not', 'bitwise_invert'])}({a})"
    return f"{m.fresh()} = schuss.{m.random.choice(OF_TRUTH)}({a}, {m.partner(a)})"


@step(1)
def of_one_integer(m: Any) -> str:
    function = m.random.choice(["bitwise_invert", "negative", "abs", "sign", "relu", "square"])
    return f"{m.fresh()} = schuss.{function}({m.pick('i', 'u')})"


@step(1)
def of_complex(m: Any) -> str:
    a = m.pick("c")
    function = m.random.choice(["real", "imag", "conj", "abs", "exp", "negative", "sqrt"])
    return f"{m.fresh()} = schuss.{function}({a})" if m.chance(0.5) else f"{m.fresh()} = {a} * {a}"


@step(4)
def where(m: Any) -> str:
    condition, a = m.pick("b"), m.pick("f")
    if m.chance(0.5):
        condition = f"{a} > {m.number(m.env[a].dtype)}"
    b = m.partner(a)
    a, b = (b, a) if m.chance(0.3) else (a, b)
    return f"{m.fresh()} = schuss.where({condition}, {a}, {b})"


@step(4)
def cast(m: Any) -> str | None:
    name, dtype = m.pick(), m.random.choice(DTYPES)
    if "int" in dtype and m.env[name].dtype.kind not in "biu":
        if m.wild or m.env[name].dtype.kind == "c":
            return None
        # What is outside of the integers' range is undefined, as in C.
        name = f"schuss.clip({name}, {0 if dtype[0] == 'u' else -100}, 100)"
    return f"{m.fresh()} = {name}.astype(schuss.{dtype})"


@step(1)
def clip(m: Any) -> str:
    return (
        f"{m.fresh()} = schuss.clip({m.pick('f', 'i')}, -1, {m.random.choice(['1', '2', 'None'])})"
    )


# --- movement ---


def split_size(m: Any, n: int) -> list[int]:
    """Numbers whose product is n."""
    made = []
    while n > 1:
        factors = [k for k in range(2, n + 1) if n % k == 0]
        k = m.random.choice(factors)
        made.append(k)
        n //= k
    return made


@step(4)
def reshape(m: Any) -> str | None:
    name = m.pick()
    shape = m.env[name].shape
    if 0 in shape:
        return f"{m.fresh()} = {name}.reshape({shape[::-1]})"
    sizes: list[int] = []
    if m.chance(0.6):  # split or join a few axes
        for n in shape:
            sizes += split_size(m, n) if m.chance(0.4) else [n]
        while len(sizes) > 1 and m.chance(0.5):
            at = m.random.randrange(len(sizes) - 1)
            sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
    else:
        sizes = split_size(m, math.prod(shape))
        m.random.shuffle(sizes)
    if m.chance(0.2):
        sizes.insert(m.random.randint(0, len(sizes)), 1)
    return f"{m.fresh()} = {name}.reshape({tuple(sizes)})" if len(sizes) < 6 else None


@step(4)
def permute(m: Any) -> str:
    name = m.pick(least=2)
    axes = list(range(m.env[name].ndim))
    m.random.shuffle(axes)
    return f"{m.fresh()} = schuss.permute_dims({name}, {tuple(axes)})"


def slice_text(m: Any, shape: tuple[int, ...]) -> str:
    parts = []
    for n in shape:
        kind = m.random.random()
        if kind < 0.4 or n == 0:
            parts.append(":")
        elif kind < 0.5:
            parts.append(str(m.random.randrange(-n, n)))
        elif kind < 0.7:
            low = m.random.randrange(n)
            parts.append(f"{low}:{m.random.randint(low + (not m.chance(0.05)), n)}")
        elif kind < 0.85:
            parts.append(f"{m.random.randrange(min(n, 3))}::{m.random.choice([1, 2, 3])}")
        else:
            parts.append(m.random.choice(["::-1", "::-2", f"{n - 1}:0:-1" if n > 1 else "::-1"]))
    if m.chance(0.15):
        parts.insert(m.random.randint(0, len(parts)), "None")
    if m.chance(0.2) and parts:
        parts = parts[: m.random.randint(1, len(parts))]
    return ", ".join(parts)


@step(5)
def cut(m: Any) -> str:
    name = m.pick(least=1)
    return f"{m.fresh()} = {name}[{slice_text(m, m.env[name].shape)}]"


@step(1.5)
def flip(m: Any) -> str:
    name = m.pick(least=1)
    return f"{m.fresh()} = schuss.flip({name}, axis={m.axes(name)})"


@step(2.5)
def broadcast(m: Any) -> str:
    name = m.pick()
    shape = [
        n if n != 1 or m.chance(0.3) else m.random.choice([1, 2, 5]) for n in m.env[name].shape
    ]
    if len(shape) < 4 and m.chance(0.6):
        shape = [m.random.choice([1, 2, 3, 8]), *shape]
    return f"{m.fresh()} = schuss.broadcast_to({name}, {tuple(shape)})"


@step(1.5)
def windows(m: Any) -> str:
    name = m.pick("f", "i", least=1)
    rank = m.random.randint(1, min(2, m.env[name].ndim))
    kernel = tuple(m.random.choice([1, 2, 3]) for _ in range(rank))
    stride = tuple(m.random.choice([1, 1, 2, 3]) for _ in range(rank))
    dilation = tuple(m.random.choice([1, 1, 2]) for _ in range(rank))
    made = f"{m.fresh()} = op('windows', {name}, kernel={kernel}, stride={stride}, "
    return made + f"dilation={dilation})"


@step(0.7)
def overlap(m: Any) -> str | None:
    name = m.pick("f", least=2)
    *_, count, kernel = m.env[name].shape
    stride, dilation = m.random.choice([1, 2, 3]), m.random.choice([1, 1, 2])
    size = (
        (count - 1) * stride + dilation * (kernel - 1) + 1 + m.random.choice([0, 0, 1, stride - 1])
    )
    if not count or not kernel or (size - dilation * (kernel - 1) - 1) // stride + 1 != count:
        return None
    return f"{m.fresh()} = op('overlap', {name}, sizes=({size},), stride=({stride},), dilation=({dilation},))"


@step(3)
def join(m: Any) -> str:
    name = m.pick(least=1)
    value = m.env[name]
    others = [n for n, v in m.env.items() if v.shape == value.shape and v.dtype == value.dtype]
    parts = [name, *m.random.choices(others, k=m.random.choice([0, 1, 1, 2, 4]))]
    axis = m.random.randrange(value.ndim)
    if m.chance(0.3):
        return f"{m.fresh()} = schuss.stack([{', '.join(parts)}], axis={axis})"
    if m.chance(0.3):
        parts.append(f"{name}[{', '.join([':'] * axis)}{', ' if axis else ''}1:]")
    return f"{m.fresh()} = schuss.concat([{', '.join(parts)}], axis={axis})"


@step(2)
def rearrange(m: Any) -> str:
    name = m.pick(least=1)
    rank = m.env[name].ndim
    axis = m.random.randrange(rank)
    text = m.random.choice([
        f"schuss.roll({name}, {m.random.randint(-3, 5)}, axis={axis})",
        f"schuss.repeat({name}, {m.random.choice([1, 2, 3])}, axis={axis})",
        f"schuss.tile({name}, {tuple(m.random.choice([1, 2]) for _ in range(rank))})",
        f"schuss.pad({name}, {[(m.random.choice([0, 1, 3]), m.random.choice([0, 2])) for _ in range(rank)]})",
        f"schuss.expand_dims({name}, axis={axis})",
        f"schuss.squeeze({name})",
        f"schuss.flatten({name})",
        f"schuss.tril({name})",
        f"schuss.triu({name}, k=1)",
        f"schuss.diff({name}, axis={axis})",
        f"schuss.moveaxis({name}, {axis}, {m.random.randrange(rank)})",
    ])  # fmt: skip
    return f"{m.fresh()} = {text}"


# --- in place ---


@step(4)
def assign(m: Any) -> str:
    name = m.random.choice([n for n in m.env if n[0] == "v"] or [m.pick(least=1)])
    value = m.env[name]
    if not value.ndim or m.chance(0.3):
        return f"{name} {m.random.choice(['+=', '-=', '*='])} {m.partner(name)}"
    key = slice_text(m, value.shape)
    if m.chance(0.4):
        return f"{name}[{key}] = {m.number(value.dtype)}"
    if m.chance(0.3):
        return f"{name}[{key}] *= {m.number(value.dtype)}"
    if m.chance(0.3):
        return f"{name}[{key}] = {name}[{key}] + 1"
    part = value[eval(f"np.s_[{key}]", {"np": __import__("numpy")})]
    other = m.input(m.like(part.shape)[-part.ndim :] if part.ndim else (), str(value.dtype))
    return f"{name}[{key}] = {other}"


@step(1)
def assign_where(m: Any) -> str:
    name = m.pick("f", least=1)
    return f"{name}[{name} > {m.number(m.env[name].dtype)}] = {m.number(m.env[name].dtype)}"


@step(1)
def copy(m: Any) -> str:
    name = m.pick()
    return f"{m.fresh()} = {m.random.choice([f'+{name}', f'{name}.detach()', f'{name}'])}"


# --- reductions ---


@step(7)
def reduce(m: Any) -> str:
    name = m.pick("f", "f", "i", "u")
    function = m.random.choice(
        ["sum", "sum", "sum", "mean", "max", "min", "max", "prod", "var", "std", "logsumexp"]
    )
    return f"{m.fresh()} = schuss.{function}({name}, axis={m.axes(name)}, keepdims={m.chance(0.5)})"


@step(1)
def reduce_truth(m: Any) -> str:
    name = m.pick("b", "b", "f", "i")
    function = m.random.choice(["any", "all", "count_nonzero"])
    return f"{m.fresh()} = schuss.{function}({name}, axis={m.axes(name)})"


@step(2.5)
def along(m: Any) -> str:
    name = m.pick("f", "f", "i", least=1)
    axis = m.random.randrange(m.env[name].ndim)
    function = m.random.choice(
        [
            "argmax",
            "argmin",
            "argsort",
            "sort",
            "cumulative_sum",
            "cumulative_prod",
            "cumulative_sum",
        ]
    )
    return f"{m.fresh()} = schuss.{function}({name}, axis={axis})"


# --- products ---


@step(5)
def matmul(m: Any) -> str:
    a = m.pick("f", "f", "f", "i", least=1)
    shape = m.env[a].shape
    if m.chance(0.3) and len(shape) > 1:
        return f"{m.fresh()} = " + m.random.choice([f"{a} @ {a}.mT", f"{a}.mT @ {a}"])
    columns = m.random.choice([*m.sizes, 1, 3])
    batch = m.like(shape[:-2]) if m.chance(0.3) else ()
    if m.chance(0.4):
        b = f"{m.input((*batch, columns, shape[-1]), str(m.env[a].dtype))}.mT"
    else:
        b = m.input((*batch, shape[-1], columns), str(m.env[a].dtype))
    if m.chance(0.15) and len(shape) > 1:
        c = m.input((*batch, shape[-2], columns), str(m.env[a].dtype))
        return f"{m.fresh()} = {a}.mT @ {c}"
    return f"{m.fresh()} = {a} @ {b}"


@step(1)
def einsum(m: Any) -> str:
    a = m.pick("f", least=2)
    n = m.env[a].shape[-1]
    b = m.input((n, m.random.choice(m.sizes)), str(m.env[a].dtype))
    text = m.random.choice([
        f"schuss.einsum('...i,ij->...j', {a}, {b})" if False else f"schuss.tensordot({a}, {b}, 1)",
        f"schuss.einsum('ij,jk->ki', {a}, {b})",
        f"schuss.einsum('bij,jk->bk', {a}, {b})",
        f"schuss.einsum('ij,ij->j', {a}, {a})",
        f"schuss.vecdot({a}, {a})",
        f"schuss.norm({a})",
    ])  # fmt: skip
    return f"{m.fresh()} = {text}"


@step(1)
def convolve(m: Any) -> str:
    n, c, o = m.random.choice([1, 2]), m.random.choice([1, 2, 4]), m.random.choice([1, 2, 6])
    rank = m.random.choice([1, 2])
    groups = 2 if c % 2 == 0 and o % 2 == 0 and m.chance(0.4) else 1
    sizes = tuple(m.random.choice([5, 7, 8]) for _ in range(rank))
    kernel = tuple(m.random.choice([1, 2, 3]) for _ in range(rank))
    x = m.input((n, c, *sizes), m.main)
    w = m.input((o, c // groups, *kernel), m.main)
    more = f"stride={m.random.choice([1, 2])}, padding={m.random.choice([0, 1])}, groups={groups}"
    return f"{m.fresh()} = nn.functional.conv{rank}d({x}, {w}, {more})"


@step(0.7)
def pool(m: Any) -> str:
    x = m.pick("f", least=3)
    rank = 2 if m.env[x].ndim == 4 else 1
    kind = m.random.choice(["max", "avg"])
    return f"{m.fresh()} = nn.functional.{kind}_pool{rank}d({x}, {m.random.choice([1, 2, 3])})"


# --- positions that are data ---


def indices(m: Any, n: int, shape: tuple[int, ...] | None = None) -> str:
    shape = m.random.choice([(), (3,), (5,), (2, 4), (17,)]) if shape is None else shape
    name = m.input(shape, "int64")
    m.inputs[name] = f"rng({name[1:]}).integers({-n if m.chance(0.5) else 0}, {n}, {shape})"
    m.env[name] = m.env[name] % n
    return name


@step(3)
def gather(m: Any) -> str | None:
    name = m.pick(least=1)
    shape = m.env[name].shape
    axis = m.random.randrange(len(shape))
    n = shape[axis]
    if not n:
        return None
    index = indices(m, n)
    if m.chance(0.3):
        return f"{m.fresh()} = schuss.take({name}, {index}, axis={axis})"
    key = ", ".join([*([":"] * axis), index])
    if m.chance(0.3) and axis + 1 < len(shape) and shape[axis + 1]:
        key += f", {indices(m, shape[axis + 1], ())}"
    return f"{m.fresh()} = {name}[{key}]"


@step(2)
def scatter(m: Any) -> str | None:
    name = m.pick("f", "f", "i", least=1)
    value = m.env[name]
    n = value.shape[0]
    if not n:
        return None
    index = indices(m, n)
    part = m.input((*m.env[index].shape, *value.shape[1:]), str(value.dtype))
    if m.chance(0.25):
        return f"{name}[{index}] = {part}"
    if m.chance(0.2):
        return f"{name}[{index}] += {part}"
    kind = m.random.choice(["scatter", "scatter_add", "scatter_add"])
    return f"{m.fresh()} = op({kind!r}, {name}, {part}, {index}, axes=(0,), wrap=True)"


@step(1)
def along_axis(m: Any) -> str | None:
    name = m.pick("f", least=1)
    shape = m.env[name].shape
    if not shape[-1]:
        return None
    index = indices(m, shape[-1], (*shape[:-1], m.random.choice([1, 3])))
    return f"{m.fresh()} = schuss.take_along_axis({name}, {index}, axis=-1)"


@step(0.7)
def one_hot(m: Any) -> str:
    index = indices(m, 5)
    m.inputs[index] = m.inputs[index].replace("integers(-5,", "integers(0,")
    return f"{m.fresh()} = schuss.one_hot({index}, 5)"


# --- compositions ---


@step(3)
def softmax(m: Any) -> str:
    name = m.pick("f", least=1)
    axis = m.random.randrange(m.env[name].ndim)
    return (
        f"{m.fresh()} = schuss.{m.random.choice(['softmax', 'log_softmax'])}({name}, axis={axis})"
    )


@step(2)
def layer_norm(m: Any) -> str:
    name = m.pick("f", least=1)
    shape = m.env[name].shape[m.random.randrange(m.env[name].ndim) :]
    more = ""
    if m.chance(0.5):
        dtype = str(m.env[name].dtype)
        more = f", {m.input(shape, dtype)}, {m.input(shape, dtype)}"
    return f"{m.fresh()} = nn.functional.layer_norm({name}, {shape}{more})"


@step(1.5)
def cross_entropy(m: Any) -> str | None:
    name = m.pick("f", least=2)
    shape = m.env[name].shape
    if len(shape) != 2 or not shape[1]:
        return None
    index = indices(m, shape[1], shape[:1])
    m.inputs[index] = f"rng({index[1:]}).integers(0, {shape[1]}, {shape[:1]})"
    reduction = m.random.choice(["mean", "sum", "none"])
    smooth = m.random.choice([0.0, 0.0, 0.1])
    return (
        f"{m.fresh()} = nn.functional.cross_entropy({name}, {index}, reduction={reduction!r}, "
        f"label_smoothing={smooth})"
    )


@step(1.5)
def loss(m: Any) -> str:
    a = m.pick("f")
    b = m.input(m.env[a].shape, str(m.env[a].dtype))
    name = m.random.choice(
        ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"]
    )
    return f"{m.fresh()} = nn.functional.{name}({a}, {b})"


@step(1.5)
def attention(m: Any) -> str:
    q = m.pick("f", least=2)
    value = m.env[q]
    tk = m.random.choice(m.sizes + [2])
    k = m.input((*value.shape[:-2], tk, value.shape[-1]), str(value.dtype))
    v = m.input((*value.shape[:-2], tk, m.random.choice([1, 4, 9])), str(value.dtype))
    more = m.random.choice(["", ", is_causal=True", ", scale=0.7"])
    if m.chance(0.3):
        more += f", attn_mask={m.input((value.shape[-2], tk), m.random.choice(['bool', str(value.dtype)]))}"
    return f"{m.fresh()} = nn.functional.scaled_dot_product_attention({q}, {k}, {v}{more})"


@step(1.5)
def chance(m: Any) -> str:
    if m.chance(0.5):
        return f"{m.fresh()} = nn.functional.dropout({m.pick('f')}, {m.random.choice([0.1, 0.5])})"
    shape = m.shape()
    text = m.random.choice([
        f"uniform({shape}, dtype=schuss.{m.main})", f"normal({shape})", f"randint(-3, 9, {shape})",
        f"bernoulli(0.3, {shape})", f"bits({shape})", f"uniform({shape}, low=-1, high=3)",
    ])  # fmt: skip
    return f"{m.fresh()} = schuss.random.{text}"


@step(0.5)
def solve(m: Any) -> str | None:
    n = m.random.choice([1, 3, 5])
    dtype = m.main if m.main in ("float32", "float64") else "float32"
    a, b = m.input((n, n), dtype), m.input((n, 2), dtype)
    return f"{m.fresh()} = schuss.solve({a} * 0.1 + 4 * schuss.eye({n}, dtype={a}.dtype), {b})"


@step(0.7)
def made(m: Any) -> str:
    text = m.random.choice([
        f"schuss.arange({m.random.choice([1, 5, 16])})",
        f"schuss.full({m.shape()}, 1.5, dtype=schuss.{m.main})",
        f"schuss.zeros({m.shape()})",
        f"schuss.linspace(-1, 1, {m.random.choice([1, 2, 9])})",
        f"schuss.eye({m.random.choice([1, 3, 8])})",
    ])  # fmt: skip
    return f"{m.fresh()} = {text}"


# --- loops ---


@step(0.25)
def chain(m: Any) -> str:
    """A value that goes through many lines: up to some thousand ops."""
    name = m.pick("f")
    count = m.random.choice([10, 40, 150, 150, 600])
    other = m.partner(name)
    form = m.random.choice([
        "schuss.sin({v}) + 0.1", "{v} * 0.9 + {o}", "schuss.tanh({v} * {o})", "({v} + {o}) / 2",
        "schuss.where({v} > 0, {v} * 0.5, {v} + 1)", "schuss.softmax({v}, axis=-1) + {o}",
        "{v} - {v}.mean()", "{v} / (1 + ({v} * {v}).sum())", "schuss.flip({v}) * 0.9 + {o}",
        "{v}.mT.mT + 1", "schuss.roll({v}, 1, axis=0) - {v} * 0.5", "abs({v} - {o}).astype({v}.dtype)",
        "{v}.reshape(-1).reshape({v}.shape) + {o}", "schuss.sqrt({v} * {v} + 1)",
    ])  # fmt: skip
    return f"for i in range({count}): {name} = {form.format(v=name, o=other)}"


@step(0.25)
def recurrence(m: Any) -> str:
    """A recurrent layer over a sequence, or a value built up slice by slice."""
    x = m.pick("f", least=2)
    value = m.env[x]
    h = m.input(value.shape[1:], str(value.dtype))
    w = m.input((value.shape[-1],) * 2, str(value.dtype))
    form = m.random.choice([
        "{h} = schuss.tanh({x}[i] + {h} * {w}[0])", "{h} = {h} * 0.5 + {x}[i]",
        "{h} = schuss.maximum({h}, {x}[-1 - i])", "{h} = schuss.tanh({x}[i] @ {w} + {h})",
        "{x}[i] = {h} * i", "{x}[i] += {h}", "{h} = {h} + {x}[i:].sum(axis=0)",
        "{h} = schuss.stack([{h}, {x}[i]]).mean(axis=0)",
    ])  # fmt: skip
    if x[0] == "x" and "{x}[i] " in form:
        form = "{h} = {h} * 0.5 + {x}[i]"
    return f"for i in range({min(value.shape[0], 40)}): {form.format(h=h, x=x, w=w)}"


# --- derivatives, looks ---


@step(3)
def differentiate(m: Any) -> str | None:
    found = [name for name, value in m.env.items() if value.requires_grad and name[0] == "v"]
    if not found or not m.leaves:
        return None
    xs = m.random.sample(m.leaves, min(len(m.leaves), m.random.choice([1, 1, 2])))
    first = int(m.fresh()[1:])
    names = ", ".join(f"v{first + i}" for i in range(len(xs)))
    y = m.random.choice(found[-3:])
    if len(xs) == 1:
        return f"{names} = gradient({y}, {xs[0]}, again={m.chance(0.5)})[0]"
    return f"{names} = gradient({y}, {', '.join(xs)}, again={m.chance(0.5)})"


@step(1)
def grad(m: Any) -> str:
    a = m.pick("f")
    f = m.random.choice(["sin", "tanh", "exp", "sigmoid", "square", "softplus"])
    g = m.random.choice(["sum", "mean", "logsumexp", "max"])
    b = m.partner(a)
    function = "nn.functional.softplus" if f == "softplus" else f"schuss.{f}"
    inner = f"lambda t: schuss.{g}({function}(t * {b}))"
    if m.chance(0.3):
        inner = f"lambda t: (schuss.grad({inner})(t) ** 2).sum()"
    return f"{m.fresh()} = schuss.grad({inner})({a})"


@step(0.7)
def look(m: Any) -> str:
    name = m.pick()
    return m.random.choice([f"{name}.numpy()", f"repr({name})", f"schuss.evaluate({name})"])
