"""Products, matrices, Fourier transforms."""

from __future__ import annotations

import math
from typing import Any

import schuss as s
from opinfo_tables.base import TABLE, entry, no
from opinfo_tables.reductions import vector_norm
from schuss import fft, linalg

TABLE |= {
    "matmul": s.matmul,
    "mm": s.matmul,
    "bmm": s.matmul,
    "mv": s.matmul,
    "dot": s.matmul,
    "inner": lambda a, b: s.tensordot(a, b, axes=([-1], [-1])) if a.ndim and b.ndim else a * b,
    "vdot": lambda a, b: s.vecdot(a, b),
    "linalg.vecdot": lambda a, b, dim=-1: s.vecdot(*s.broadcast_arrays(a, b), axis=dim),
    "einsum": lambda operands, equation: (
        s.einsum(equation, *operands)
        if not ("..." in equation and "->" in equation and "..." not in equation.split("->")[1])
        else no("axes of ... that are added up without saying so")
    ),
    "tensordot": lambda a, b, dims=2: (
        s.tensordot(a, b, axes=dims)
        if 1 not in a.shape
        else no("axes of size 1 that broadcast inside a product")
    ),
    "addmm": lambda x, a, b, alpha=1, beta=1: beta * x + alpha * (a @ b),
    "addmv": lambda x, a, b, alpha=1, beta=1: beta * x + alpha * (a @ b),
    "baddbmm": lambda x, a, b, alpha=1, beta=1: beta * x + alpha * (a @ b),
    "addbmm": lambda x, a, b, alpha=1, beta=1: beta * x + alpha * s.sum(a @ b, axis=0),
    "addr": lambda x, a, b, alpha=1, beta=1: beta * x + alpha * s.outer(a, b),
    "cross": lambda a, b, dim=None: linalg.cross(
        a, b, axis=next(i for i, n in enumerate(a.shape) if n == 3) if dim is None else dim
    ),
    "linalg.cross": lambda a, b, dim=-1: linalg.cross(a, b, axis=dim - a.ndim if dim >= 0 else dim),
    "linalg.cholesky": lambda x, upper=False: linalg.cholesky(x, upper=upper),
    "cholesky": lambda x, upper=False: linalg.cholesky(x, upper=upper),
    "linalg.cholesky_ex": lambda x, upper=False, check_errors=False: (
        linalg.cholesky(x, upper=upper),
        s.zeros(x.shape[:-2], dtype=s.int32),
    ),
    "cholesky_inverse": lambda x, upper=False: linalg.inv(
        s.conj(x.mT) @ x if upper else x @ s.conj(x.mT)
    ),
    "cholesky_solve": lambda b, x, upper=False: s.solve(
        s.conj(x.mT) @ x if upper else x @ s.conj(x.mT), b
    ),
    "linalg.det": linalg.det,
    "logdet": lambda x: (
        s.where(s.real(linalg.slogdet(x).sign) > 0, linalg.slogdet(x).logabsdet, math.nan)
        if not s.isdtype(x.dtype, "complex floating")
        else s.log(linalg.det(x))
    ),
    "linalg.slogdet": lambda x: tuple(linalg.slogdet(x)),
    "linalg.inv": linalg.inv,
    "linalg.inv_ex": lambda x, check_errors=False: (
        linalg.inv(x),
        s.zeros(x.shape[:-2], dtype=s.int32),
    ),
    "linalg.solve": lambda a, b, left=True: linalg_solve(a, b, left),
    "linalg.solve_ex": lambda a, b, left=True, check_errors=False: (
        linalg_solve(a, b, left),
        s.zeros(a.shape[:-2], dtype=s.int32),
    ),
    "linalg.eigvalsh": lambda x, UPLO="L": linalg.eigvalsh(half(x, UPLO)),
    "linalg.eigh": lambda x, UPLO="L": tuple(linalg.eigh(half(x, UPLO))),
    "linalg.svdvals": linalg.svdvals,
    "linalg.matrix_power": linalg.matrix_power,
    "linalg.qr": lambda x, mode="reduced": (
        tuple(linalg.qr(x, mode=mode)) if mode != "r" else no("R alone")
    ),
    "qr": lambda x, some=True: tuple(linalg.qr(x, mode="reduced" if some else "complete")),
    "linalg.svd": lambda x, full_matrices=True: tuple(linalg.svd(x, full_matrices=full_matrices)),
    "svd": lambda x, some=True, compute_uv=True: svd_of_old(x, some, compute_uv),
    "linalg.multi_dot": lambda xs: linalg.multi_dot(xs),
    "linalg.matrix_rank": lambda x, tol=None, hermitian=False, atol=None, rtol=None: (
        linalg.matrix_rank(x, rtol=rtol)
        if tol is None and atol is None and not hermitian
        else no("an absolute tolerance")
    ),
    "linalg.pinv": lambda x, atol=None, rtol=None, hermitian=False, rcond=None: (
        linalg.pinv(x, rtol=rtol) if atol is None and not hermitian else no("an absolute tolerance")
    ),
    "pinverse": lambda x, rcond=1e-15: linalg.pinv(x, rtol=rcond),
    "linalg.lstsq": lambda a, b, driver=None, rcond=None: (
        linalg.lstsq(a, b).solution if b.ndim > 1 else linalg.lstsq(a, b.expand_dims(-1)).solution
    ),
    "linalg.vander": lambda x, N=None: (
        no("a scalar as a vector")
        if x.ndim == 0
        else x.expand_dims(-1) ** s.arange(x.shape[-1] if N is None else N).astype(x.dtype)
    ),
    "linalg.solve_triangular": lambda a, b, upper, left=True, unitriangular=False: linalg_solve(
        unit(s.triu(a) if upper else s.tril(a), unitriangular), b, left, False
    ),
    "triangular_solve": lambda b, a, upper=True, transpose=False, unitriangular=False: (
        s.solve(turned(unit(s.triu(a) if upper else s.tril(a), unitriangular), transpose), b),
        a,
    ),
    "linalg.tensorinv": lambda x, ind=2: s.reshape(
        linalg.inv(s.reshape(x, (math.prod(x.shape[:ind]), -1))), x.shape[ind:] + x.shape[:ind]
    ),
    "linalg.tensorsolve": lambda a, b, dims=None: tensorsolve(a, b, dims),
    "linalg.cond": None,
}
del TABLE["linalg.cond"]


def unit(a: Any, unitriangular: bool) -> Any:
    return s.where(s.eye(a.shape[-1], dtype=s.bool), 1, a) if unitriangular else a


def turned(a: Any, transpose: bool) -> Any:
    return a.mT if transpose else a


def half(x: Any, side: str) -> Any:
    """PyTorch reads one triangle, we the Hermitian part."""
    if side != "L":
        no("the upper triangle of a matrix")
    return x


def svd_of_old(x: Any, some: bool, compute_uv: bool) -> Any:
    if not compute_uv:
        no("singular vectors of zeros")
    u, values, vh = linalg.svd(x, full_matrices=not some)
    return u, values, s.conj(vh.mT)


def linalg_solve(a: Any, b: Any, left: bool = True, vectors: bool = True) -> Any:
    if vectors and (b.ndim == 1 or (a.ndim - 1 == b.ndim and a.shape[:-1] == b.shape)):
        return s.solve(a if left else a.mT, b.expand_dims(-1))[..., 0]
    return s.solve(a, b) if left else s.solve(a.mT, b.mT).mT


def tensorsolve(a: Any, b: Any, dims: Any) -> Any:
    if dims is not None:
        a = s.moveaxis(a, tuple(dims), tuple(range(a.ndim - len(dims), a.ndim)))
    shape = a.shape[b.ndim :]
    square = s.reshape(a, (b.size, math.prod(shape)))
    return s.reshape(s.solve(square, s.reshape(b, (-1,))), shape)


@entry("linalg.matrix_norm")
def matrix_norm(
    x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, dtype: Any = None
) -> Any:
    if keepdim:
        return matrix_norm(x, ord, dim, False, dtype).expand_dims(tuple(d % x.ndim for d in dim))
    x = x if dtype is None else x.astype(dtype)
    return linalg.matrix_norm(s.moveaxis(x, tuple(dim), (-2, -1)), ord=ord)


@entry("linalg.norm")
def linalg_norm(
    x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    matrices = isinstance(dim, (tuple, list)) and len(dim) == 2
    if ord is not None and (matrices or (dim is None and x.ndim == 2)):
        return matrix_norm(x, ord, dim or (-2, -1), keepdim, dtype)
    return vector_norm(x, 2 if ord is None else ord, dim, keepdim, dtype)


for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    TABLE[f"fft.{name}"] = lambda x, n=None, dim=-1, norm=None, name=name: getattr(fft, name)(
        x, n=n, axis=dim, norm=norm or "backward"
    )


def several(name: str, default: Any) -> Any:
    def call(x: Any, s_: Any = None, dim: Any = default, norm: Any = None, **kwargs: Any) -> Any:
        lengths = kwargs.pop("s", s_)
        if lengths is not None and dim is None:
            dim = tuple(range(-len(lengths), 0))
        if lengths is not None and -1 in lengths:
            no("the length -1")
        dim = (dim,) if isinstance(dim, int) else dim
        return getattr(fft, name)(x, s=lengths, axes=dim, norm=norm or "backward")

    return call


for name in ("fftn", "ifftn", "rfftn", "irfftn"):
    TABLE[f"fft.{name}"] = several(name, None)
    TABLE[f"fft.{name[:-1]}2"] = several(name, (-2, -1))
TABLE["fft.fftshift"] = lambda x, dim=None: fft.fftshift(x, axes=dim)
TABLE["fft.ifftshift"] = lambda x, dim=None: fft.ifftshift(x, axes=dim)
