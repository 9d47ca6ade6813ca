"""Elementwise functions: dtypes, values against NumPy, promotion, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError
from schuss.execution.tiers import using
from schuss.functions import elementwise

POSITIVE = np.array([0.1, 0.5, 1.0, 2.5])
ANY = np.array([-2.5, -0.5, 0.0, 0.3, 2.0])

UNARY = {
    "exp": (np.exp, ANY),
    "expm1": (np.expm1, ANY),
    "log": (np.log, POSITIVE),
    "log1p": (np.log1p, POSITIVE),
    "log2": (np.log2, POSITIVE),
    "log10": (np.log10, POSITIVE),
    "sqrt": (np.sqrt, POSITIVE),
    "rsqrt": (lambda x: x**-0.5, POSITIVE),
    "square": (np.square, ANY),
    "reciprocal": (np.reciprocal, POSITIVE),
    "sin": (np.sin, ANY),
    "cos": (np.cos, ANY),
    "tan": (np.tan, ANY),
    "asin": (np.arcsin, ANY / 3),
    "acos": (np.arccos, ANY / 3),
    "atan": (np.arctan, ANY),
    "sinh": (np.sinh, ANY),
    "cosh": (np.cosh, ANY),
    "tanh": (np.tanh, ANY),
    "asinh": (np.arcsinh, ANY),
    "acosh": (np.arccosh, POSITIVE + 1),
    "atanh": (np.arctanh, ANY / 3),
    "abs": (np.abs, ANY),
    "sign": (np.sign, ANY),
    "floor": (np.floor, ANY),
    "ceil": (np.ceil, ANY),
    "trunc": (np.trunc, ANY),
    "round": (np.round, ANY),
    "negative": (np.negative, ANY),
    "positive": (np.positive, ANY),
    "signbit": (np.signbit, np.array([-1.0, -0.0, 0.0, 1.0])),
    "isnan": (np.isnan, np.array([np.nan, np.inf, 0])),
    "isinf": (np.isinf, np.array([np.nan, -np.inf, 0])),
    "isfinite": (np.isfinite, np.array([np.nan, np.inf, 0])),
    "relu": (lambda x: np.maximum(x, 0), ANY),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), ANY),
}

BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "atan2": np.arctan2,
    "hypot": np.hypot,
    "logaddexp": np.logaddexp,
    "copysign": np.copysign,
    "remainder": np.remainder,
    "floor_divide": lambda a, b: np.where(np.isinf(a + b), a / b, np.floor_divide(a, b)),
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "nextafter": np.nextafter,
}


@pytest.mark.usefixtures("reference_tier")
@pytest.mark.parametrize("name", UNARY)
def test_unary_values(name: str) -> None:
    expected, x = UNARY[name]
    found = getattr(schuss, name)(schuss.tensor(x))
    np.testing.assert_allclose(found.numpy(), expected(x), rtol=1e-13)
    if hasattr(schuss.Tensor, name):
        np.testing.assert_array_equal(getattr(schuss.tensor(x), name)().numpy(), found.numpy())


@pytest.mark.parametrize("name", BINARY)
def test_binary_values(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 1)), rng.standard_normal((1, 4))
    found = getattr(schuss, name)(schuss.tensor(a), schuss.tensor(b))
    np.testing.assert_allclose(found.numpy(), BINARY[name](a, b), rtol=1e-13)


SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e308, 5e-324]


@pytest.mark.parametrize("name", sorted(set(BINARY) - {"logaddexp"}))
def test_binary_special_values(name: str) -> None:
    a, b = np.array(SPECIAL)[:, None], np.array(SPECIAL)
    with np.errstate(all="ignore"):
        expected = BINARY[name](a, b)
    found = getattr(schuss, name)(schuss.tensor(a), schuss.tensor(b)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_floor_divide_of_infinities() -> None:
    a, b = (
        [math.inf, -math.inf, math.inf, 1.0, -1.0, math.inf],
        [2.0, 2.0, -2.0, -math.inf, 5.0, math.inf],
    )
    found = schuss.floor_divide(schuss.tensor(a), schuss.tensor(b)).numpy()
    np.testing.assert_array_equal(found, [math.inf, -math.inf, -math.inf, -0.0, -1.0, math.nan])
    assert np.signbit(found[3])


def test_complex_special_values() -> None:
    found = schuss.expm1([complex(math.inf, 0), complex(-math.inf, math.inf)]).numpy()
    np.testing.assert_array_equal(found, np.array([complex(math.inf, 0), -1], np.complex64))
    for imaginary in (2.0, -2.0, 3.5):
        found = schuss.tanh(complex(math.inf, imaginary)).item()
        assert (found.real, math.copysign(1, found.imag)) == (1, math.copysign(1, imaginary))


def test_sign_and_angle_of_complex_numbers() -> None:
    z = np.array([3 + 4j, -2.0, 0.0, -1j])
    np.testing.assert_allclose(schuss.sign(z).numpy(), [0.6 + 0.8j, -1, 0, -1j])
    np.testing.assert_allclose(schuss.angle(z).numpy(), np.angle(z))
    np.testing.assert_allclose(schuss.angle([-1.0, 2.0]).numpy(), [math.pi, 0], rtol=1e-6)
    schuss.check_gradients(schuss.angle, [z[:2] + 0.1j])
    schuss.check_gradients(schuss.sign, [z[:2]])


def test_logaddexp_of_infinities() -> None:
    a = schuss.tensor([-np.inf, -np.inf, np.inf, 1000.0])
    b = schuss.tensor([-np.inf, 0.0, 0.0, 1000.0])
    np.testing.assert_allclose(
        schuss.logaddexp(a, b).numpy(), [-np.inf, 0, np.inf, 1000 + math.log(2)], rtol=1e-6
    )


def test_hypot_does_not_overflow() -> None:
    assert schuss.hypot(3e30, 4e30).item() == pytest.approx(5e30)
    assert schuss.hypot(3e-30, 4e-30).item() == pytest.approx(5e-30)


def test_integers_become_float32() -> None:
    for name in ("exp", "sqrt", "sigmoid", "erf", "sin", "log2"):
        assert getattr(schuss, name)(schuss.tensor([1, 2])).dtype == schuss.float32
    assert schuss.divide(schuss.tensor([1]), schuss.tensor([2])).dtype == schuss.float32
    assert (schuss.tensor([7]) / 2).tolist() == [3.5]


def test_integers_stay_integers() -> None:
    x = schuss.tensor([-7, 7], dtype=schuss.int32)
    for name in (
        "abs",
        "sign",
        "floor",
        "ceil",
        "trunc",
        "round",
        "negative",
        "relu",
        "square",
        "positive",
    ):
        assert getattr(schuss, name)(x).dtype == schuss.int32, name
    assert (x // 2).tolist() == [-4, 3]
    assert (x % 3).tolist() == [2, 1]
    assert (x % -3).tolist() == [-1, -2]
    assert (x**2).tolist() == [49, 49]
    assert (2 ** schuss.tensor([3])).tolist() == [8]
    assert (x // 0).tolist() == [0, 0], "as NumPy has it"


def test_unsigned_arithmetic_wraps() -> None:
    x = schuss.tensor([250], dtype=schuss.uint8)
    assert (x + 10).tolist() == [4]
    assert (-x).tolist() == [6]
    assert schuss.abs(x).tolist() == [250]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_powers_of_a_half_are_powers(dtype: str) -> None:
    """IEEE 754: unlike the root, they know no negative zero, and no NaN of infinities."""
    x = schuss.tensor([-math.inf, -0.0, 0.0, math.inf, 4.0], dtype=dtype)
    for exponent in (0.5, schuss.full((5,), 0.5, dtype=dtype)):
        found = schuss.pow(x, exponent).astype("float64").numpy()
        np.testing.assert_array_equal(found, [math.inf, 0.0, 0.0, math.inf, 2.0])
        assert not np.signbit(found).any()
        assert math.isnan(schuss.pow(schuss.tensor(-4.0), 0.5).item())


def test_integer_to_a_negative_power() -> None:
    with pytest.raises(DTypeError, match="an integer to a negative power is not an integer"):
        schuss.tensor([2]) ** -1
    assert (schuss.tensor([2]) ** -1.0).tolist() == [0.5]
    powers = schuss.tensor([2]) ** schuss.tensor([-1])
    with pytest.raises(ArgumentError, match="power: an integer to a negative power") as caught:
        powers.numpy()
    assert __file__ in str(caught.value)


def test_bits() -> None:
    a, b = schuss.tensor([0b1100]), schuss.tensor([0b1010])
    assert [(a & b).item(), (a | b).item(), (a ^ b).item(), (~a).item()] == [8, 14, 6, -13]
    assert [(a << 2).item(), (a >> 2).item()] == [48, 3]
    assert (schuss.tensor([True]) & schuss.tensor([False])).tolist() == [False]
    assert (~schuss.tensor([True])).tolist() == [False]
    assert (1 << schuss.tensor([3])).tolist() == [8]


def test_logic() -> None:
    a, b = schuss.tensor([True, True, False]), schuss.tensor([True, False, False])
    assert schuss.logical_and(a, b).tolist() == [True, False, False]
    assert schuss.logical_or(a, b).tolist() == [True, True, False]
    assert schuss.logical_xor(a, b).tolist() == [False, True, False]
    assert schuss.logical_not(a).tolist() == [False, False, True]


def test_booleans_add_and_multiply() -> None:
    a, b = schuss.tensor([True, False]), schuss.tensor([True, True])
    assert (a + b).dtype == schuss.bool
    assert (a + b).tolist() == [True, True]
    assert (a * b).tolist() == [True, False]
    assert (a + 1).tolist() == [2, 1]


def test_where() -> None:
    c = schuss.tensor([[True], [False]])
    assert schuss.where(c, 1, schuss.tensor([5, 6])).tolist() == [[1, 1], [5, 6]]
    assert schuss.where(c, 1.5, 2).dtype == schuss.float32
    assert schuss.where(True, 1, 2).item() == 1
    with pytest.raises(DTypeError, match="the condition must be bool"):
        schuss.where(schuss.tensor([1]), 1, 2)
    with pytest.raises(ShapeError, match="the shapes do not broadcast"):
        schuss.where(c, schuss.ones(3), schuss.ones(4))


def test_clip() -> None:
    x = np.array([-3.0, 0.0, np.nan, 3.0])
    np.testing.assert_array_equal(schuss.clip(x, -1, 1).numpy(), np.clip(x, -1, 1))
    np.testing.assert_array_equal(schuss.clip(x, min=0).numpy(), np.clip(x, 0, None))
    np.testing.assert_array_equal(schuss.clip(x, max=0).numpy(), np.clip(x, None, 0))
    np.testing.assert_array_equal(schuss.clip(x).numpy(), x)
    limits = np.array([[-2.0], [-1.0]])
    np.testing.assert_array_equal(schuss.clip(x, limits, 2).numpy(), np.clip(x, limits, 2))
    whole = schuss.clip(schuss.tensor([0, 5], dtype=schuss.int8), 1, 3)
    assert whole.dtype == schuss.int8
    assert whole.tolist() == [1, 3]
    with pytest.raises(DTypeError, match="integers need integer limits"):
        schuss.clip(schuss.tensor([0, 5]), 0.5)


def test_masked_product_forgets_poles_where_nothing_flows() -> None:
    from schuss.graph import apply

    g = schuss.tensor([0.0, 0.0, 0.0, 1.0, 2.0])
    d = schuss.tensor([np.inf, np.nan, 3.0, np.inf, 3.0])
    found = apply(elementwise.ops.masked_product, g, d)
    np.testing.assert_array_equal(found.numpy(), [0, 0, 0, np.inf, 6])


# --- complex numbers, forward ---


def test_complex_values() -> None:
    z = np.array([1 + 2j, -0.5 - 1j, 3j])
    w = np.array([2 - 1j, 1 + 1j, -1j])
    a, b = schuss.tensor(z), schuss.tensor(w)
    for name in (
        "exp",
        "log",
        "sqrt",
        "sin",
        "cos",
        "tanh",
        "abs",
        "negative",
        "square",
        "conj",
        "real",
        "imag",
    ):
        np_name = {"abs": "abs"}.get(name, name)
        found = getattr(schuss, name)(a).numpy()
        np.testing.assert_allclose(found, getattr(np, np_name)(z), rtol=1e-12)
    for name in ("add", "subtract", "multiply", "divide", "pow"):
        found = getattr(schuss, name)(a, b).numpy()
        np.testing.assert_allclose(
            found, getattr(np, {"pow": "power"}.get(name, name))(z, w), rtol=1e-12
        )
    assert (a == b).tolist() == [False] * 3
    assert schuss.abs(a).dtype == schuss.float64
    assert (schuss.ones(2) * 1j).dtype == schuss.complex64
    assert (schuss.ones(2, dtype=schuss.float64) * 1j).dtype == schuss.complex128
    np.testing.assert_allclose((a @ b).numpy(), z @ w)
    np.testing.assert_allclose(schuss.sum(a).numpy(), z.sum())


# --- what is refused ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: -schuss.tensor([True]), "negative: is defined for numeric dtypes"),
        (lambda: schuss.tensor([True]) - True, "subtract: is defined for numeric dtypes"),
        (lambda: schuss.tensor([1.0]) & 1, "bitwise_and: is defined for integer and bool dtypes"),
        (lambda: schuss.logical_not(schuss.tensor([1])), "logical_not: is defined for bool dtypes"),
        (lambda: schuss.tensor([1j]) < 1, "less: is defined for real dtypes"),
        (lambda: schuss.floor(schuss.tensor([1j])), "floor: is defined for real dtypes"),
        (lambda: schuss.relu(schuss.tensor([True])), "relu: is defined for real dtypes"),
        (lambda: schuss.imag(schuss.tensor([1.0])), "imag: is defined for complex dtypes"),
        (lambda: schuss.tensor([True]) ** True, "pow: is defined for numeric dtypes"),
        (lambda: schuss.tensor([1]) << 1.0, "bitwise_left_shift: is defined for integer dtypes"),
        (lambda: schuss.atan2(1, 2), "atan2: is defined for floating dtypes"),
    ],
)
def test_wrong_dtypes(call, message: str) -> None:
    with pytest.raises(DTypeError, match=message) as caught:
        call()
    assert __file__ in str(caught.value)


def test_shapes_that_do_not_broadcast() -> None:
    with pytest.raises(ShapeError, match="sizes must be equal or 1") as caught:
        schuss.ones((2, 3)) + schuss.ones((4,))
    assert "shapes: [(2, 3), (4,)]" in str(caught.value)


def test_every_dtype_adds_and_multiplies() -> None:
    for dtype in dtypes.ALL:
        x = schuss.ones(3, dtype=dtype)
        assert (x + x).dtype == dtype
        assert (x * x).dtype == dtype
        assert (x == x).tolist() == [True] * 3


@pytest.mark.parametrize("tier", ["reference", "compiled"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_sigmoid_of_all_sizes(tier: str, dtype: str) -> None:
    """Also where exp(-x) overflows and the result does not vanish: from -11.1 down in float16."""
    info = schuss.finfo(dtype)
    sizes = np.concatenate([np.linspace(0, 120, 997), [700, 740, np.inf]])
    x = schuss.tensor(np.concatenate([-sizes, sizes])).astype(dtype)
    wide = x.astype(schuss.float64).numpy().astype(np.longdouble)
    with np.errstate(over="ignore"):
        true = 1 / (1 + np.exp(-wide))
    with using(tier):
        found = schuss.sigmoid(schuss.tensor(x.numpy())).astype(schuss.float64).numpy()
    unit = np.maximum(true, info.smallest_normal) * info.eps
    assert (np.abs(found - true) / unit).max() < 2
