"""Ops that work on each element alone. A rule `rule(g, y, x)` is g times the derivative at x."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import ArgumentError, BadValueError
from schuss.graph import (
    OUTPUT,
    Handle,
    Node,
    Op,
    Sample,
    Shape,
    apply,
    define,
    record,
    shared_scalar,
    wrap,
)
from schuss.ops.erf import erf_reference
from schuss.ops.ieee import (
    astype_reference,
    expm1_reference,
    floor_divide_reference,
    tanh_reference,
)
from schuss.ops.infer import (
    SHAPES,
    Rng,
    binary_samples,
    boolean_samples,
    broadcast_shapes,
    elementwise,
    integer_samples,
    numbers,
    predicate,
    unary_samples,
)
from schuss.ops.structure import aligned, diagonal, leading, linear

if TYPE_CHECKING:
    from schuss.tensor import Tensor


# --- helpers of the rules ---


def select(condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """`where`, in which one side may be a Python number."""
    dtype = a.dtype if isinstance(a, Handle) else b.dtype  # type: ignore[union-attr]
    x, y = (
        each._node if isinstance(each, Handle) else shared_scalar(each, dtype) for each in (a, b)
    )
    return wrap(record(where, (condition._node, x, y), {}))


def guarded(g: Tensor, derivative: Tensor) -> Tensor:
    """`g * derivative`, but 0 where g is 0 and the derivative infinite or undefined.

    In `where(x > 0, sqrt(x), 0)` the gradient into sqrt at 0 is 0 and its derivative infinite; 0
    times infinity must not become NaN. Rules whose derivative has poles use this.
    """
    return apply(masked_product, g, derivative)


def _masked_product(g: np.ndarray, derivative: np.ndarray) -> np.ndarray:
    product = np.asarray(g * derivative)
    if np.isnan(product).any():
        unused = (g == 0) & ~np.isfinite(derivative)
        product = np.where(unused, np.zeros((), product.dtype), product)
    return product


def _finite_where_used(gg: Tensor, y: Tensor, g: Tensor, derivative: Tensor) -> Tensor:
    unused = apply(logical_and, g == 0, apply(logical_not, apply(isfinite, derivative)))
    return gg * select(unused, 0, derivative)


masked_product: Op = define(
    "masked_product",
    "g * d, but 0 where g is 0 and d is not finite.",
    infer=elementwise,
    reference=_masked_product,
    gradient=(_finite_where_used, lambda h, y, g, d: h * g),
    samples=binary_samples(),
    saves=(0, 1),
    broadcasts=True,
    tangent=diagonal,
    batch=aligned,
)

# --- one input ---


def unary(name: str, doc: str, reference, rule, saves=(), low=-2.0, high=2.0) -> Op:  # type: ignore[no-untyped-def]
    """An op of one floating input whose samples lie between `low` and `high`."""
    gradient = None if rule is None else (rule,)
    return define(
        name,
        doc,
        infer=elementwise,
        reference=reference,
        gradient=gradient,
        saves=saves,
        samples=unary_samples(low, high),
        tangent=diagonal,
        batch=leading,
    )


X, Y = (0,), (OUTPUT,)

negative: Op = unary("negative", "-x", np.negative, lambda g, y, x: -g)
exp: Op = unary("exp", "e raised to the power x", np.exp, lambda g, y, x: g * y, Y)
expm1: Op = unary(
    "expm1", "exp(x) - 1, exact near 0", expm1_reference, lambda g, y, x: g * (y + 1), Y
)
log: Op = unary("log", "natural logarithm", np.log, lambda g, y, x: guarded(g, 1 / x), X, low=0.1)
log1p: Op = unary(
    "log1p",
    "log(1 + x), exact near 0",
    np.log1p,
    lambda g, y, x: guarded(g, 1 / (1 + x)),
    X,
    low=-0.9,
)
sqrt: Op = unary("sqrt", "square root", np.sqrt, lambda g, y, x: guarded(g, 0.5 / y), Y, low=0.1)
sin: Op = unary("sin", "sine of an angle in radians", np.sin, lambda g, y, x: g * apply(cos, x), X)
cos: Op = unary(
    "cos", "cosine of an angle in radians", np.cos, lambda g, y, x: -g * apply(sin, x), X
)
tan: Op = unary(
    "tan",
    "tangent of an angle in radians",
    np.tan,
    lambda g, y, x: g * (1 + y * y),
    Y,
    low=-1.4,
    high=1.4,
)
asin: Op = unary(
    "asin",
    "inverse sine, in radians",
    np.arcsin,
    lambda g, y, x: guarded(g, 1 / apply(sqrt, 1 - x * x)),
    X,
    low=-0.9,
    high=0.9,
)
acos: Op = unary(
    "acos",
    "inverse cosine, in radians",
    np.arccos,
    lambda g, y, x: guarded(g, -1 / apply(sqrt, 1 - x * x)),
    X,
    low=-0.9,
    high=0.9,
)
atan: Op = unary(
    "atan", "inverse tangent, in radians", np.arctan, lambda g, y, x: g / (1 + x * x), X
)
sinh: Op = unary("sinh", "hyperbolic sine", np.sinh, lambda g, y, x: g * apply(cosh, x), X)
cosh: Op = unary("cosh", "hyperbolic cosine", np.cosh, lambda g, y, x: g * apply(sinh, x), X)
tanh: Op = unary("tanh", "hyperbolic tangent", tanh_reference, lambda g, y, x: g * (1 - y * y), Y)
asinh: Op = unary(
    "asinh", "inverse hyperbolic sine", np.arcsinh, lambda g, y, x: g / apply(sqrt, x * x + 1), X
)
acosh: Op = unary(
    "acosh",
    "inverse hyperbolic cosine",
    np.arccosh,
    lambda g, y, x: guarded(g, 1 / (apply(sqrt, x - 1) * apply(sqrt, x + 1))),
    X,
    low=1.2,
    high=4.0,
)
atanh: Op = unary("atanh", "inverse hyperbolic tangent", np.arctanh,
              lambda g, y, x: guarded(g, 1 / (1 - x * x)), X, low=-0.9, high=0.9)  # fmt: skip
erf: Op = unary("erf", "error function", erf_reference,
            lambda g, y, x: g * (apply(exp, -x * x) * (2 / math.sqrt(math.pi))), X)  # fmt: skip


def _sigmoid(x: np.ndarray) -> np.ndarray:
    one, falls = np.ones((), x.dtype), x.real < 0
    power = np.exp(np.where(falls, x, -x))  # which does not overflow
    return np.where(falls, power, one) / (one + power)


# Primitives although they could be composed: the composed gradients are inf * 0 far from 0
# (sigmoid) or need two more arrays (relu).
sigmoid: Op = unary("sigmoid", "1 / (1 + exp(-x))", _sigmoid, lambda g, y, x: g * (y * (1 - y)), Y)
relu: Op = unary(
    "relu",
    "max(x, 0), with the sub-gradient 0 at 0; NaN stays NaN",
    lambda x: np.maximum(x, np.zeros((), x.dtype)),
    lambda g, y, x: select(y > 0, g, 0),
    Y,
)
abs_: Op = define(
    "abs",
    "absolute value, with the sub-gradient 0 at 0",
    infer=lambda x: (x.shape, dtypes.real_of(x.dtype)),
    reference=np.abs,
    gradient=(lambda g, y, x: g * _slope_of_size(x),),
    saves=X,
    samples=unary_samples(),
    tangent=diagonal,
    batch=leading,
)


def _slope_of_size(x: Tensor) -> Tensor:
    return apply(conj, apply(phase, x)) if dtypes.is_complex(x.dtype) else apply(sign, x)


def _phase(x: np.ndarray) -> np.ndarray:
    return np.sign(x)  # of complex numbers x / |x|, since NumPy 2


def _phase_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Only what turns x matters: dy = (dx - y**2 conj(dx)) / 2|x|."""
    size = apply(abs_, x)
    nowhere = size == 0
    turned = (g - apply(conj, g * y * y)) / (2 * select(nowhere, 1, size))
    return select(nowhere, 0, turned)


# Derivative 0 wherever there is one (the sign of a complex number is its `phase`):
sign: Op = unary("sign", "-1, 0 or 1", np.sign, None)
floor: Op = unary("floor", "the largest integer that is not above x", np.floor, None)
ceil: Op = unary("ceil", "the smallest integer that is not below x", np.ceil, None)
trunc: Op = unary("trunc", "x without its fraction", np.trunc, None)
round_: Op = unary("round", "the nearest integer, halves to even", np.round, None)


def number_test(name: str, doc: str, reference) -> Op:  # type: ignore[no-untyped-def]
    return define(
        name,
        doc,
        infer=predicate,
        reference=reference,
        gradient=None,
        samples=_unusual_numbers,
        batch=leading,
    )


def _unusual_numbers(rng: Rng) -> list[Sample]:
    some = np.array([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf])
    return [Sample([some]), Sample([some.reshape(2, 3)[:, ::-1]]), Sample([np.zeros((0, 2))])]


isnan: Op = number_test("isnan", "whether x is not a number", np.isnan)
isinf: Op = number_test("isinf", "whether x is an infinity", np.isinf)
isfinite: Op = number_test("isfinite", "whether x is neither NaN nor an infinity", np.isfinite)

logical_not: Op = define(
    "logical_not",
    "not x",
    infer=predicate,
    reference=np.logical_not,
    gradient=None,
    samples=boolean_samples(1),
    batch=leading,
)
bitwise_invert: Op = define(
    "bitwise_invert",
    "every bit of x flipped",
    infer=elementwise,
    reference=np.invert,
    gradient=None,
    samples=integer_samples(1),
    batch=leading,
)


def complex_part(name: str, doc: str, reference, infer, rule, saves=()) -> Op:  # type: ignore[no-untyped-def]
    def samples(rng: Rng) -> list[Sample]:
        return [Sample([np.asarray(numbers(rng, s) + 1j * numbers(rng, s))]) for s in SHAPES]

    return define(
        name,
        doc,
        infer=infer,
        reference=reference,
        gradient=(rule,),
        saves=saves,
        samples=samples,
        batch=leading,
    )


def _part(x: Node) -> tuple[Shape, DType]:
    return x.shape, dtypes.real_of(x.dtype)


real: Op = complex_part(
    "real", "the real part", np.real, _part, lambda g, y, x: apply(astype, g, dtype=x.dtype)
)
imag: Op = complex_part("imag", "the imaginary part", np.imag, _part, lambda g, y, x: g * -1j)
conj: Op = complex_part(
    "conj", "the complex conjugate", np.conj, elementwise, lambda g, y, x: apply(conj, g)
)
phase: Op = complex_part(
    "phase", "x / |x| of complex numbers; 0 at 0", _phase, elementwise, _phase_rule, (0, OUTPUT)
)

# --- two inputs ---


def binary(name: str, doc: str, reference, for_a, for_b, saves=(), **ranges) -> Op:  # type: ignore[no-untyped-def]
    """An op of two inputs that broadcast, differentiable in both."""
    return define(
        name,
        doc,
        infer=elementwise,
        reference=reference,
        gradient=(for_a, for_b),
        saves=saves,
        samples=binary_samples(**ranges),
        broadcasts=True,
        tangent=diagonal,
        batch=aligned,
    )


def _max_rule(g: Tensor, y: Tensor, mine: Tensor, other: Tensor) -> Tensor:
    """To the one that was taken, half each where both are equal."""
    shared = select(mine == other, g * 0.5, g)
    return select(mine == y, shared, 0)


add: Op = binary("add", "a + b", np.add, lambda g, y, a, b: g, lambda g, y, a, b: g)
subtract: Op = binary("subtract", "a - b", np.subtract, lambda g, y, a, b: g, lambda g, y, a, b: -g)
multiply: Op = binary("multiply", "a * b", np.multiply,
                  lambda g, y, a, b: g * b, lambda g, y, a, b: g * a, (0, 1))  # fmt: skip
divide: Op = binary(
    "divide",
    "a / b",
    np.divide,
    lambda g, y, a, b: guarded(g, 1 / b),
    lambda g, y, a, b: guarded(g, -(a / b) / b),
    (0, 1),
    second=(0.5, 2.0),
)
maximum: Op = binary("maximum", "the larger of a and b; ties share the gradient", np.maximum,
                 lambda g, y, a, b: _max_rule(g, y, a, b), lambda g, y, a, b: _max_rule(g, y, b, a),
                 (0, 1, OUTPUT))  # fmt: skip
minimum: Op = binary("minimum", "the smaller of a and b; ties share the gradient", np.minimum,
                 lambda g, y, a, b: _max_rule(g, y, a, b), lambda g, y, a, b: _max_rule(g, y, b, a),
                 (0, 1, OUTPUT))  # fmt: skip
atan2: Op = binary("atan2", "the angle of the point (b, a), in radians", np.arctan2,
               lambda g, y, a, b: guarded(g, b / (a * a + b * b)),
               lambda g, y, a, b: guarded(g, -a / (a * a + b * b)), (0, 1))  # fmt: skip


def _power_of_base(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    slope = b * apply(power, a, b - 1)
    return guarded(g, select(b == 0, 0, slope))


def _power_of_exponent(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    size = apply(real, b) if dtypes.is_complex(b.dtype) else b
    flat = apply(logical_and, a == 0, size >= 0)  # 0**b stays 0 next to b
    return guarded(g, y * apply(log, select(flat, 1, a)))


def _power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    try:
        y = np.power(a, b)
    except ValueError:
        problem = "an integer to a negative power is not an integer"
        raise BadValueError(ArgumentError, problem, "cast the base to a float") from None
    # Where 0.5 stands for a whole row, NumPy takes roots, which differ from powers at -0 and -inf.
    if y.dtype.kind == "f" and np.any(roots := b == 0.5):
        y = np.where(roots & (a == 0), y.dtype.type(0), y)
        y = np.where(roots & np.isneginf(a), y.dtype.type(np.inf), y)
    return y


power: Op = binary(
    "power",
    "a raised to the power b",
    _power,
    _power_of_base,
    _power_of_exponent,
    (0, 1, OUTPUT),
    low=0.2,
    high=2.0,
    second=(-2.0, 2.0),
)

remainder: Op = binary("remainder", "a - floor(a / b) * b, with the sign of b", np.remainder,
                   lambda g, y, a, b: g, lambda g, y, a, b: -g * apply(floor, a / b), (0, 1),
                   second=(0.7, 0.9))  # fmt: skip


def stepwise(name: str, doc: str, reference, samples=None, infer=elementwise) -> Op:  # type: ignore[no-untyped-def]
    """An op of two inputs without a derivative."""
    return define(
        name,
        doc,
        infer=infer,
        reference=reference,
        gradient=None,
        samples=samples or binary_samples(),
        broadcasts=True,
        batch=aligned,
    )


floor_divide: Op = stepwise(
    "floor_divide", "floor(a / b)", floor_divide_reference, binary_samples(second=(0.5, 2.0))
)


def _copysign_rule(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return g * apply(sign, a) * apply(copysign, wrap(shared_scalar(1, b.dtype)), b)


copysign: Op = binary("copysign", "the size of a with the sign of b", np.copysign,
                  _copysign_rule, lambda g, y, a, b: g * 0, (0, 1))  # fmt: skip
nextafter: Op = binary("nextafter", "the number next to a in the direction of b", np.nextafter,
                   lambda g, y, a, b: g, lambda g, y, a, b: g * 0)  # fmt: skip

_comparable = integer_samples(2, 0, 3)
equal: Op = stepwise("equal", "whether a == b", np.equal, _comparable, predicate)
not_equal: Op = stepwise("not_equal", "whether a != b", np.not_equal, _comparable, predicate)
less: Op = stepwise("less", "whether a < b", np.less, _comparable, predicate)
less_equal: Op = stepwise("less_equal", "whether a <= b", np.less_equal, _comparable, predicate)
logical_and: Op = stepwise("logical_and", "a and b", np.logical_and, boolean_samples(2), predicate)
logical_or: Op = stepwise("logical_or", "a or b", np.logical_or, boolean_samples(2), predicate)
logical_xor: Op = stepwise(
    "logical_xor", "either a or b", np.logical_xor, boolean_samples(2), predicate
)
bitwise_and: Op = stepwise(
    "bitwise_and", "the bits in both a and b", np.bitwise_and, integer_samples(2)
)
bitwise_or: Op = stepwise("bitwise_or", "the bits in a or b", np.bitwise_or, integer_samples(2))
bitwise_xor: Op = stepwise(
    "bitwise_xor", "the bits in one of a and b", np.bitwise_xor, integer_samples(2)
)
bitwise_left_shift: Op = stepwise(
    "bitwise_left_shift", "the bits of a moved b places up", np.left_shift, integer_samples(2)
)
bitwise_right_shift: Op = stepwise(
    "bitwise_right_shift", "the bits of a moved b places down", np.right_shift, integer_samples(2)
)

# --- three inputs, casts ---


def _where_infer(condition: Node, a: Node, b: Node) -> tuple[Shape, DType]:
    return broadcast_shapes("where", condition.shape, a.shape, b.shape), a.dtype


def _where_samples(rng: Rng) -> list[Sample]:
    shapes = [(s, s, s) for s in SHAPES] + [((3, 1), (1, 5), ()), ((2, 3), (3,), (2, 1))]
    return [
        Sample([np.asarray(rng.random(c) < 0.5), numbers(rng, a), numbers(rng, b)])
        for c, a, b in shapes
    ]


where: Op = define(
    "where",
    "a where the condition holds, else b",
    infer=_where_infer,
    reference=np.where,
    gradient=(
        None,
        lambda g, y, condition, a, b: select(condition, g, 0),
        lambda g, y, condition, a, b: select(condition, 0, g),
    ),
    saves=(0,),
    samples=_where_samples,
    broadcasts=True,
    tangent=linear,
    batch=aligned,
)


def _astype(x: np.ndarray, dtype: DType) -> np.ndarray:
    if x.dtype.kind == "c" and not dtypes.is_complex(dtype):
        x = x.real
    return astype_reference(x, dtype)


astype: Op = define(
    "astype",
    "x with another dtype",
    infer=lambda x, dtype: (x.shape, dtype),
    reference=_astype,
    gradient=(lambda g, y, x, dtype: apply(astype, g, dtype=x.dtype),),
    samples=lambda rng: [
        Sample([numbers(rng, (3, 4))], {"dtype": dtypes.float64}),
        Sample([numbers(rng, (5,))], {"dtype": dtypes.int32}, differentiate=False),
        Sample([numbers(rng, (5,))], {"dtype": dtypes.bfloat16}, differentiate=False),
    ],
    tangent=linear,
    batch=leading,
)

detach: Op = define(
    "detach",
    "x itself, through which no gradient flows",
    infer=elementwise,
    reference=lambda x: x,
    gradient=None,
    samples=unary_samples(),
    view=True,
    batch=leading,
)
alias: Op = define(
    "alias",
    "x itself, as a node of its own",
    infer=elementwise,
    reference=lambda x: x,
    gradient=(lambda g, y, x: g,),
    samples=unary_samples(),
    view=True,
    tangent=linear,
    batch=leading,
)
