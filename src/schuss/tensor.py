"""The user's array: a handle on a node of the graph.

Nothing is computed when a tensor is made. Changing one "in place" gives the handle a new node:
`x += 1`, `x[0] = 3` and `w.assign(...)` never change what another tensor sees.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from schuss import autodiff, dlpack, dtypes
from schuss.autodiff.backward import is_leaf
from schuss.context import context, grad_mode
from schuss.devices import Device, as_device, cpu, is_device
from schuss.dtypes import DType
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    GradientError,
    ShapeError,
    fail,
)
from schuss.execution.evaluate import evaluate
from schuss.functions import (
    elementwise,
    indexing,
    linalg,
    manipulation,
    neural,
    reduction,
)
from schuss.functions.arguments import ArrayLike, as_tensor, same
from schuss.graph import Handle, Node, apply, hands_out
from schuss.ops.elementwise import alias as alias_op
from schuss.ops.elementwise import detach as detach_op
from schuss.pytorch_names import TENSOR, missing


class Tensor(Handle):
    """An n-dimensional array whose values are computed when somebody looks.

    Make one with `schuss.tensor`, `schuss.zeros` and the like. Methods that share their name with a
    function of `schuss` do the same.

    Attributes:
        grad: the gradient that `backward()` has added up, a tensor of the same shape; None before.
    """

    __slots__ = ("grad",)

    grad: Tensor | None
    __array_priority__ = 1000
    __array_ufunc__ = None  # NumPy arrays leave `array * tensor` to us

    def __init__(self, node: Node) -> None:
        if not isinstance(node, Node):
            raise fail(
                ArgumentTypeError, "Tensor", "is not made directly", hint="use schuss.tensor(data)"
            )
        self._node = node
        node.handles += 1
        self.grad = None

    # --- what it is ---

    @property
    def shape(self) -> tuple[int, ...]:
        return self._node.shape

    @property
    def dtype(self) -> DType:
        return self._node.dtype

    @property
    def ndim(self) -> int:
        return len(self._node.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._node.size

    @property
    def nbytes(self) -> int:
        return self._node.nbytes

    @property
    def device(self) -> Device:
        return cpu

    def __len__(self) -> int:
        if not self.shape:
            raise fail(ArgumentTypeError, "len", "a scalar has no length", tensor=self)
        return self.shape[0]

    def __repr__(self) -> str:
        values = np.array2string(
            self.numpy(), separator=", ", prefix="tensor(", threshold=200, precision=4
        )
        notes = (
            []
            if self.dtype in (dtypes.float32, dtypes.int64, dtypes.bool_)
            else [f"dtype={self.dtype}"]
        )
        if 0 in self.shape or self.size > 200:
            notes.append(f"shape={self.shape}")
        if self.requires_grad:
            notes.append("requires_grad=True")
        return f"tensor({', '.join([values, *notes])})"

    def __str__(self) -> str:
        return str(self.numpy()) if self.ndim == 0 else repr(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.size == 1 and spec else str(self)

    # --- looking at values ---

    def _value(self) -> np.ndarray:
        if context.recording is not None:
            context.recording.looked()
        if self._node.value is None:
            evaluate([self._node])
        value = self._node.value
        assert value is not None
        return value

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array, read-only and not copied; write to `.numpy().copy()`."""
        value = self._value()
        if 0 in value.strides and value.size > 1:
            value = np.ascontiguousarray(value)  # a broadcast value is one element seen many times
        if value.flags.writeable:
            value = value.view()
            value.flags.writeable = False
        return value

    def item(self) -> Any:
        """The one element as a Python number. Raises ShapeError for more or fewer elements."""
        if self.size != 1:
            raise fail(ShapeError, "item", f"needs one element, there are {self.size}", tensor=self)
        return self._value().reshape(()).item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self.numpy()
        if dtype is not None and value.dtype != dtype:
            return value.astype(dtype)
        return value.copy() if copy else value

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        import schuss

        if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
            raise fail(ArgumentError, "array API", f"version {api_version!r} is unknown")
        return schuss

    def __dlpack__(self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
                   dl_device: Any = None, copy: bool | None = None) -> Any:  # fmt: skip
        """The values as a DLPack capsule: a copy, for consumers write to what they are given
        (PyTorch overlooks the flag for read-only memory). With `copy=False` shared: then do not
        write.
        """
        return dlpack.give(self._value(), max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU

    def __bool__(self) -> bool:
        if self.size != 1:
            raise fail(
                ArgumentError,
                "bool",
                "the truth of several elements is not defined",
                tensor=self,
                hint="use .any() or .all()",
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if not dtypes.is_integral(self.dtype):
            raise fail(
                DTypeError, "index", "only an integer tensor can serve as an index", tensor=self
            )
        return int(self.item())

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise fail(
                ArgumentTypeError, "iteration", "a scalar has nothing to iterate over", tensor=self
            )
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        raise missing("Tensor", name, TENSOR)

    # --- gradients ---

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow in. Setting it on data makes it a leaf that collects `.grad`."""
        return self._node.requires_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted == self.requires_grad:
            return
        if wanted:
            self._become_leaf(self)
        elif not self.is_leaf:
            raise fail(
                GradientError,
                "requires_grad",
                "a computed tensor cannot stop requiring its gradient",
                hint="use x.detach()",
            )
        else:
            self._point_at(self.detach()._node)

    def requires_grad_(self, wanted: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor."""
        self.requires_grad = wanted
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether it was not computed from tensors that require gradients."""
        return not self.requires_grad or is_leaf(self._node)

    def _become_leaf(self, value: Tensor) -> None:
        """Point at a new leaf with the given value."""
        if not dtypes.is_differentiable(value.dtype):
            raise fail(
                DTypeError,
                "requires_grad",
                "gradients exist for floating and complex dtypes only",
                tensor=value,
                hint="cast with astype(schuss.float32)",
            )
        leaf = apply(detach_op, value)._node
        leaf.requires_grad = True
        leaf.owner = weakref.ref(self)
        self._point_at(leaf)

    def backward(self, gradient: Tensor | None = None, retain_graph: bool = False,
                 create_graph: bool = False) -> None:  # fmt: skip
        """Add the gradient of this scalar to `.grad` of every leaf that it was computed from.

        Args:
            gradient: what flows into a tensor that is no scalar: the same shape.
            retain_graph: keep the graph, and what the forward pass computed, for another
                `backward()`. Without it a second call before the next `optimizer.step()` computes
                the forward pass again, and one after it raises GradientError.
            create_graph: record the gradients so that they can be differentiated again.
        """
        autodiff.backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> Tensor:
        """The same values, through which no gradient flows."""
        return apply(detach_op, self)

    # --- rebinding ---

    def assign(self, value: ArrayLike) -> Tensor:
        """Take on a new value of the same shape and dtype; a leaf stays a leaf. Returns the tensor.

        Tensors computed from the old value keep it.
        """
        value = as_tensor(value, "assign")
        self._check_like(value, "assign")
        if self._node.owner is not None:
            self._become_leaf(value)
        else:
            self._point_at((apply(alias_op, value) if value is self else value)._node)
        return self

    def _check_like(self, value: Tensor, where: str) -> None:
        if value.shape != self.shape:
            raise fail(
                ShapeError,
                where,
                "the shape of a tensor cannot change in place",
                tensor=self,
                value=value,
            )
        if value.dtype != self.dtype:
            raise fail(
                DTypeError,
                where,
                "the dtype of a tensor cannot change in place",
                tensor=self,
                value=value,
                hint="cast the value with astype, or write x = x + ... for a new tensor",
            )

    def _rebind(self, value: Tensor, where: str) -> Tensor:
        self._check_like(value, where)
        if self._node.owner is not None:
            if context.grad_enabled:
                raise fail(
                    GradientError,
                    where,
                    "a leaf that requires a gradient cannot be changed "
                    "while gradients are recorded",
                    tensor=self,
                    hint="update it under `with schuss.no_grad():`, or with tensor.assign(value)",
                )
            self._become_leaf(value)
        else:
            self._point_at(value._node)
        return self

    def __getitem__(self, key: Any) -> Tensor:
        return indexing.get_item(self, key)

    def __setitem__(self, key: Any, value: ArrayLike) -> None:
        self._rebind(indexing.set_item(self, key, value), "assignment")

    def __copy__(self) -> Tensor:
        return apply(alias_op, self)

    def __deepcopy__(self, memo: Any) -> Tensor:
        with grad_mode(False):
            copy: Tensor = object.__new__(type(self))
            Tensor.__init__(copy, apply(detach_op, self)._node)
        if self._node.owner is not None:
            copy._become_leaf(copy)
        return copy

    def __reduce__(self) -> Any:
        raise fail(
            ArgumentTypeError,
            "pickle",
            "tensors are not pickled, because unpickling runs code",
            hint="save with schuss.save, or pass tensor.numpy()",
        )

    # --- operators ---

    def __add__(self, other: Any) -> Tensor:
        return elementwise.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return elementwise.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return elementwise.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return elementwise.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return elementwise.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return elementwise.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return elementwise.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return elementwise.divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return elementwise.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return elementwise.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return elementwise.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return elementwise.remainder(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return elementwise.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return linalg.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return linalg.matmul(other, self)

    def __and__(self, other: Any) -> Tensor:
        return elementwise.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return elementwise.bitwise_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return elementwise.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return elementwise.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return elementwise.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return elementwise.bitwise_xor(other, self)

    def __lshift__(self, other: Any) -> Tensor:
        return elementwise.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return elementwise.bitwise_left_shift(other, self)

    def __rshift__(self, other: Any) -> Tensor:
        return elementwise.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> Tensor:
        return elementwise.bitwise_right_shift(other, self)

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)

    def __pos__(self) -> Tensor:
        return elementwise.positive(self)

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)

    def __invert__(self) -> Tensor:
        return elementwise.bitwise_invert(self)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return elementwise.equal(self, other) if other is not None else False  # type: ignore[return-value]

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return elementwise.not_equal(self, other) if other is not None else True  # type: ignore[return-value]

    def __lt__(self, other: Any) -> Tensor:
        return elementwise.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return elementwise.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return elementwise.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return elementwise.greater_equal(self, other)

    def __iadd__(self, other: Any) -> Tensor:
        return self._rebind(self + other, "+=")

    def __isub__(self, other: Any) -> Tensor:
        return self._rebind(self - other, "-=")

    def __imul__(self, other: Any) -> Tensor:
        return self._rebind(self * other, "*=")

    def __itruediv__(self, other: Any) -> Tensor:
        return self._rebind(self / other, "/=")

    def __ifloordiv__(self, other: Any) -> Tensor:
        return self._rebind(self // other, "//=")

    def __imod__(self, other: Any) -> Tensor:
        return self._rebind(self % other, "%=")

    def __ipow__(self, other: Any) -> Tensor:
        return self._rebind(self**other, "**=")

    def __imatmul__(self, other: Any) -> Tensor:
        return self._rebind(self @ other, "@=")

    def __iand__(self, other: Any) -> Tensor:
        return self._rebind(self & other, "&=")

    def __ior__(self, other: Any) -> Tensor:
        return self._rebind(self | other, "|=")

    def __ixor__(self, other: Any) -> Tensor:
        return self._rebind(self ^ other, "^=")

    def __ilshift__(self, other: Any) -> Tensor:
        return self._rebind(self << other, "<<=")

    def __irshift__(self, other: Any) -> Tensor:
        return self._rebind(self >> other, ">>=")

    # --- methods that are functions of `schuss`, with the tensor as first argument ---

    abs = elementwise.abs
    ceil = elementwise.ceil
    clip = elementwise.clip
    cos = elementwise.cos
    exp = elementwise.exp
    floor = elementwise.floor
    isfinite = elementwise.isfinite
    isinf = elementwise.isinf
    isnan = elementwise.isnan
    log = elementwise.log
    relu = elementwise.relu
    round = elementwise.round
    rsqrt = elementwise.rsqrt
    sigmoid = elementwise.sigmoid
    sign = elementwise.sign
    sin = elementwise.sin
    sqrt = elementwise.sqrt
    square = elementwise.square
    tanh = elementwise.tanh
    matmul = linalg.matmul
    flatten = manipulation.flatten
    broadcast_to = manipulation.broadcast_to
    expand_dims = manipulation.expand_dims
    flip = manipulation.flip
    permute = manipulation.permute_dims
    permute_dims = manipulation.permute_dims
    repeat = manipulation.repeat
    reshape = manipulation.reshape
    split = manipulation.split
    squeeze = manipulation.squeeze
    tile = manipulation.tile
    log_softmax = neural.log_softmax
    softmax = neural.softmax
    all = reduction.all
    any = reduction.any
    argmax = reduction.argmax
    argmin = reduction.argmin
    argsort = reduction.argsort
    cumulative_prod = reduction.cumulative_prod
    cumulative_sum = reduction.cumulative_sum
    logsumexp = reduction.logsumexp
    max = reduction.max
    mean = reduction.mean
    min = reduction.min
    prod = reduction.prod
    std = reduction.std
    sum = reduction.sum
    var = reduction.var
    sort = indexing.sort
    take = indexing.take
    topk = indexing.topk

    def astype(self, dtype: Any, copy: bool = True) -> Tensor:
        """The same values in another dtype."""
        return manipulation.astype(self, dtype)

    def to(self, target: Any, /, *, stream: Any = None) -> Tensor:
        """On a device, or in a dtype: `x.to("cpu")`, `x.to(schuss.float64)`."""
        if is_device(target):
            as_device(target)
            return same(self)
        return self.astype(target)

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """On a device (the array API's name for `to`)."""
        as_device(device)
        return same(self)

    @property
    def T(self) -> Tensor:  # noqa: N802
        """A matrix transposed. Raises ShapeError unless there are two axes."""
        if self.ndim != 2:
            raise fail(
                ShapeError, "T", "transposes matrices", tensor=self, hint="use .mT or permute_dims"
            )
        return manipulation.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:  # noqa: N802
        """The last two axes swapped."""
        return manipulation.matrix_transpose(self)


def _made(node: Node) -> Tensor:
    """`Tensor(node)` for ops: without a check, and without a call of a class."""
    tensor = _new_tensor(Tensor)
    tensor._node = node
    tensor.grad = None
    node.handles += 1
    return tensor


_new_tensor = object.__new__
hands_out(_made)
