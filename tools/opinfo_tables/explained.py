"""Differences that are meant, and results that contain free choices."""

from __future__ import annotations

from typing import Any

_ONE_ROW = "a matrix of one row keeps its axes here"
_ANTI_HERMITIAN = (
    "PyTorch's gradient of complex matrices has an anti-Hermitian part, "
    "which no change of a Hermitian matrix can see"
)
_COMPLEX_ORDER = {"complex": "complex numbers, which this function does not take here"}
EXPLAINED: dict[str, dict[str, str]] = {
    "logaddexp": _COMPLEX_ORDER,
    "logcumsumexp": _COMPLEX_ORDER,
    "logsumexp": _COMPLEX_ORDER,
    "nansum": _COMPLEX_ORDER,
    "masked.var": _COMPLEX_ORDER,
    "masked.std": _COMPLEX_ORDER,
    "masked.logsumexp": _COMPLEX_ORDER,
    "masked.log_softmax": {"why": "no gradient flows from elements that are left out here"},
    "cov": {"why": _ONE_ROW},
    "corrcoef": {"why": _ONE_ROW},
    "cholesky": {"why": _ANTI_HERMITIAN},
    "linalg.cholesky": {"why": _ANTI_HERMITIAN},
    "linalg.cholesky_ex": {"why": _ANTI_HERMITIAN},
}

# What does not depend on free choices: signs, phases, vectors that fill a basis.


def factors(r: Any) -> Any:
    return [each.abs() for each in r]


def singular(r: Any) -> Any:
    u, values, v = r
    k = values.shape[-1]
    return u[..., :k].abs(), values, v[..., :k, :].abs()


def singular_of_old(r: Any) -> Any:
    u, values, v = r
    k = values.shape[-1]
    return u[..., :k].abs(), values, v[..., :k].abs()


def thin(r: Any) -> Any:
    q, triangle = r
    k = q.shape[-1] if q.shape[-1] < triangle.shape[-1] else triangle.shape[-1]
    return q[..., :k].abs(), triangle.abs()


INVARIANT: dict[str, Any] = {
    "linalg.svd": singular,
    "svd": singular_of_old,
    "linalg.qr": thin,
    "qr": thin,
    "linalg.eigh": factors,
    "linalg.eig": lambda r: [r[0], r[1].abs()],
    "linalg.lu_factor": lambda r: r[0] if isinstance(r, tuple) else r,
    "linalg.lu_factor_ex": lambda r: r[0] if isinstance(r, tuple) else r,
    "lu": lambda r: r[0] if isinstance(r, tuple) else r,
    "linalg.lstsq": lambda r: r[0] if isinstance(r, tuple) else r,
}
