"""Products of vectors, matrices and tensors against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, NumericsError, ShapeError

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3,)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((2, 1, 2, 3), (5, 3, 4)),
        ((0, 3), (3, 4)),
        ((2, 0), (0, 4)),
        ((0, 2, 3), (3, 4)),
        ((1,), (1,)),
    ],
)
def test_matmul(a, b) -> None:
    x, y = normal(*a), normal(*b)
    found = schuss.tensor(x) @ schuss.tensor(y)
    assert found.shape == (x @ y).shape
    np.testing.assert_allclose(found.numpy(), x @ y, rtol=1e-12, atol=1e-14)
    schuss.check_gradients(schuss.matmul, [x, y], directions=1)


def test_matmul_with_numpy_arrays_on_either_side() -> None:
    x, y = normal(2, 3), normal(3, 2)
    np.testing.assert_allclose((x @ schuss.tensor(y)).numpy(), x @ y)
    np.testing.assert_allclose((schuss.tensor(x) @ y).numpy(), x @ y)


def test_matmul_of_integers_and_mixed_dtypes() -> None:
    a = schuss.tensor([[1, 2], [3, 4]])
    assert (a @ a).dtype == schuss.int64
    assert (a @ a).tolist() == [[7, 10], [15, 22]]
    assert (a @ schuss.ones((2, 1))).dtype == schuss.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_accumulate_in_float32(dtype: str) -> None:
    x = schuss.ones((1, 4096), dtype=dtype)
    assert (x @ x.mT).item() == 4096


def test_matmul_errors() -> None:
    with pytest.raises(
        ShapeError, match=r"the last axis of x \(3\) must be as long as the second-last of y \(2\)"
    ) as e:
        schuss.ones((2, 3)) @ schuss.ones((2, 3))
    assert "hint: y.mT swaps the last two axes of y" in str(e.value)
    with pytest.raises(ShapeError, match="scalars cannot be multiplied as matrices"):
        schuss.ones((2, 3)) @ schuss.tensor(1.0)
    with pytest.raises(ShapeError, match="matmul: the shapes do not broadcast"):
        schuss.ones((2, 1, 3)) @ schuss.ones((3, 3, 1))
    with pytest.raises(DTypeError, match="matmul: needs numeric input"):
        schuss.tensor([[True]]) @ schuss.tensor([[True]])


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("i,i->", [(3,), (3,)]),
        ("i,j->ji", [(3,), (4,)]),
        ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]),
        ("ij->", [(2, 3)]),
        ("ij->ji", [(2, 3)]),
        ("iij->j", [(3, 3, 2)]),
        ("ij,ij->ij", [(2, 3), (2, 3)]),
        ("ij,kj,lk->il", [(2, 3), (4, 3), (5, 4)]),
        ("ij,j", [(2, 3), (3,)]),
        ("i,ij,j->", [(2,), (2, 3), (3,)]),
        ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("ab,cd->abcd", [(1, 2), (3, 4)]),
        ("ij,k->k", [(2, 3), (4,)]),
        (" i j , j -> i ", [(2, 3), (3,)]),
        ("b a", [(2, 3)]),
        ("iii->i", [(2, 2, 2)]),
        ("ij,ji->", [(2, 3), (3, 2)]),
        (",i->i", [(), (3,)]),
        ("->", [()]),
        ("ij,jk,kl,lm", [(2, 3), (3, 2), (2, 4), (4, 2)]),
        ("...ij,...jk->...ik", [(5, 1, 2, 3), (4, 3, 2)]),
        ("...i,...i", [(4, 3), (3,)]),
        ("i...,i->...", [(3, 4, 2), (3,)]),
        ("...->...", [(2, 3)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("...,...", [(2, 1), (3,)]),
        ("ab,bc,cd,de,ea->", [(2, 3), (3, 4), (4, 2), (2, 5), (5, 2)]),
        (
            "a,ab,abc,bcd,cde,def,f,ef,d->",
            [(2,), (2, 3), (2, 3, 2), (3, 2, 4), (2, 4, 3), (4, 3, 2), (2,), (3, 2), (4,)],
        ),
        ("ij,jk->ik", [(2, 1), (3, 4)]),
    ],
)
def test_einsum(equation: str, shapes) -> None:
    arrays = [normal(*shape) for shape in shapes]
    expected = np.einsum(equation.replace(" ", ""), *arrays)
    found = schuss.einsum(equation, *arrays)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("equation", "shapes", "kind", "message"),
    [
        ("ij,jk->ik", [(2, 3)], ArgumentError, "cannot read 'ij,jk->ik' for 1 operands"),
        ("ij->k", [(2, 3)], ArgumentError, "cannot read"),
        ("i1->i", [(2, 3)], ArgumentError, "cannot read"),
        ("ij->i", [], ArgumentError, "cannot read 'ij->i' for 0 operands"),
        ("...i->i", [(2, 3)], ArgumentError, r"lacks the axes of '\.\.\.'"),
        ("...i...->...i", [(2, 3)], ArgumentError, "cannot read"),
        ("...ij->...", [(2,)], ShapeError, "'...ij' names 2 axes, there are 1"),
        ("ii->i", [(1, 3)], ShapeError, "axis 'i' of one operand has two sizes"),
        ("ij->ii", [(2, 3)], ArgumentError, "the result of 'ij->ii' names an axis twice"),
        ("ijk->i", [(2, 3)], ShapeError, "'ijk' names 3 axes"),
        ("ij,jk->ik", [(2, 3), (4, 5)], ShapeError, "axis 'j' is 3 and 4 long"),
    ],
)
def test_einsum_errors(equation, shapes, kind, message) -> None:
    with pytest.raises(kind, match=message):
        schuss.einsum(equation, *[normal(*shape) for shape in shapes])


@pytest.mark.parametrize("axes", [0, 1, 2, ([0], [1]), ([1, 0], [0, 1]), ([-1], [0])])
def test_tensordot(axes) -> None:
    x, y = normal(3, 3), normal(3, 3)
    np.testing.assert_allclose(schuss.tensordot(x, y, axes=axes).numpy(), np.tensordot(x, y, axes))
    with pytest.raises(ShapeError, match="the paired axes differ in size"):
        schuss.tensordot(normal(2, 3), normal(2, 3), axes=1)
    with pytest.raises(ArgumentError, match="tensordot: axes must lie between 0 and 2"):
        schuss.tensordot(x, y, axes=3)


def test_vecdot_outer() -> None:
    x, y = normal(2, 3), normal(2, 3)
    np.testing.assert_allclose(schuss.vecdot(x, y).numpy(), (x * y).sum(-1))
    np.testing.assert_allclose(schuss.vecdot(x, y, axis=0).numpy(), (x * y).sum(0))
    z = x + 1j * y
    np.testing.assert_allclose(schuss.vecdot(z, z).numpy(), (z.conj() * z).sum(-1))
    np.testing.assert_allclose(schuss.outer(x[0], y[0]).numpy(), np.outer(x[0], y[0]))
    with pytest.raises(ShapeError, match="the vectors differ in length"):
        schuss.vecdot(normal(2), normal(3))
    with pytest.raises(ShapeError, match="outer: needs two vectors"):
        schuss.outer(x, y)
    with pytest.raises(DTypeError, match="vecdot: is defined for numeric dtypes"):
        schuss.vecdot([True], [True])


def test_solve() -> None:
    a, b, v = normal(2, 3, 3) + 3 * np.eye(3), normal(2, 3, 4), normal(3)
    np.testing.assert_allclose(schuss.solve(a, b).numpy(), np.linalg.solve(a, b))
    np.testing.assert_allclose(schuss.solve(a[0], v).numpy(), np.linalg.solve(a[0], v))
    assert schuss.solve([[2]], [[1]]).item() == 0.5
    with pytest.raises(ShapeError, match="a must be square and b as high as a"):
        schuss.solve(normal(2, 3), normal(2, 1))
    singular = schuss.solve(np.ones((2, 2)), np.ones((2, 1)))
    with pytest.raises(NumericsError, match="solve: the matrix is singular") as caught:
        singular.numpy()
    assert "hint: add a small multiple of the identity" in str(caught.value)
    with pytest.raises(DTypeError, match="solve: needs float32, float64 or complex input"):
        schuss.solve(
            schuss.ones((1, 1), dtype=schuss.float16), schuss.ones((1, 1), dtype=schuss.float16)
        )


def test_norm() -> None:
    x = normal(2, 3, 4)
    for ord_ in (0, 0.5, 1, 2, 3, -1, -2, math.inf, -math.inf):
        flat = np.linalg.norm(x.ravel(), ord_)
        np.testing.assert_allclose(schuss.norm(x, ord=ord_).numpy(), flat)
        rows = np.linalg.norm(x, ord_, axis=1, keepdims=True)
        np.testing.assert_allclose(schuss.norm(x, axis=1, keepdims=True, ord=ord_).numpy(), rows)
    assert schuss.norm([3, 4]).item() == 5
    assert schuss.norm([3j, 4]).item() == 5
    assert np.isnan(schuss.norm([np.nan, 0.0]).item())
    with pytest.raises(ArgumentError, match="norm: ord must be a number"):
        schuss.norm(x, ord="fro")
    with pytest.raises(ArgumentTypeError, match="'keepdim' is called 'keepdims' here"):
        schuss.norm(x, keepdim=True)


def test_einsum_multiplies_the_cheap_pairs_first() -> None:
    """A chain with a vector at its end costs two products with the vector."""
    from schuss.functions.einsum import _order

    sizes = dict.fromkeys("abc", 100)
    assert _order(["ab", "bc", "c"], "a", sizes)[0] == (1, 2)
    long = ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "i"]
    steps = _order(long, "a", dict.fromkeys("abcdefghi", 100))
    assert steps[0] == (7, 8), "greedy, for many operands"


def test_gradients_of_einsum() -> None:
    arrays = [normal(2, 3), normal(3, 4), normal(4)]
    schuss.check_gradients(lambda *x: schuss.einsum("ij,jk,k->i", *x), arrays)
    arrays = [normal(5, 2, 3) + 1j, normal(3, 2)]
    schuss.check_gradients(lambda *x: schuss.einsum("...ij,jk->...ki", *x), arrays)


def test_solve_broadcasts_one_right_side() -> None:
    a, v = normal(4, 3, 3) + 3 * np.eye(3), normal(3)
    found = schuss.solve(a, v)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found.numpy(), np.stack([np.linalg.solve(each, v) for each in a]))
