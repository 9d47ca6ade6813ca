"""Shapes and orders against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ArgumentTypeError, OutOfBoundsError, ShapeError

X = np.arange(24.0).reshape(2, 3, 4)
ONES = np.ones((1, 3, 1, 2))

CASES = {
    "reshape": (lambda s, x: s.reshape(x, (4, 6)), X),
    "reshape minus one": (lambda s, x: s.reshape(x, (3, -1)), X),
    "matrix_transpose": (lambda s, x: s.matrix_transpose(x), X),
    "moveaxis": (lambda s, x: s.moveaxis(x, 0, -1), X),
    "moveaxis two": (lambda s, x: s.moveaxis(x, (0, 2), (1, 0)), X),
    "expand_dims": (lambda s, x: s.expand_dims(x, axis=1), X),
    "expand_dims two": (lambda s, x: s.expand_dims(x, axis=(0, -1)), X),
    "squeeze": (lambda s, x: s.squeeze(x), ONES),
    "squeeze one": (lambda s, x: s.squeeze(x, axis=-2), ONES),
    "squeeze two": (lambda s, x: s.squeeze(x, axis=(0, 2)), ONES),
    "broadcast_to": (lambda s, x: s.broadcast_to(x, (5, 2, 3, 4)), X),
    "flip": (lambda s, x: s.flip(x), X),
    "flip one": (lambda s, x: s.flip(x, axis=-2), X),
    "flip two": (lambda s, x: s.flip(x, axis=(0, 2)), X),
    "roll": (lambda s, x: s.roll(x, 5), X),
    "roll axis": (lambda s, x: s.roll(x, -3, axis=1), X),
    "roll axes": (lambda s, x: s.roll(x, (1, -2), axis=(0, 2)), X),
    "roll one shift": (lambda s, x: s.roll(x, 1, axis=(0, 1)), X),
    "roll empty": (lambda s, x: s.roll(x[:0], 1), X),
    "concat": (lambda s, x: s.concat([x, x[:, :1]], axis=1), X),
    "concat flat": (lambda s, x: s.concat([x, x[0]], axis=None), X),
    "stack": (lambda s, x: s.stack([x, x], axis=1), X),
    "stack last": (lambda s, x: s.stack([x, x], axis=-1), X),
    "repeat": (lambda s, x: s.repeat(x, 2), X),
    "repeat axis": (lambda s, x: s.repeat(x, 3, axis=-1), X),
    "repeat none": (lambda s, x: s.repeat(x, 0, axis=1), X),
    "repeat each": (lambda s, x: s.repeat(x, np.array([1, 0, 2]), axis=1), X),
    "repeat each last": (lambda s, x: s.repeat(x, np.array([1, 0, 2, 1]), axis=-1), X),
    "tile": (lambda s, x: s.tile(x, (2, 1, 3)), X),
    "tile more": (lambda s, x: s.tile(x, (2, 1, 1, 2)), X),
    "tile fewer": (lambda s, x: s.tile(x, (2,)), X),
    "permute_dims": (lambda s, x: s.permute_dims(x, (2, 0, 1)), X),
    "unstack": (lambda s, x: s.stack(s.unstack(x, axis=1)), X),
}


@pytest.mark.parametrize("name", CASES)
def test_against_numpy(name: str) -> None:
    call, x = CASES[name]
    found, expected = call(schuss, schuss.tensor(x)), call(np, x)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.numpy(), expected)


def test_flatten() -> None:
    x = schuss.tensor(X)
    assert x.flatten().shape == (24,)
    assert x.flatten(1).shape == (2, 12)
    assert x.flatten(0, 1).shape == (6, 4)
    assert schuss.tensor(1).flatten().shape == (1,)
    with pytest.raises(ArgumentError, match="start_axis comes after end_axis"):
        x.flatten(2, 1)


def test_split() -> None:
    x = schuss.arange(7)
    assert [part.tolist() for part in schuss.split(x, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [part.tolist() for part in x.split([1, 0, 6])] == [[0], [], [1, 2, 3, 4, 5, 6]]
    assert schuss.split(schuss.tensor(X), 2, axis=-1)[1].shape == (2, 3, 2)
    with pytest.raises(ShapeError, match=r"sizes \[1, 2\] do not add up to 7"):
        schuss.split(x, [1, 2])
    with pytest.raises(ArgumentError, match="size must be positive"):
        schuss.split(x, 0)


def test_pad() -> None:
    x = schuss.tensor(X)
    widths = [(0, 0), (1, 2), (3, 0)]
    np.testing.assert_array_equal(schuss.pad(x, widths).numpy(), np.pad(X, widths))
    np.testing.assert_array_equal(
        schuss.pad(x, [(1, 1)], -1).numpy(), np.pad(X, [(0, 0), (0, 0), (1, 1)], constant_values=-1)
    )
    for widths in ([(1, -1)], [(0, 0)] * 4, [(1, 2, 3)]):
        with pytest.raises(ArgumentError, match="widths are pairs"):
            schuss.pad(x, widths)


def test_broadcast_arrays() -> None:
    a, b = schuss.broadcast_arrays(np.ones((3, 1)), np.ones(4))
    assert a.shape == b.shape == (3, 4)


def test_broadcast_shapes() -> None:
    assert schuss.broadcast_shapes((3, 1), [4], ()) == (3, 4)
    assert schuss.broadcast_shapes() == ()
    with pytest.raises(ShapeError, match="broadcast_shapes: the shapes do not broadcast"):
        schuss.broadcast_shapes((3,), (4,))


def test_astype() -> None:
    x = schuss.tensor([-1.7, 2.5])
    assert x.astype(schuss.int32).tolist() == [-1, 2]
    assert schuss.astype(x, "float64").dtype == schuss.float64
    assert x.astype(bool).tolist() == [True, True]


def test_shape_as_several_arguments() -> None:
    x = schuss.tensor(X)
    assert x.reshape(4, 6).shape == x.reshape((4, 6)).shape == x.reshape([4, -1]).shape == (4, 6)
    assert x.permute(2, 0, 1).shape == x.permute((2, 0, 1)).shape == (4, 2, 3)


RETURN_X_ITSELF = {
    "positive": lambda x: +x,
    "slice": lambda x: x[:],
    "ellipsis": lambda x: x[...],
    "reshape": lambda x: x.reshape(2),
    "flatten": lambda x: x.flatten(),
    "astype": lambda x: x.astype(x.dtype),
    "to": lambda x: x.to("cpu"),
    "to_device": lambda x: x.to_device("cpu"),
    "clip": lambda x: x.clip(),
    "real": schuss.real,
    "pad": lambda x: schuss.pad(x, [(0, 0)]),
    "roll": lambda x: schuss.roll(x, 2),
    "detach": lambda x: x.detach(),
    "floor of integers": lambda x: (
        x.floor() if not schuss.isdtype(x.dtype, "real floating") else x[:]
    ),
    "dropout": lambda x: schuss.functions.neural.dropout(x, training=False),
    "concat": lambda x: schuss.concat([x]),
    "einsum": lambda x: schuss.einsum("i->i", x),
    "sum of no axes": lambda x: x.sum(axis=()),
    "broadcast": lambda x: x.broadcast_to((2,)),
}


@pytest.mark.parametrize("name", RETURN_X_ITSELF)
def test_changing_a_result_in_place_leaves_the_argument_alone(name: str) -> None:
    """Also where there is nothing to do: else `x.reshape(2)` would be x for some shapes and not for
    others.
    """
    for make in (lambda: schuss.tensor([1, 2]), lambda: schuss.tensor([1.0, 2.0])):
        x = make()
        y = RETURN_X_ITSELF[name](x)
        assert y is not x
        y += 1
        assert x.tolist() == [1, 2]
        assert y.tolist() == [2, 3]
    leaf = schuss.tensor([1.0, 2.0], requires_grad=True)
    y = RETURN_X_ITSELF[name](leaf)
    if name != "detach":
        y.sum().backward()
        assert leaf.grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: x.reshape(5), ShapeError, r"24 elements do not fill the shape \(5,\)"),
        (lambda x: x.reshape(5, -1), ShapeError, r"24 elements do not fill the shape \(5, -1\)"),
        (lambda x: x.reshape(-1, -1), ArgumentError, "sizes are not negative, but for one -1"),
        (lambda x: x.reshape(-2, 12), ArgumentError, "sizes are not negative, but for one -1"),
        (lambda x: x.reshape(2.0, 12), ArgumentError, "reshape: takes integers"),
        (lambda x: x.permute(0, 1), ArgumentError, "axes must name each axis of x once"),
        (lambda x: x.permute(0, 0, 1), ArgumentError, "axes must name each axis of x once"),
        (lambda x: x.permute(0, 1, 3), OutOfBoundsError, "axis 3 does not exist"),
        (lambda x: x.T, ShapeError, "T: transposes matrices"),
        (lambda x: x[0, 0].mT, ShapeError, "matrix_transpose: needs at least 2 axes"),
        (lambda x: schuss.moveaxis(x, (0, 1), 0), ArgumentError, "as many destinations as sources"),
        (lambda x: x.squeeze(axis=0), ShapeError, "only axes of size 1 can be removed"),
        (lambda x: x.broadcast_to((3, 4, 4)), ShapeError, r"cannot be broadcast to \(3, 4, 4\)"),
        (lambda x: x.broadcast_to((4,)), ShapeError, r"cannot be broadcast to \(4,\)"),
        (lambda x: x[:1].broadcast_to((-1, 3, 4)), ArgumentError, "integers that are not negative"),
        (lambda x: schuss.tile(x, 2.5), ArgumentError, "tile: takes integers"),
        (lambda x: schuss.concat([]), ArgumentError, "concat: needs at least one tensor"),
        (lambda x: schuss.concat([x, x[0]]), ShapeError, "shapes may differ on axis 0 only"),
        (lambda x: schuss.concat([x, x[:, :2]]), ShapeError, "shapes may differ on axis 0 only"),
        (lambda x: schuss.concat([1, 2]), ShapeError, "scalars have no axis to join along"),
        (lambda x: schuss.stack([]), ArgumentError, "stack: needs at least one tensor"),
        (lambda x: schuss.stack([x, x[0]]), ShapeError, "all tensors must have one shape"),
        (lambda x: schuss.roll(x, (1, 2)), ArgumentError, "as many shifts as axes are needed"),
        (lambda x: schuss.repeat(x, -1), ArgumentError, "repeats must not be negative"),
        (
            lambda x: schuss.repeat(x, [1, 2], axis=1),
            ArgumentError,
            "one count, not negative, for each",
        ),
        (lambda x: schuss.tile(x, (-1,)), ArgumentError, "repetitions are not negative"),
        (lambda x: x.flip(axis=3), OutOfBoundsError, "axis 3 does not exist: there are 3 axes"),
        (lambda x: schuss.stack([x], dim=0), ArgumentTypeError, "'dim' is called 'axis' here"),
        (lambda x: schuss.concat([x], dim=0), ArgumentTypeError, "'dim' is called 'axis' here"),
        (lambda x: x.squeeze(dim=0), ArgumentTypeError, "'dim' is called 'axis' here"),
        (lambda x: x.flip(dims=0), ArgumentTypeError, "'dims' is called 'axis' here"),
    ],
)
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(schuss.tensor(X))
    assert __file__ in str(caught.value)
