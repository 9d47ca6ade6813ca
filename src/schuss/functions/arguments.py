"""What users may pass where a tensor is meant, and how wrong names are answered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from schuss import dtypes
from schuss.context import context
from schuss.dtypes import DType, Number
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, fail
from schuss.execution.evaluate import admit
from schuss.graph import EXACT, Handle, Node, apply, data, scalar, shared_scalar, wrap
from schuss.ops.elementwise import alias
from schuss.ops.elementwise import astype as astype_op
from schuss.ops.ieee import astype_reference

if TYPE_CHECKING:
    from schuss.tensor import Tensor

ArrayLike = Any  # a Tensor, a NumPy array, a Python number, or nested sequences of numbers

P = ParamSpec("P")
R = TypeVar("R")

_RENAMED = {"dim": "axis", "dims": "axis", "keepdim": "keepdims"}


def array_api_names(function: Callable[P, R]) -> Callable[P, R]:
    """Answer `dim=` and `keepdim=` with the array API standard's names, which are used here."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name in _RENAMED:
                raise fail(
                    ArgumentTypeError,
                    function.__qualname__.removesuffix(".__init__"),
                    f"the argument {name!r} is called {_RENAMED[name]!r} here, "
                    "as in the array API standard",
                    hint=f"write {_RENAMED[name]}={kwargs[name]!r}",
                )
        return function(*args, **kwargs)

    return call


def adopt(array: np.ndarray) -> Tensor:
    """A tensor over an array that nobody writes to any more. Nothing is copied.

    For code that has just made the array; `tensor` and `asarray` copy what belongs to the user.
    """
    array = np.asarray(array)  # arithmetic on 0-d arrays gives NumPy scalars
    dtype = dtypes.as_dtype(array.dtype)
    if array.dtype != dtype or not array.dtype.isnative:
        array = array.astype(dtype)
    admit(array.nbytes)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return wrap(data(array))


def as_tensor(value: ArrayLike, where: str = "asarray") -> Tensor:
    """What the user passed, as a tensor.

    Arrays are copied: who writes to theirs later changes nothing here.
    """
    if isinstance(value, Handle):
        return value  # type: ignore[return-value]  # Tensor is the only handle
    if isinstance(value, (bool, int, float, complex)) and not isinstance(value, np.generic):
        return number(where, value, dtypes.of_number(value))
    return adopt(host_array(value, None, where))


def host_array(value: ArrayLike, dtype: DType | None, where: str) -> np.ndarray:
    """A NumPy array of the user's numbers, of its own. Python floats become float32, ints int64."""
    if isinstance(value, (list, tuple)) and any(isinstance(each, Handle) for each in value):
        raise fail(ArgumentTypeError, where, "got a sequence that contains tensors",
                   hint="join them with schuss.stack, which keeps their gradients")  # fmt: skip
    if context.recording is not None:
        context.recording.took(value)
    try:
        array = np.array(value, copy=True)
    except (ValueError, TypeError) as problem:
        raise fail(ArgumentTypeError, where, f"cannot make an array of this: {problem}") from None
    if array.dtype not in dtypes.ALL and array.dtype.newbyteorder("=") not in dtypes.ALL:
        raise fail(ArgumentTypeError, where, f"cannot make a tensor of {type(value).__name__} "
                   f"with dtype {array.dtype}", hint="numbers and booleans only")  # fmt: skip
    if not _has_dtype(value):
        dtype = dtype or _default_dtype(array)
        check_fits(array, dtype, where)
    if dtype is None:
        return array
    with np.errstate(all="ignore"):  # what is too large for a float becomes infinite
        return array if array.dtype == dtype else astype_reference(array, dtype)


def _default_dtype(array: np.ndarray) -> DType:
    """The dtype of Python's numbers, which NumPy made an array of."""
    if array.dtype.kind == "c":
        return dtypes.complex64
    if array.dtype.kind == "f" or array.size == 0:
        return dtypes.default_float
    return dtypes.bool_ if array.dtype.kind == "b" else dtypes.default_int


def check_fits(array: np.ndarray, dtype: DType, where: str) -> None:
    """Raise DTypeError where an integer dtype cannot hold the numbers, or a real one their kind.

    Python's numbers are exact: to cut off their upper bits or imaginary parts is a mistake.
    """
    if array.dtype.kind == "c" and not dtypes.is_complex(dtype):
        raise fail(DTypeError, where, f"complex numbers do not fit into {dtype}")
    if dtypes.is_integral(dtype) and array.size and array.dtype != dtypes.bool_:
        info = np.iinfo(dtype)
        if not (info.min <= array.min() and array.max() <= info.max):  # NaN does not fit either
            bad = array[~((array >= info.min) & (array <= info.max))].flat[0]
            raise fail(DTypeError, where, f"{bad} does not fit into {dtype}")


def _has_dtype(value: Any) -> bool:
    """Whether the user's numbers carry a dtype of their own (NumPy's do, Python's do not)."""
    while isinstance(value, (list, tuple)):
        if not value:
            return False
        value = value[0]
    return hasattr(value, "dtype") or hasattr(value, "__array__")


def cast(x: Tensor, dtype: DType) -> Tensor:
    """x with another dtype; itself where it has that already."""
    own = x._node.dtype
    return x if own is dtype or own == dtype else apply(astype_op, x, dtype=dtype)


def floating(x: ArrayLike, where: str) -> Tensor:
    """x in a floating (or complex) dtype: integers and booleans become float32."""
    x = as_tensor(x, where)
    return x if dtypes.is_inexact(x.dtype) else cast(x, dtypes.default_float)


def operands(where: str, *values: ArrayLike) -> tuple[Tensor, ...]:
    """Operands in the dtype that they meet in; Python numbers take that of the tensors."""
    if len(values) == 2:  # the common case, on the way of every operator
        a, b = values
        if isinstance(a, Handle) and isinstance(b, Handle) and a.dtype is b.dtype:  # type: ignore[attr-defined]
            return values
    weak = [isinstance(v, (bool, int, float, complex)) for v in values]
    tensors = [None if w else as_tensor(v, where) for v, w in zip(values, weak, strict=True)]
    strong = [t.dtype for t in tensors if t is not None]
    numbers = [value for value, is_weak in zip(values, weak, strict=True) if is_weak]
    dtype = dtypes.promote_with_numbers(strong, numbers)
    return tuple(
        number(where, v, dtype) if t is None else cast(t, dtype)
        for v, t in zip(values, tensors, strict=True)
    )


def quick_operands(x1: ArrayLike, x2: ArrayLike) -> tuple[Node, Node] | None:
    """The nodes of two operands in the common cases: one dtype, or a number that takes it on."""
    if isinstance(x1, Handle):
        a = x1._node
        if isinstance(x2, Handle):
            b = x2._node
            return (a, b) if a.dtype is b.dtype else None
        kind = type(x2)
        takes = (kind is float and a.dtype.kind == "f") or (kind is int and a.dtype.kind in "fi")
        if takes and -EXACT <= x2 <= EXACT:
            return a, shared_scalar(x2, a.dtype)
    elif isinstance(x2, Handle):
        b = x2._node
        kind = type(x1)
        takes = (kind is float and b.dtype.kind == "f") or (kind is int and b.dtype.kind in "fi")
        if takes and -EXACT <= x1 <= EXACT:
            return shared_scalar(x1, b.dtype), b
    return None


def number(where: str, value: Number, dtype: DType) -> Tensor:
    """A Python number as a tensor of `dtype`, which has to hold it."""
    try:
        return scalar(value, dtype)
    except (OverflowError, ValueError, TypeError):  # too large; NaN or complex for an integer
        bits = value.bit_length() if isinstance(value, int) else 0
        shown = f"an integer of {bits} bits" if bits > 128 else value
        problem = f"{shown} does not fit into {dtype}"
        raise fail(DTypeError, where, problem, hint="cast with astype first") from None


def as_shape(where: str, shape: Any, more: tuple[int, ...] = ()) -> tuple[int, ...]:
    """A shape, from integers or a sequence of them. Raises ArgumentError for anything else."""
    sizes = (shape, *more) if isinstance(shape, (int, np.integer)) else tuple(shape)
    for n in sizes:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            problem = "a shape is made of integers that are not negative"
            raise fail(ArgumentError, where, problem, shape=shape)
    return tuple(int(n) for n in sizes)


def same(x: Tensor) -> Tensor:
    """x as the result of a function that changes nothing.

    It is a handle of its own, so that `y += 1` on the result leaves x alone.
    """
    return apply(alias, x) if x._node.owner is not None else wrap(x._node)
