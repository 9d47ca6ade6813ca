"""What holds for every op in the registry: one test for each op and aspect, over all samples."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import dtypes
from schuss.errors import DTypeError
from schuss.execution.evaluate import watchers
from schuss.execution.tiers import using
from schuss.functions.arguments import adopt
from schuss.graph import OUTPUT, REGISTRY, Node, Op, Sample, apply
from schuss.ops.elementwise import alias

from .oracles import ORACLES

NAMES = sorted(REGISTRY)
SINGLE_ONLY = {  # LAPACK and FFTs know no half precisions
    "cholesky", "cofactors", "det", "eig", "eigh", "eigvals", "eigvalsh", "lu", "matrix_exp",
    "orthogonal_complement", "over_gaps", "pinv", "qr", "rfft", "row_order", "slogdet", "solve",
    "svd", "svdvals",
}  # fmt: skip


def samples_of(name: str) -> list[Sample]:
    return REGISTRY[name].samples(np.random.default_rng(zlib.crc32(name.encode())))


def is_floating(x: np.ndarray) -> bool:
    return dtypes.is_floating(x.dtype)


def run(op: Op, inputs: list[np.ndarray], attributes: dict[str, Any]) -> schuss.Tensor:
    return apply(op, *[adopt(np.asarray(x)) for x in inputs], **attributes)


def is_inexact(x: np.ndarray) -> bool:
    return dtypes.is_inexact(x.dtype)


def smooth_samples(name: str) -> list[Sample]:
    return [s for s in samples_of(name) if s.differentiate and any(is_inexact(x) for x in s.inputs)]


DIFFERENTIABLE = [name for name in NAMES if REGISTRY[name].gradient is not None]
OF_FLOATS = [
    name for name in NAMES if any(is_floating(x) for s in samples_of(name) for x in s.inputs)
]


# --- the record is complete ---


def test_every_op_has_an_oracle() -> None:
    assert sorted(ORACLES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_record(name: str) -> None:
    op = REGISTRY[name]
    samples = samples_of(name)
    assert op.name == name
    assert op.doc
    assert "\n" not in op.doc
    assert samples, "an op without samples is an op without tests"
    if op.gradient is None:
        assert op.saves == (), "what has no rules has nothing to keep"
        return
    assert any(x.size for s in smooth_samples(name) for x in s.inputs), (
        "no sample to differentiate at"
    )
    if not op.variadic:
        assert len(op.gradient) >= max(len(s.inputs) for s in samples)
    for sample in samples:
        for rule, x in zip(op.gradient, sample.inputs, strict=False):
            assert (rule is not None) == is_inexact(x), "rules belong to the inexact inputs"


# --- the value ---


@pytest.mark.parametrize("name", NAMES)
def test_recorded_shape_and_dtype(name: str) -> None:
    op = REGISTRY[name]
    for sample in samples_of(name):
        y = run(op, sample.inputs, sample.attributes)
        value = np.asarray(op.reference(*sample.inputs, **sample.attributes))
        assert y.shape == value.shape
        assert y.dtype == value.dtype


@pytest.mark.parametrize("name", NAMES)
def test_reference_against_oracle(name: str) -> None:
    op = REGISTRY[name]
    for sample in samples_of(name):
        y = run(op, sample.inputs, sample.attributes).numpy()
        expected = np.asarray(ORACLES[name](*sample.inputs, **sample.attributes))
        assert y.shape == expected.shape
        np.testing.assert_allclose(wide(y), wide(expected), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_not_modified(name: str) -> None:
    op = REGISTRY[name]
    for sample in samples_of(name):
        inputs = [x.copy() for x in sample.inputs]
        before = [x.copy() for x in inputs]
        op.reference(*inputs, **sample.attributes)
        for x, old in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(x, old)


def spread_out(x: np.ndarray) -> np.ndarray:
    """The same values, every second element of a larger array in Fortran order."""
    roomy = np.zeros(tuple(2 * n for n in x.shape), x.dtype, order="F")
    view = roomy[(..., *[slice(None, None, 2)] * x.ndim)]
    view[...] = x
    return view


def backwards(x: np.ndarray) -> np.ndarray:
    """The same values, stored from the last to the first."""
    turn = (..., *[slice(None, None, -1)] * x.ndim)
    return x[turn].copy()[turn]


@pytest.mark.parametrize("name", NAMES)
def test_strides_do_not_matter(name: str) -> None:
    op = REGISTRY[name]
    for sample in samples_of(name):
        plain = [np.ascontiguousarray(x).reshape(x.shape) for x in sample.inputs]
        expected = run(op, plain, sample.attributes).numpy()
        for restride in (spread_out, backwards):
            y = run(op, [restride(x) for x in plain], sample.attributes).numpy()
            np.testing.assert_allclose(wide(y), wide(expected), rtol=1e-12, atol=1e-13)


def wide(x: np.ndarray) -> np.ndarray:
    """Small floats as float64, so that NumPy's comparisons know them."""
    if x.dtype == np.complex64:
        return x.astype(np.complex128)
    return x.astype(np.float64) if x.dtype in dtypes.HALF or x.dtype == np.float32 else x


# --- the compiled tier ---

POSITIONS = {"gather", "scatter", "scatter_add", "checked_index", "random_bits"}  # hold indices
OF_GRADIENTS = {"masked_product"}  # which are floating
LAYOUTS = (np.ascontiguousarray, spread_out, backwards)


def as_dtype(x: np.ndarray, dtype: np.dtype, op: Op) -> np.ndarray:
    """A sample's input in another dtype: whole numbers for integers, positive where unsigned."""
    if dtypes.is_complex(dtype):
        return (np.nan_to_num(x, posinf=2, neginf=-2) * (1 + 0.5j) - 0.2j).astype(dtype)
    if dtypes.is_integral(dtype):
        if is_floating(x):
            x = np.round(3 * np.nan_to_num(x, posinf=2, neginf=-2))
        if dtype in dtypes.UNSIGNED or op.name == "power":
            x = np.abs(x)
    return x.astype(dtype)


def in_dtype(op: Op, sample: Sample, dtype: np.dtype) -> Sample | None:
    """The sample in another dtype; None where the op does not know that dtype."""
    if any(dtypes.is_complex(x.dtype) for x in sample.inputs) and not dtypes.is_complex(dtype):
        return None
    if op.name in (*OF_GRADIENTS, "scan") and not dtypes.is_floating(dtype):
        return None  # a step of a loop is made of ops that may know floats alone
    moved = [dtypes.is_inexact(x.dtype) for x in sample.inputs]
    if not any(moved) and op.name not in POSITIONS:
        truths = all(x.dtype == np.bool_ for x in sample.inputs)
        moved = [op.name in ("any", "all") or not truths] * len(moved)
    inputs = [
        as_dtype(x, dtype, op) if move else x for x, move in zip(sample.inputs, moved, strict=True)
    ]
    made = dataclasses.replace(sample, inputs=inputs)
    try:
        with using("reference"):
            run(op, inputs, sample.attributes).numpy()
    except (TypeError, AssertionError, np.exceptions.ComplexWarning):  # as NumPy or `infer` says
        return None
    return made


def cases(name: str) -> list[Sample]:
    """Every sample, laid out in one of three ways, and every dtype that the op knows.

    Not all of both: a test stays a second.
    """
    op, samples = REGISTRY[name], samples_of(name)
    made = []
    for i, sample in enumerate(samples):
        laid = [LAYOUTS[i % 3](np.asarray(x)).reshape(x.shape) for x in sample.inputs]
        made.append(dataclasses.replace(sample, inputs=laid))
    filled = [s for s in samples if all(x.size > 1 for x in s.inputs)] or samples
    for i, dtype in enumerate(dtypes.ALL):
        sample = in_dtype(op, filled[i % len(filled)], dtype)
        if sample is not None:
            made.append(sample)
    return made


def assert_near(found: np.ndarray, expected: np.ndarray, sample: Sample) -> None:
    """Equal up to a few roundings of the dtype, in proportion to the largest number."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if not dtypes.is_inexact(expected.dtype):
        np.testing.assert_array_equal(found, expected)
        return
    precision = float(schuss.finfo(dtypes.real_of(expected.dtype)).eps)
    a = found.astype(np.complex128) if dtypes.is_complex(found.dtype) else wide(found)
    b = expected.astype(np.complex128) if dtypes.is_complex(found.dtype) else wide(expected)
    scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
    np.testing.assert_allclose(a, b, rtol=8 * precision, atol=8 * precision * scale)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_agrees_with_the_reference(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All cases in one evaluation, for each takes a few milliseconds to compile."""
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))
    op, found = REGISTRY[name], {}
    for tier in ("reference", "compiled"):
        with using(tier):
            results = [run(op, sample.inputs, sample.attributes) for sample in cases(name)]
            schuss.evaluate(*results)
            assert schuss.last_run().tier == tier
            found[tier] = [each.numpy() for each in results]
    for sample, a, b in zip(cases(name), found["compiled"], found["reference"], strict=True):
        assert_near(a, b, sample)


@pytest.mark.parametrize("name", NAMES)
def test_cases_cover_the_dtypes(name: str) -> None:
    """That no cast quietly makes the test above one of float64 alone."""
    seen = {x.dtype for sample in cases(name) for x in sample.inputs}
    if name in OF_FLOATS and name not in SINGLE_ONLY:
        assert seen >= set(dtypes.FLOATING)
    if name in ("add", "multiply", "maximum", "equal", "sum", "gather", "concat", "matmul"):
        assert seen >= set(dtypes.REAL)


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float16, dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("name", OF_FLOATS)
def test_smaller_floats_agree_with_float64(name: str, dtype: np.dtype) -> None:
    op = REGISTRY[name]
    if name in SINGLE_ONLY and dtype in dtypes.HALF:
        sample = samples_of(name)[0]
        with pytest.raises(DTypeError, match=f"{name}: needs float32"):
            run(op, [x.astype(dtype) for x in sample.inputs], sample.attributes)
        return
    tolerance = 4 * float(schuss.finfo(dtype).eps)
    for sample in samples_of(name):
        inputs = [x.astype(dtype) if is_floating(x) else x for x in sample.inputs]
        y = run(op, inputs, sample.attributes)
        value = y.numpy()  # evaluation asserts that the dtype is the recorded one
        same = run(
            op, [x.astype(np.float64) if is_floating(x) else x for x in inputs], sample.attributes
        )
        if "dtype" not in sample.attributes:
            halved = dtypes.complex64 if dtypes.is_complex(same.dtype) else dtype
            assert y.dtype == (halved if dtypes.is_inexact(same.dtype) else same.dtype)
        if name in ("nextafter", "random_gamma", "random_poisson"):
            continue  # depends on the dtype, or jumps with its parameter
        expected = wide(same.numpy())
        scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
        longest = max((x.size for x in inputs), default=1) if name == "cumsum" else 1
        error = tolerance * (scale + longest * float(schuss.finfo(dtypes.float32).eps))
        np.testing.assert_allclose(wide(value), expected, rtol=tolerance, atol=error)


# --- the gradient ---


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    op = REGISTRY[name]
    for sample in smooth_samples(name):
        moving = [i for i, x in enumerate(sample.inputs) if is_inexact(x)]
        held = [adopt(np.asarray(x)) for x in sample.inputs]

        def f(*tensors: schuss.Tensor, held=held, moving=moving, sample=sample) -> schuss.Tensor:
            inputs = list(held)
            for i, each in zip(moving, tensors, strict=True):
                inputs[i] = each
            return apply(op, *inputs, **sample.attributes)

        schuss.check_gradients(f, [sample.inputs[i] for i in moving])


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DIFFERENTIABLE)))
def test_not_differentiable_by_declaration(name: str) -> None:
    op = REGISTRY[name]
    for sample in samples_of(name):
        inputs = [adopt(np.asarray(x)) for x in sample.inputs]
        for x in inputs:
            if dtypes.is_floating(x.dtype):
                x.requires_grad = True
        assert not apply(op, *inputs, **sample.attributes).requires_grad


REAL_ONLY = {  # by nature, or because complex numbers have no order
    "atan2", "attention", "attention_gradient", "copysign", "eigh", "erf", "erfc", "erfcx",
    "erfinv", "first_max", "i0e", "i1e", "lgamma", "logcumsumexp", "max", "maximum", "min",
    "minimum", "ndtri",
    "nextafter", "polygamma", "provided", "qr", "relu", "remainder", "rfft", "slogdet", "svd",
}  # fmt: skip
# What is no multiplication by a derivative at a real point has it beside the branch cuts.
COMPLEX = [
    name for name in DIFFERENTIABLE if name not in REAL_ONLY and any(
        is_floating(x) for s in smooth_samples(name) for x in s.inputs
    )
]  # fmt: skip


@pytest.mark.parametrize("name", COMPLEX)
def test_gradients_of_complex_numbers(name: str) -> None:
    """The same samples, moved off the real line. (Factors with free phases have their own test.)"""
    op = REGISTRY[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for sample in smooth_samples(name):
        if "dtype" in sample.attributes:
            continue
        inputs = [
            x + 0.3j * rng.uniform(0.2, 1.0, x.shape)
            if is_floating(x) and i not in KEPT_REAL.get(name, ())
            else x
            for i, x in enumerate(sample.inputs)
        ]
        moving = [i for i, x in enumerate(inputs) if is_inexact(x)]
        held = [adopt(np.asarray(x)) for x in inputs]

        def f(*tensors: schuss.Tensor, held=held, moving=moving, sample=sample) -> schuss.Tensor:
            full = list(held)
            for i, each in zip(moving, tensors, strict=True):
                full[i] = each
            return apply(op, *full, **sample.attributes)

        schuss.check_gradients(f, [inputs[i] for i in moving])


KEPT_REAL = {"over_gaps": (1,)}


# --- what evaluation keeps for backward ---


@contextmanager
def watching() -> Iterator[list[Node]]:
    """The nodes that run inside."""
    ran: list[Node] = []
    watchers.append(ran.append)
    try:
        yield ran
    finally:
        watchers.remove(ran.append)


def computed_again(op: Op, sample: Sample) -> list[Node]:
    """The nodes of the forward pass that a backward pass runs again, when only the result was held.

    The op stands between aliases, so that nobody but the engine keeps its inputs and its result.
    """
    leaves = [adopt(np.asarray(x)) for x in sample.inputs]
    for leaf in leaves:
        leaf.requires_grad = dtypes.is_inexact(leaf.dtype)
    y = apply(alias, apply(op, *[apply(alias, leaf) for leaf in leaves], **sample.attributes))
    forward_ends = y._node.number
    y.numpy()
    y.backward(adopt(np.ones(y.shape)))
    with watching() as ran:
        schuss.evaluate(*[leaf.grad for leaf in leaves if leaf.grad is not None])
    return [node for node in ran if node.number <= forward_ends]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_saves_what_the_rules_look_at(name: str) -> None:
    for sample in smooth_samples(name):
        assert computed_again(REGISTRY[name], sample) == []


SAVING = [name for name in DIFFERENTIABLE if REGISTRY[name].saves]


@pytest.mark.parametrize("name", SAVING)
def test_saves_nothing_else(name: str) -> None:
    """Without any one of the saved values, something has to run again."""
    op = REGISTRY[name]
    samples = smooth_samples(name)
    inputs = max(len(sample.inputs) for sample in samples)
    for index in op.saves:
        if index >= inputs:
            continue  # room for more inputs than any sample has
        forgetful = dataclasses.replace(op, saves=tuple(i for i in op.saves if i != index))
        what = "the result" if index == OUTPUT else f"input {index}"
        assert any(computed_again(forgetful, sample) for sample in samples), f"{what} is not needed"
