"""What the ops on matrices and the Fourier transforms mean, from their definitions."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Oracle = Callable[..., Any]


def each_matrix(function: Callable[[np.ndarray], Any]) -> Oracle:
    """`function` of every matrix of a stack."""

    def oracle(x: np.ndarray, **attributes: Any) -> np.ndarray:
        batch = x.shape[:-2]
        if math.prod(batch) == 0:
            like = np.asarray(function(np.eye(*x.shape[-2:])))
            return np.zeros(batch + like.shape)
        found = [np.asarray(function(x[place])) for place in np.ndindex(*batch)]
        return np.array(found).reshape(batch + found[0].shape)

    return oracle


def cholesky(x: np.ndarray) -> np.ndarray:
    y = np.zeros(x.shape)
    for i in range(len(x)):
        for j in range(i + 1):
            rest = x[i, j] - sum(y[i, k] * y[j, k] for k in range(j))
            y[i, j] = math.sqrt(rest) if i == j else rest / y[j, j]
    return y


def qr(x: np.ndarray) -> np.ndarray:
    """Gram and Schmidt, twice, which makes up for rounding."""
    q, r = x.copy(), np.eye(x.shape[1])
    for _ in range(2):
        step = np.eye(x.shape[1])
        for j in range(x.shape[1]):
            for i in range(j):
                step[i, j] = (q[:, i] * q[:, j]).sum()
                q[:, j] -= step[i, j] * q[:, i]
            step[j, j] = math.sqrt((q[:, j] ** 2).sum())
            q[:, j] /= step[j, j]
        r = step @ r
    return np.concatenate([q, r.T])


def orthogonal_complement(q: np.ndarray) -> np.ndarray:
    """The last columns of Householder's reflections, as LAPACK chooses their signs."""
    m, n = q.shape
    rest, total = q.copy(), np.eye(m)
    for k in range(min(n, m - 1)):
        v = rest[k:, k].copy()
        v[0] += math.copysign(math.sqrt((v**2).sum()), v[0])
        mirror = np.eye(m)
        mirror[k:, k:] -= 2 * np.outer(v, v) / (v**2).sum()
        rest, total = mirror @ rest, total @ mirror
    return total[:, n:]


def eigen(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jacobi's rotations: eigenvalues, ascending, and eigenvectors as columns."""
    a, v = x.copy(), np.eye(len(x))
    for _ in range(12):
        for p, q in itertools.combinations(range(len(x)), 2):
            angle = 0.5 * math.atan2(2 * a[p, q], a[q, q] - a[p, p])
            turn = np.eye(len(x))
            turn[p, p] = turn[q, q] = math.cos(angle)
            turn[p, q], turn[q, p] = math.sin(angle), -math.sin(angle)
            a, v = turn.T @ a @ turn, v @ turn
    order = np.argsort(np.diagonal(a))
    return np.diagonal(a)[order], v[:, order]


def pointing_up(v: np.ndarray) -> np.ndarray:
    """The sign of each column that makes its largest element positive."""
    columns = [np.round(np.abs(column), 5).argmax() for column in v.T]
    return np.array([math.copysign(1, v[i, j]) for j, i in enumerate(columns)])


def eigh(x: np.ndarray) -> np.ndarray:
    values, vectors = eigen(x)
    return np.concatenate([vectors * pointing_up(vectors), values[None]])


def svd(x: np.ndarray) -> np.ndarray:
    if x.shape[0] < x.shape[1]:
        u, s, v = apart(svd(x.T), x.shape[1])[::-1]
        up = pointing_up(u)
        return np.concatenate([u * up, s[None], v * up])
    values, v = eigen(x.T @ x)
    s, v = np.sqrt(values[::-1]), v[:, ::-1]
    u = x @ v / s
    up = pointing_up(u)
    return np.concatenate([u * up, s[None], v * up])


def apart(packed: np.ndarray, m: int) -> list[np.ndarray]:
    return [packed[:m], packed[m], packed[m + 1 :]]


def det(x: np.ndarray) -> float:
    """Leibniz: all permutations."""
    total = 0.0
    for order in itertools.permutations(range(len(x))):
        swaps = sum(1 for i, j in itertools.combinations(range(len(x)), 2) if order[i] > order[j])
        total += (-1) ** swaps * math.prod(x[i, j] for i, j in enumerate(order))
    return total


def cofactors(x: np.ndarray) -> np.ndarray:
    y = np.zeros(x.shape)
    for i, j in np.ndindex(*x.shape):
        y[i, j] = (-1) ** (i + j) * det(np.delete(np.delete(x, i, 0), j, 1))
    return y


def slogdet(x: np.ndarray) -> list[float]:
    value = det(x)
    return [math.copysign(1, value), math.log(abs(value))]


def pinv(x: np.ndarray) -> np.ndarray:
    """From the normal equations: the samples have full rank."""
    if x.shape[0] < x.shape[1]:
        return pinv(x.T).T
    square = x.T @ x
    return cofactors(square).T @ x.T / det(square)


def row_order(x: np.ndarray) -> list[int]:
    """Elimination, row by row."""
    rows, order = [list(row) for row in x], list(range(len(x)))
    for k in range(min(x.shape)):
        best = max(range(k, len(rows)), key=lambda i: abs(rows[i][k]))
        rows[k], rows[best] = rows[best], rows[k]
        order[k], order[best] = order[best], order[k]
        for row in rows[k + 1 :]:
            factor = row[k] / rows[k][k]
            row[:] = [a - factor * b for a, b in zip(row, rows[k], strict=True)]
    return order


def lu(x: np.ndarray) -> np.ndarray:
    """Doolittle: from the equations for the elements of L @ U."""
    y = np.zeros(x.shape)
    for i, j in np.ndindex(*x.shape):
        rest = x[i, j] - sum(y[i, k] * y[k, j] for k in range(min(i, j)))
        y[i, j] = rest / y[j, j] if i > j else rest
    return y


def matrix_exp(x: np.ndarray) -> np.ndarray:
    """The series, of a matrix halved ten times."""
    small = x / 1024
    term = total = np.eye(len(x))
    for k in range(1, 16):
        term = term @ small / k
        total = total + term
    return np.linalg.matrix_power(total, 1024)


def eigvals(x: np.ndarray) -> np.ndarray:
    """Roots of the characteristic polynomial (Faddeev and LeVerrier), in the order of LAPACK."""
    n = len(x)
    coefficients, step = [1.0], np.eye(n)
    for k in range(1, n + 1):
        coefficients.append(-np.trace(x @ step) / k)
        step = x @ step + coefficients[-1] * np.eye(n)
    roots = np.roots(coefficients).astype(np.complex128)
    return np.array([roots[np.abs(roots - w).argmin()] for w in np.linalg.eigvals(x)])


def eig(x: np.ndarray) -> np.ndarray:
    """Vectors that x - w takes to zero: the columns of its adjugate."""
    if not len(x):
        return np.zeros((1, 0), np.complex128)
    columns = []
    for w in eigvals(x):
        rest = x - w * np.eye(len(x))
        minors = np.array(
            [[np.linalg.det(np.delete(np.delete(rest, j, 0), i, 1)) * (-1) ** (i + j)
              for j in range(len(x))] for i in range(len(x))]
        )  # fmt: skip
        v = minors[:, np.abs(minors).sum(axis=0).argmax()]
        largest = v[np.round(np.abs(v) / np.abs(v).max(), 5).argmax()]
        columns.append(v / largest * abs(largest) / np.sqrt((np.abs(v) ** 2).sum()))
    return np.concatenate([np.stack(columns, axis=1), eigvals(x)[None]])


def over_gaps(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        *lead, i, j = place
        if i != j:
            y[place] = x[place] / (w[(*lead, j)] - w[(*lead, i)])
    return y


# --- Fourier ---


def along(axis: int, x: np.ndarray, function: Callable[[list[complex]], list[Any]]) -> np.ndarray:
    moved = np.moveaxis(x, axis, -1)
    count = len(function([0j] * moved.shape[-1]))
    found = [function(moved[place].tolist()) for place in np.ndindex(*moved.shape[:-1])]
    return np.moveaxis(np.array(found).reshape(*moved.shape[:-1], count), -1, axis)


def transform(line: list[complex], sign: int) -> list[complex]:
    n = len(line)
    return [
        sum(each * cmath.exp(sign * 2j * math.pi * j * k / n) for j, each in enumerate(line))
        for k in range(n)
    ]


def fft(x: np.ndarray, axis: int, inverse: bool) -> np.ndarray:
    return along(axis, x, lambda line: transform(line, 1 if inverse else -1))


def rfft(x: np.ndarray, axis: int) -> np.ndarray:
    return along(axis, x, lambda line: transform(line, -1)[: len(line) // 2 + 1])


def irfft(x: np.ndarray, axis: int, n: int) -> np.ndarray:
    def whole(line: list[complex]) -> list[float]:
        mirrored = [line[k] if k <= n // 2 else line[n - k].conjugate() for k in range(n)]
        mirrored[0] = mirrored[0].real
        if n % 2 == 0:
            mirrored[n // 2] = mirrored[n // 2].real
        return [each.real for each in transform(mirrored, 1)]

    return along(axis, x, whole)


MATRIX_ORACLES: dict[str, Oracle] = {
    "cholesky": each_matrix(cholesky),
    "cofactors": each_matrix(cofactors),
    "det": each_matrix(det),
    "eig": each_matrix(eig),
    "eigh": each_matrix(eigh),
    "eigvalsh": each_matrix(lambda x: eigen(x)[0]),
    "eigvals": each_matrix(eigvals),
    "fft": fft,
    "irfft": irfft,
    "lu": each_matrix(lu),
    "matrix_exp": each_matrix(matrix_exp),
    "orthogonal_complement": each_matrix(orthogonal_complement),
    "over_gaps": over_gaps,
    "pinv": each_matrix(pinv),
    "provided": lambda x, holds, why: x,
    "qr": each_matrix(qr),
    "rfft": rfft,
    "row_order": each_matrix(row_order),
    "slogdet": each_matrix(slogdet),
    "svd": each_matrix(svd),
    "svdvals": each_matrix(lambda x: svd(x)[x.shape[0]]),
}
