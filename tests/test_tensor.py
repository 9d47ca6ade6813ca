"""The user's array: looking, rebinding, operators, protocols."""

from __future__ import annotations

import copy
import pickle
import struct

import numpy as np
import pytest

import schuss
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    ShapeError,
)

# --- what it is ---


def test_attributes() -> None:
    x = schuss.ones((2, 3))
    assert (x.shape, x.ndim, x.size, x.nbytes, len(x)) == ((2, 3), 2, 6, 24, 2)
    assert x.dtype == schuss.float32
    assert str(x.device) == "cpu"
    assert not x.requires_grad
    assert x.is_leaf
    assert x.grad is None
    assert x._node.value is None, "nothing of this computes"


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (lambda: schuss.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (lambda: schuss.tensor([1, 2]), "tensor([1, 2])"),
        (lambda: schuss.tensor(2.5), "tensor(2.5)"),
        (lambda: schuss.tensor([True]), "tensor([ True])"),
        (lambda: schuss.tensor([1.0], dtype=schuss.float64), "tensor([1.], dtype=float64)"),
        (lambda: schuss.tensor([1.0], dtype=schuss.bfloat16), "tensor([1], dtype=bfloat16)"),
        (lambda: schuss.tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (lambda: schuss.zeros((0, 3)), "tensor([], shape=(0, 3))"),
        (lambda: schuss.tensor([[1, 2], [3, 4]]), "tensor([[1, 2],\n        [3, 4]])"),
        (lambda: schuss.tensor([1j]), "tensor([0.+1.j], dtype=complex64)"),
    ],
)
def test_repr(x, expected: str) -> None:
    assert repr(x()) == expected


def test_repr_of_many_elements_is_short_and_tells_the_shape() -> None:
    shown = repr(schuss.zeros((100, 100)))
    assert len(shown) < 1000
    assert shown.endswith("shape=(100, 100))")


def test_str_and_format() -> None:
    assert str(schuss.tensor(2.5)) == "2.5"
    assert str(schuss.tensor([2.5])) == "tensor([2.5])"
    assert f"{schuss.tensor(2.5):.3f} {schuss.tensor([7]):d}" == "2.500 7"
    assert f"{schuss.tensor([1, 2])}" == "tensor([1, 2])"


def test_not_made_directly() -> None:
    with pytest.raises(ArgumentTypeError, match="Tensor: is not made directly") as caught:
        schuss.Tensor([1, 2])
    assert "hint: use schuss.tensor(data)" in str(caught.value)


# --- looking ---


def test_numpy_is_read_only_and_shared() -> None:
    x = schuss.tensor([1.0, 2.0])
    values = x.numpy()
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 5
    assert np.shares_memory(values, x.numpy())
    copied = values.copy()
    copied[0] = 5
    assert x.tolist() == [1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: schuss.ones((3, 2)),
        lambda: schuss.tensor([[1.0, 2], [3, 4]]).mT,
        lambda: schuss.arange(5)[::-1],
        lambda: schuss.ones(3) + 1,
        lambda: schuss.tensor(1.0),
        lambda: schuss.random.uniform((2,)),
    ],
)
def test_numpy_of_anything_is_read_only(make) -> None:
    x = make()
    assert not x.numpy().flags.writeable
    assert not np.asarray(x).flags.writeable
    np.testing.assert_array_equal(x.numpy(), x.tolist())


def test_writing_to_arrays_afterwards_changes_nothing() -> None:
    source = np.zeros(3)
    x = schuss.tensor(source)
    y = x + source
    z = schuss.zeros(3)
    z[:] = source.astype(np.float32)
    index = np.array([0, 1])
    taken = schuss.arange(3)[index]
    source[:] = 7
    index[:] = 2
    assert x.tolist() == y.tolist() == z.tolist() == [0, 0, 0]
    assert taken.tolist() == [0, 1]


def test_item() -> None:
    assert schuss.tensor([[2.5]]).item() == 2.5
    assert type(schuss.tensor(2).item()) is int
    assert type(schuss.tensor(True).item()) is bool
    assert type(schuss.tensor(1.0, dtype=schuss.bfloat16).item()) is float
    with pytest.raises(ShapeError, match="item: needs one element, there are 2"):
        schuss.ones(2).item()


def test_as_python_numbers() -> None:
    x = schuss.tensor([3])
    assert (int(x), float(x), complex(x), bool(x)) == (3, 3.0, 3 + 0j, True)
    assert [10, 20, 30, 40][schuss.tensor(3)] == 40
    assert list(range(schuss.tensor(2))) == [0, 1]
    with pytest.raises(DTypeError, match="only an integer tensor can serve as an index"):
        [1, 2][schuss.tensor(1.0)]
    with pytest.raises(
        ArgumentError, match="the truth of several elements is not defined"
    ) as caught:
        bool(schuss.ones(2))
    assert "hint: use .any() or .all()" in str(caught.value)
    with pytest.raises(ShapeError, match="needs one element"):
        float(schuss.ones(2))


def test_len_iteration_contains() -> None:
    x = schuss.tensor([[1, 2], [3, 4]])
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    _, b = x
    assert b.tolist() == [3, 4]
    assert 3 in x
    assert 5 not in x
    with pytest.raises(ArgumentTypeError, match="a scalar has no length"):
        len(schuss.tensor(1))
    with pytest.raises(ArgumentTypeError, match="a scalar has nothing to iterate over"):
        iter(schuss.tensor(1))


def test_hash_is_identity() -> None:
    x, y = schuss.ones(1), schuss.ones(1)
    assert {x: 1, y: 2}[x] == 1
    assert x != None  # noqa: E711
    assert (x == None) is False  # noqa: E711


# --- rebinding ---


def test_other_names_for_the_same_tensor_see_the_change() -> None:
    """`y = x` makes no second tensor in Python, and neither here."""
    x = schuss.ones(2)
    y = x
    x += 1
    assert y is x
    assert y.tolist() == [2, 2]


CHANGES = {
    "+=": lambda x: x.__iadd__(1),
    "-=": lambda x: x.__isub__(1),
    "*=": lambda x: x.__imul__(2),
    "/=": lambda x: x.__itruediv__(2),
    "//=": lambda x: x.__ifloordiv__(2),
    "%=": lambda x: x.__imod__(2),
    "**=": lambda x: x.__ipow__(2),
    "item": lambda x: x.__setitem__(0, 9),
    "slice": lambda x: x.__setitem__(slice(None), 9),
    "mask": lambda x: x.__setitem__(x > 1, 9),
    "assign": lambda x: x.assign(schuss.zeros(3, dtype=x.dtype)),
}


@pytest.mark.parametrize("look_first", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_by_this_tensor_only(name: str, look_first: bool) -> None:
    x = schuss.tensor([1.0, 2.0, 3.0])
    others = {
        "detach": x.detach(),
        "copy": copy.copy(x),
        "slice": x[:],
        "reshape": x.reshape(3),
        "numpy": x.numpy(),
        "double": x * 2 / 2,
        "assigned": schuss.zeros(3).assign(x),
        "tensor": schuss.tensor(x),
        "transposed": x.reshape(3, 1).mT[0],
    }
    if look_first:
        schuss.evaluate(*[each for each in others.values() if isinstance(each, schuss.Tensor)])
    before = x.tolist()
    CHANGES[name](x)
    assert x.tolist() != before
    for what, each in others.items():
        assert each.tolist() == before, what


def test_in_place_operators_return_the_tensor() -> None:
    for op, value, expected in [
        ("+=", 2, 9),
        ("-=", 2, 5),
        ("*=", 2, 14),
        ("//=", 2, 3),
        ("%=", 4, 3),
        ("**=", 2, 49),
        ("&=", 3, 3),
        ("|=", 8, 15),
        ("^=", 1, 6),
        ("<<=", 1, 14),
        (">>=", 1, 3),
    ]:
        x = schuss.tensor([7])
        scope = {"x": x}
        exec(f"x {op} {value}", scope)
        assert scope["x"] is x
        assert x.tolist() == [expected], op
    m = schuss.eye(2) * 2
    m @= m
    assert m.tolist() == [[4, 0], [0, 4]]


def test_in_place_keeps_shape_and_dtype() -> None:
    x = schuss.ones(2, dtype=schuss.int32)
    with pytest.raises(
        DTypeError, match=r"\+=: the dtype of a tensor cannot change in place"
    ) as caught:
        x += 0.5
    assert "hint: cast the value with astype, or write x = x + ..." in str(caught.value)
    with pytest.raises(DTypeError, match="/=: the dtype of a tensor cannot change in place"):
        x /= 2
    with pytest.raises(ShapeError, match=r"\*=: the shape of a tensor cannot change in place"):
        x *= schuss.ones((3, 1), dtype=schuss.int32)
    with pytest.raises(ShapeError, match="assign: the shape of a tensor cannot change in place"):
        x.assign(schuss.ones(3, dtype=schuss.int32))
    with pytest.raises(DTypeError, match="assign: the dtype"):
        x.assign(schuss.ones(2))
    assert x.tolist() == [1, 1]


def test_assign_returns_the_tensor_and_takes_arrays() -> None:
    x = schuss.zeros(2)
    assert x.assign(np.ones(2, np.float32)) is x
    assert x.tolist() == [1, 1]
    assert x.assign(x) is x
    y = schuss.ones(2)
    x.assign(y)
    y += 1
    assert x.tolist() == [1, 1]


def test_swap_by_assignment() -> None:
    a, b = schuss.tensor([1]), schuss.tensor([2])
    old = a.detach()
    a.assign(b)
    b.assign(old)
    assert (a.item(), b.item()) == (2, 1)


def test_a_long_chain_of_updates() -> None:
    x = schuss.zeros(3)
    for i in range(2000):
        x[i % 3] += 1
    assert x.tolist() == [667, 667, 666]


# --- operators ---


def test_operators_with_numbers_and_arrays_on_both_sides() -> None:
    x, n = schuss.tensor([2.0, 4.0]), np.array([1.0, 2.0], np.float32)
    v = np.array([2.0, 4.0])
    for found, expected in [
        (x + 1, v + 1),
        (1 + x, v + 1),
        (x - 1, v - 1),
        (1 - x, 1 - v),
        (x * 3, v * 3),
        (3 * x, v * 3),
        (x / 2, v / 2),
        (2 / x, 2 / v),
        (x // 3, v // 3),
        (9 // x, 9 // v),
        (x % 3, v % 3),
        (9 % x, 9 % v),
        (x**3, v**3),
        (3**x, 3**v),
        (n + x, n + v),
        (n - x, n - v),
        (n * x, n * v),
        (n / x, n / v),
        (n**x, n**v),
        (-x, -v),
        (+x, v),
        (abs(-x), v),
        (n < x, n < v),
        (x == n, v == n),
        (x >= 1, v >= 1),
        (x != 2, v != 2),
    ]:
        assert isinstance(found, schuss.Tensor)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    m = schuss.eye(2)
    assert (m @ n).tolist() == (n @ m).tolist() == [1, 2]
    assert (5 & schuss.tensor([4])).item() == 4
    assert (1 | schuss.tensor([4])).item() == 5
    assert (1 ^ schuss.tensor([5])).item() == 4
    assert (1 << schuss.tensor([2])).item() == 4
    assert (8 >> schuss.tensor([2])).item() == 2
    assert (~schuss.tensor([0])).item() == -1


def test_numpy_functions_take_tensors_as_arrays() -> None:
    x = schuss.tensor([1.0, 2.0])
    np.testing.assert_allclose(np.mean(np.asarray(x)), 1.5)
    assert np.asarray(x, np.float64).dtype == np.float64
    copied = np.array(x)
    copied[0] = 5
    assert x.tolist() == [1, 2]


@pytest.mark.usefixtures("one_tier")
def test_methods_are_the_functions() -> None:
    x = schuss.tensor([[1.0, -2.0], [3.0, 4.0]])
    for name in (
        "abs",
        "exp",
        "relu",
        "sum",
        "mean",
        "flatten",
        "softmax",
        "argmax",
        "cumulative_sum",
        "sort",
    ):
        args = (0,) if name == "cumulative_sum" else ()
        np.testing.assert_array_equal(
            getattr(x, name)(*args).numpy(), getattr(schuss, name)(x, *args).numpy()
        )
    assert x.T.tolist() == x.mT.tolist() == [[1, 3], [-2, 4]]


def test_to() -> None:
    x = schuss.ones(2)
    assert x.to("cpu").tolist() == [1, 1]
    assert x.to(schuss.float64).dtype == schuss.float64
    assert x.to(x.device).tolist() == [1, 1]
    assert x.to_device("cpu").tolist() == [1, 1]
    with pytest.raises(ArgumentTypeError, match="'float99' is not a dtype"):
        x.to("float99")
    with pytest.raises(ArgumentError, match="'cuda:0' is not available"):
        x.to("cuda:0")
    with pytest.raises(ArgumentError, match="'tpu' is not available"):
        x.to_device("tpu")


# --- protocols ---


@pytest.mark.parametrize(
    "dtype", [each for each in schuss.dtypes.ALL if each != schuss.bfloat16], ids=str
)
def test_dlpack_with_numpy(dtype) -> None:
    x = schuss.tensor([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    out = np.from_dlpack(x)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, x.numpy())
    back = schuss.from_dlpack(out)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.numpy(), x.numpy())


def test_dlpack_of_views_and_old_consumers() -> None:
    x = schuss.arange(6).reshape(2, 3).mT[::-1]
    np.testing.assert_array_equal(np.from_dlpack(x), x.numpy())
    assert x.__dlpack_device__() == (1, 0)
    assert "dltensor" in repr(x.__dlpack__()), "no version asked for: a writable copy"
    assert "dltensor_versioned" in repr(x.__dlpack__(max_version=(1, 0)))


def test_dlpack_shares_when_asked_only() -> None:
    x = schuss.tensor([1.0, 2.0])
    out = np.from_dlpack(x)
    assert not np.shares_memory(out, x.numpy())
    shared = np.from_dlpack(x, copy=False)
    assert np.shares_memory(shared, x.numpy())
    assert not shared.flags.writeable


def test_dlpack_of_bfloat16() -> None:
    x = schuss.tensor([1.5, -2.0], dtype=schuss.bfloat16)
    back = schuss.from_dlpack(x)
    assert back.dtype == schuss.bfloat16
    assert back.tolist() == [1.5, -2.0]


def test_dlpack_without_a_copy() -> None:
    for x in (schuss.tensor([1.0, 2.0]), schuss.ones((2, 3)), schuss.zeros((0,)), schuss.ones(())):
        for version in (None, (0, 8), (1, 0)):
            capsule = x.__dlpack__(copy=False, max_version=version, dl_device=(1, 0))
            assert "dltensor" in repr(capsule)
    assert schuss.from_dlpack(x, copy=False).item() == 1


def test_dlpack_to_another_device() -> None:
    with pytest.raises(BufferError, match="the values are in the memory of the CPU"):
        schuss.ones(2).__dlpack__(dl_device=(2, 0))

    class OnACard:
        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(BufferError, match="from_dlpack: the memory must be the CPU's"):
        schuss.from_dlpack(OnACard())


@pytest.mark.comparison
def test_dlpack_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x = schuss.tensor([[1.0, 2.0], [3.0, 4.0]])
    out = torch.from_dlpack(x)
    assert out.tolist() == x.tolist()
    out += 1
    assert x.tolist() == [[1, 2], [3, 4]]
    source = torch.arange(6.0).reshape(2, 3).T
    y = schuss.from_dlpack(source)
    source += 1
    assert y.tolist() == [[0, 3], [1, 4], [2, 5]]
    half = torch.from_dlpack(schuss.tensor([1.5], dtype=schuss.bfloat16))
    assert half.dtype == torch.bfloat16
    assert schuss.from_dlpack(half * 2).tolist() == [3.0]


def test_array_namespace() -> None:
    assert schuss.ones(1).__array_namespace__(api_version="2024.12") is schuss
    with pytest.raises(ArgumentError, match="version '1999' is unknown"):
        schuss.ones(1).__array_namespace__(api_version="1999")


def test_buffers_of_bytes() -> None:
    assert bytes(schuss.tensor([1.0]).numpy()) == struct.pack("f", 1.0)


def test_pickling_is_refused() -> None:
    with pytest.raises(
        ArgumentTypeError, match="tensors are not pickled, because unpickling runs code"
    ) as e:
        pickle.dumps(schuss.ones(2))
    assert "hint: save with schuss.save" in str(e.value)
