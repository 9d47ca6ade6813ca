"""The lines that random programs are made of: each step proposes one, or None.

Here are elementwise ops, reductions and products; `movement`, `images` and `compositions` have
more.
"""

from __future__ import annotations

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


@step(10)
def unary(m: Any) -> str:
    return f"{m.fresh()} = schuss.{m.random.choice(UNARY)}({m.pick('f')})"


@step(2)
def layer(m: Any) -> str:
    return f"{m.fresh()} = nn.functional.{m.random.choice(LAYERS)}({m.pick('f')})"


@step(12)
def binary(m: Any) -> str:
    a = m.pick("f")
    b = m.partner(a)
    if m.chance(0.3):
        a, b = b, a
    return f"{m.fresh()} = schuss.{m.random.choice(BINARY)}({a}, {b})"


@step(5)
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


@step(1.5)
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
        # What is outside of the integers' range is undefined, as in C, and so is NaN.
        number = f"schuss.where({name} == {name}, {name}, 0)"
        name = f"schuss.clip({number}, {0 if dtype[0] == 'u' else -100}, 100)"
    return f"{m.fresh()} = {name}.astype(schuss.{dtype})"


@step(1)
def clip(m: Any) -> str:
    return (
        f"{m.fresh()} = schuss.clip({m.pick('f', 'i')}, -1, {m.random.choice(['1', '2', 'None'])})"
    )


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


@step(2)
def convolve(m: Any) -> str | None:
    if m.wild:  # images.spans says why
        return None
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
