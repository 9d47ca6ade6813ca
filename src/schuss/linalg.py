"""The linear algebra extension of the array API standard, and what belongs with it."""

from __future__ import annotations

from schuss.functions.einsum import einsum
from schuss.functions.factorizations import (
    EigResult,
    LUFactors,
    LUResult,
    eig,
    eigvals,
    lu,
    lu_factor,
    lu_solve,
)
from schuss.functions.linalg import (
    matmul,
    matrix_transpose,
    norm,
    outer,
    solve,
    tensordot,
    vecdot,
)
from schuss.functions.matrices import (
    EighResult,
    LstsqResult,
    QRResult,
    SlogdetResult,
    SVDResult,
    cholesky,
    cross,
    det,
    diagonal,
    eigh,
    eigvalsh,
    inv,
    lstsq,
    matrix_exp,
    matrix_norm,
    matrix_power,
    matrix_rank,
    multi_dot,
    pinv,
    qr,
    slogdet,
    svd,
    svdvals,
    trace,
    vector_norm,
)

__all__ = [
    "EigResult", "EighResult", "LUFactors", "LUResult", "LstsqResult", "QRResult", "SVDResult",
    "SlogdetResult", "cholesky", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh",
    "einsum", "inv", "lstsq", "lu", "lu_factor", "lu_solve", "matmul", "matrix_exp", "matrix_norm",
    "matrix_power", "matrix_rank", "matrix_transpose", "multi_dot", "norm", "outer", "pinv", "qr",
    "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip
