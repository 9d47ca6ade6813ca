"""Fourier transforms against NumPy, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import fft
from schuss.errors import ArgumentError, DTypeError, ShapeError

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


NORMS = ["backward", "ortho", "forward"]
ONE_AXIS = ["fft", "ifft", "rfft", "irfft", "hfft", "ihfft"]
MANY_AXES = ["fftn", "ifftn", "rfftn", "irfftn"]
REAL = {"rfft", "rfftn", "ihfft"}


def numbers(name: str, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x if name in REAL else x + 1j * rng.standard_normal(shape)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [None, 1, 3, 4, 7, 8])
@pytest.mark.parametrize("name", ONE_AXIS)
def test_along_one_axis(name, n, norm) -> None:
    x = numbers(name, 3, 5)
    for axis in (0, -1):
        expected = getattr(np.fft, name)(x, n, axis, norm)
        found = getattr(fft, name)(x, n=n, axis=axis, norm=norm)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("s", "axes"), [(None, None), (None, (0, 2)), ((4, 6), (2, 1)), ((3,), (-1,))]
)
@pytest.mark.parametrize("name", MANY_AXES)
def test_along_several_axes(name, s, axes, norm) -> None:
    x = numbers(name, 3, 4, 5)
    expected = getattr(np.fft, name)(x, s, axes, norm)
    found = getattr(fft, name)(x, s=s, axes=axes, norm=norm)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", ONE_AXIS)
def test_gradients_along_one_axis(name) -> None:
    for n in (None, 3, 6):
        schuss.check_gradients(lambda x, n=n: getattr(fft, name)(x, n=n), [numbers(name, 2, 5)])


@pytest.mark.parametrize("name", MANY_AXES)
def test_gradients_along_several_axes(name) -> None:
    f = getattr(fft, name)
    schuss.check_gradients(lambda x: f(x, axes=(0, 1), norm="ortho"), [numbers(name, 3, 4)])


def test_dtypes() -> None:
    assert fft.fft(schuss.ones(4)).dtype == schuss.complex64
    assert fft.fft([1, 2]).dtype == schuss.complex64
    assert fft.irfft(schuss.ones(4)).dtype == schuss.float32
    assert fft.rfft(schuss.ones(4, dtype=schuss.float64)).dtype == schuss.complex128


@pytest.mark.parametrize("n", [1, 4, 5])
def test_frequencies(n) -> None:
    for name in ("fftfreq", "rfftfreq"):
        found = getattr(fft, name)(n, d=0.5)
        assert found.dtype == schuss.float32
        np.testing.assert_allclose(found.numpy(), getattr(np.fft, name)(n, 0.5), rtol=1e-6)
        assert getattr(fft, name)(n, dtype=schuss.float64).dtype == schuss.float64


@pytest.mark.parametrize("axes", [None, 0, (1,), (0, 1)])
def test_shifts(axes) -> None:
    x = rng.standard_normal((4, 5))
    for name in ("fftshift", "ifftshift"):
        found = getattr(fft, name)(x, axes=axes)
        np.testing.assert_array_equal(found.numpy(), getattr(np.fft, name)(x, axes))
    np.testing.assert_array_equal(fft.ifftshift(fft.fftshift(x, axes=axes), axes=axes).numpy(), x)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: fft.fft(1.0), ShapeError, "fft: a scalar has no axis to transform"),
        (lambda: fft.fft(schuss.zeros((2, 0))), ArgumentError, "a length must be a positive"),
        (lambda: fft.fft([1.0], n=0), ArgumentError, "fft: a length must be a positive integer"),
        (lambda: fft.irfft([1.0]), ArgumentError, "irfft: a length must be a positive integer"),
        (lambda: fft.rfft([1j]), DTypeError, "rfft: needs real numbers"),
        (lambda: fft.fft(schuss.ones(2, dtype=schuss.float16)), DTypeError, "half precisions"),
        (lambda: fft.fft([1.0], norm="none"), ArgumentError, "norm is one of backward, ortho"),
        (lambda: fft.fftn(schuss.ones((2, 2)), s=(2, 2)), ArgumentError, "s needs axes"),
        (
            lambda: fft.fftn(schuss.ones((2, 2)), s=(2,), axes=(0, 1)),
            ArgumentError,
            "s needs a len",
        ),
        (lambda: fft.fftn(schuss.ones((2, 2)), axes=(0, -2)), ArgumentError, "names an axis twice"),
        (lambda: fft.fftfreq(0), ArgumentError, "n must be a positive integer"),
        (lambda: fft.fftfreq(3, dtype=schuss.int32), DTypeError, "needs a floating dtype"),
    ],
)
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
