"""Schuss: a deep-learning framework. Arrays, automatic differentiation, layers, training.

The module itself is the array namespace (Python array API standard): `schuss.zeros`,
`schuss.matmul`, `schuss.sum`.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from schuss import ops, trees  # noqa: F401  # fills the registry
from schuss.context import context, enable_grad, no_grad
from schuss.devices import Device
from schuss.dtypes import (
    bfloat16,
    bool_,
    complex64,
    complex128,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from schuss.pytorch_names import NAMESPACE, missing
from schuss.tensor import Tensor
from schuss.version import __version__

from schuss.autodiff import (  # isort: skip
    check_gradients, checkpoint, cond, custom_gradient, custom_jvp, fixed_point, gauss_newton_at,
    gnvp, grad, hessian, hessian_at, hvp, implicit_root, jacfwd, jacobian, jacrev, jvp, linearize,
    scan, value_and_grad, vjp, vmap, while_loop,
)  # fmt: skip
from schuss.compiler.cpu.host import get_num_threads, set_num_threads  # isort: skip
from schuss.execution import Run, last_run  # isort: skip
from schuss.execution import evaluate as _evaluate_nodes  # isort: skip
from schuss.functions.creation import (  # isort: skip
    arange, asarray, empty, empty_like, eye, from_dlpack, full, full_like, linspace, meshgrid, ones,
    ones_like, tensor, tril, triu, zeros, zeros_like,
)  # fmt: skip
from schuss.functions.elementwise import (  # isort: skip
    abs, acos, acosh, add, angle, asin, asinh, atan, atan2, atanh, bitwise_and, bitwise_invert,
    bitwise_left_shift, bitwise_or, bitwise_right_shift, bitwise_xor, ceil, clip, conj, copysign,
    cos, cosh, divide, equal, erf, exp, expm1, floor, floor_divide, greater, greater_equal, hypot,
    imag, isfinite, isinf, isnan, less, less_equal, log, log1p, log2, log10, logaddexp, logical_and,
    logical_not, logical_or, logical_xor, maximum, minimum, multiply, negative, nextafter,
    not_equal, positive, pow, real, reciprocal, relu, remainder, round, rsqrt, sigmoid, sign,
    signbit, sin, sinh, sqrt, square, subtract, tan, tanh, trunc, where,
)  # fmt: skip
from schuss.functions.einsum import einsum  # isort: skip
from schuss.functions.indexing import (  # isort: skip
    count_nonzero, nonzero, one_hot, searchsorted, sort, take, take_along_axis, topk,
)  # fmt: skip
from schuss.functions.linalg import (  # isort: skip
    matmul, matrix_transpose, norm, outer, solve, tensordot, vecdot,
)  # fmt: skip
from schuss.functions.manipulation import (  # isort: skip
    astype, broadcast_arrays, broadcast_shapes, broadcast_to, concat, diff, expand_dims, flatten,
    flip, moveaxis, pad, permute_dims, repeat, reshape, roll, split, squeeze, stack, tile, unstack,
)  # fmt: skip
from schuss.functions.neural import log_softmax, softmax  # isort: skip
from schuss.functions.precision import autocast  # isort: skip
from schuss.functions.reduction import (  # isort: skip
    all, any, argmax, argmin, argsort, cumulative_prod, cumulative_sum, logsumexp, max, mean, min,
    prod, std, sum, var,
)  # fmt: skip
from schuss.functions.sets import (  # isort: skip
    isin, unique_all, unique_counts, unique_inverse, unique_values,
)  # fmt: skip
from schuss.functions.stacking import (  # isort: skip
    atleast_nd, block_diag, cartesian_prod, column_stack, hstack, kron, rot90, swapaxes, unflatten,
    unfold, vstack,
)  # fmt: skip
from schuss.functions.statistics import (  # isort: skip
    allclose, bincount, corrcoef, cov, cumulative_max, cumulative_min, cumulative_trapezoid,
    histogram, interp, isclose, logcumsumexp, median, nanmean, nansum, quantile, segment_max,
    segment_mean, segment_min, segment_sum, trapezoid,
)  # fmt: skip
from schuss.functions.types import can_cast, finfo, iinfo, isdtype, result_type  # isort: skip
from schuss.random import Generator, manual_seed  # isort: skip

bool = bool_
e = math.e
inf = math.inf
nan = math.nan
newaxis = None
pi = math.pi

__array_api_version__ = "2024.12"


__all__ = [
    "Device", "Generator", "Run", "Tensor", "__version__", "abs", "acos", "acosh", "add", "all",
    "allclose", "angle", "any", "arange", "argmax", "argmin", "argsort", "asarray", "asin",
    "asinh", "astype", "atan", "atan2", "atanh", "atleast_nd", "autocast", "bfloat16", "bincount",
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "block_diag", "bool", "bool_", "broadcast_arrays", "broadcast_shapes",
    "broadcast_to", "can_cast", "cartesian_prod", "ceil", "check_gradients", "checkpoint", "clip",
    "column_stack", "complex128", "complex64", "concat", "cond", "conj", "copysign",
    "corrcoef", "cos",
    "cosh", "count_nonzero", "cov", "cumulative_max", "cumulative_min", "cumulative_prod",
    "cumulative_sum", "cumulative_trapezoid", "custom_gradient", "custom_jvp", "diff", "divide",
    "e", "einsum", "empty", "empty_like", "enable_grad", "equal", "erf", "evaluate", "exp",
    "expand_dims", "expm1", "eye", "finfo", "fixed_point", "flatten", "flip", "float16",
    "float32", "float64", "floor", "floor_divide", "from_dlpack", "full", "full_like",
    "gauss_newton_at", "get_num_threads", "gnvp", "grad", "greater", "greater_equal", "hessian",
    "hessian_at", "histogram", "hstack", "hvp", "hypot", "iinfo", "imag", "implicit_root",
    "inf", "int16", "int32", "int64", "int8", "interp", "isclose", "isdtype", "isfinite",
    "isin", "isinf", "isnan", "jacfwd", "jacobian", "jacrev", "jvp", "kron", "last_run", "less",
    "less_equal", "linearize", "linspace", "log", "log10", "log1p", "log2", "log_softmax",
    "logaddexp", "logcumsumexp", "logical_and", "logical_not", "logical_or", "logical_xor",
    "logsumexp", "manual_seed", "matmul", "matrix_transpose", "max", "maximum", "mean",
    "median", "meshgrid", "min", "minimum", "moveaxis", "multiply", "nan", "nanmean", "nansum",
    "negative", "newaxis", "nextafter", "no_grad", "nonzero", "norm", "not_equal", "one_hot",
    "ones", "ones_like", "outer", "pad", "permute_dims", "pi", "positive", "pow", "prod",
    "quantile", "real", "reciprocal", "relu", "remainder", "repeat", "reshape", "result_type",
    "roll", "rot90", "round", "rsqrt", "scan", "searchsorted", "segment_max", "segment_mean",
    "segment_min", "segment_sum", "set_num_threads", "sigmoid", "sign", "signbit", "sin",
    "sinh", "softmax", "solve", "sort", "split", "sqrt", "square", "squeeze", "stack", "std",
    "subtract", "sum", "swapaxes", "take", "take_along_axis", "tan", "tanh", "tensor",
    "tensordot", "tile", "topk", "trapezoid", "trees", "tril", "triu", "trunc", "uint16",
    "uint32", "uint64", "uint8", "unflatten", "unfold", "unique_all", "unique_counts",
    "unique_inverse", "unique_values", "unstack", "value_and_grad", "var", "vecdot", "vjp",
    "vmap", "vstack", "where", "while_loop", "zeros", "zeros_like",
]  # fmt: skip


def evaluate(*tensors: Tensor) -> None:
    """Compute the values of these tensors now, in one evaluation."""
    if context.recording is not None and context.recording.defers():
        return
    _evaluate_nodes([each._node for each in tensors])


# Imported when first used, so that `import schuss` stays light.
_MODULES = {
    "data", "debug", "einops", "fft", "linalg", "masked", "nn", "optim", "special", "training",
}  # fmt: skip
_FUNCTIONS = {
    "__array_namespace_info__": "schuss.functions.info",
    "jit": "schuss.execution.jit",
    "load": "schuss.safetensors",
    "save": "schuss.safetensors",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"schuss.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise missing("schuss", name, NAMESPACE)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_FUNCTIONS})
