"""A short run of the fuzzer, and that it finds and cuts down what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schuss.execution import tiers

from . import fuzz
from .fuzz import Result, described, program_of, record, without_optimisation
from .fuzzing.check import check
from .fuzzing.compare import differing, unexplained, with_noise
from .fuzzing.jits import jit_loop
from .fuzzing.loops import loop
from .fuzzing.make import Maker
from .fuzzing.networks import network
from .fuzzing.program import Program, fenced, run
from .fuzzing.shrink import shrink


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))
    yield
    tiers.forget()


# --- what the fuzzer says of the compiler ---


@pytest.mark.parametrize("first", range(0, 30, 5))
def test_both_tiers_agree(first: int) -> None:
    """Graphs, a training loop, a jitted function."""
    for seed in range(first, first + 5):
        program = program_of(seed)
        failure = check(program, runs=(0, 1))
        assert failure is None, described(seed, failure.kind, failure.text, vars(program))


# --- what it is made of ---


def test_programs_depend_on_the_seed_alone() -> None:
    for make in (lambda seed: Maker(seed).grow(), loop, jit_loop, network):
        assert make(11) == make(11)
        assert len({make(seed).lines for seed in range(8)}) > 4


def test_scripts_run(capsys: pytest.CaptureFixture[str]) -> None:
    program = Program({"x0": "rng(0).standard_normal((2,))"}, ("v0 = x0 * 2",), ("v0",))
    exec(compile(program.script(), "<script>", "exec"), {})
    said = capsys.readouterr().out
    assert said.count("reference") == 2
    first, second = said.split("run 1")
    reference, compiled = first.split("compiled")
    assert compiled.strip() in reference
    assert second.split("compiled")[1].strip() != compiled.strip(), "each run has other numbers"


def wrong(monkeypatch: pytest.MonkeyPatch, op: str, by: float = 1e-3) -> None:
    """Let the compiled tier be off in one op, by way of its host steps."""
    from schuss.compiler.program import Program as Compiled

    right = Compiled.run

    def off(self: Any, *given: Any) -> list[np.ndarray]:
        made = right(self, *given)
        if any(value.op == op for value in self.compiled.recorded.values):
            made = [x + np.asarray(by, x.dtype) if x.dtype.kind == "f" else x for x in made]
        return made

    monkeypatch.setattr(Compiled, "run", off)


def test_a_fault_is_found_and_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "v0 = schuss.exp(x0)", "v1 = schuss.sum(x1, axis=(0,))", "v2 = v0 * v1",
        "v3 = schuss.cos(v2)", "v4 = v3 + x0", "v5 = v4.reshape((15,))",
    )  # fmt: skip
    inputs = {f"x{i}": f"rng({i}).standard_normal((3, 5))" for i in range(2)}
    program = Program(inputs, lines, ("v1", "v3", "v5"), together=False)
    assert check(program) is None
    wrong(monkeypatch, "cos")
    tiers.forget()
    failure = check(program)
    assert failure is not None
    assert failure.kind == "value"
    smaller = shrink(program, lambda each: failure.same(check(each)))
    assert len(smaller.lines) == 1
    assert "schuss.cos(" in smaller.lines[0]
    assert len(smaller.inputs) == len(smaller.outputs) == 1
    assert "(1, 1)" in next(iter(smaller.inputs.values()))


def test_a_small_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program({"x0": "rng(0).standard_normal((50,)).astype('f')"},
                      ("v0 = schuss.sin(x0) + 2", "v1 = v0.sum()"), ("v0", "v1"))  # fmt: skip
    assert check(program) is None
    wrong(monkeypatch, "sin", 1e-5)
    tiers.forget()
    assert "v0 float32[50]" in check(program).text


def test_an_error_of_one_tier_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from schuss.compiler import program as programs

    def refuse(*given: Any) -> None:
        raise KeyError("nothing for sin")

    monkeypatch.setattr(programs, "compile_graph", refuse)
    program = Program({"x0": "rng(0).standard_normal((2,))"}, ("v0 = schuss.sin(x0)",), ("v0",))
    failure = check(program)
    assert failure.kind.startswith("KeyError test_fuzz.py")
    assert "nothing for sin" in failure.text


def test_results_that_change_later_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from schuss.compiler.program import Program as Compiled

    program = Program({"x0": "rng(0).standard_normal((2,))"}, ("v0 = x0 * 3",), ("v0",))
    right = Compiled._free
    reused: list[tuple[np.ndarray, int]] = []

    def always_the_same(self: Any, *given: Any) -> tuple[np.ndarray, int]:
        reused.append(right(self, *given))
        return reused[0]

    monkeypatch.setattr(Compiled, "_free", always_the_same)
    assert check(program).kind == "value|changed"


def test_an_interrupted_hunt_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*given: Any) -> Iterator[Result]:
        yield Result(graphs=12)
        raise KeyboardInterrupt

    page = tmp_path / "FUZZ.md"
    monkeypatch.setattr(fuzz, "hunt", interrupted)
    monkeypatch.setattr(fuzz, "limit_memory", lambda: None)
    monkeypatch.setattr(fuzz.signal, "signal", lambda number, handler: None)  # ours stay
    monkeypatch.setattr("sys.argv", ["fuzz", "--seed", "100", "--record", str(page)])
    assert fuzz.main() == 0
    assert "| 100 to 111 | 12 |" in page.read_text("utf-8")
    assert "12 programs" in capsys.readouterr().out


def test_programs_run_without_optimisation(monkeypatch: pytest.MonkeyPatch) -> None:
    from schuss.compiler.cpu import translate

    for name in ("_LEVEL", "_ORDER"):  # put back in the end
        monkeypatch.setattr(translate, name, getattr(translate, name))
    text = "define i64 @one() {\n  %a = add i64 0, 1\n  ret i64 %a\n}\n"
    before = translate.translate(text, assembly=True)
    without_optimisation()
    assert translate.translate(text, assembly=True) != before
    assert check(program_of(20), runs=(0,)) is None


def test_rounding_is_no_failure() -> None:
    """Sums in another order: far apart, counted in ulps, for the large terms cancel."""
    values = np.array([1e8, 1.0, -1e8, 1.0] * 8, np.float32)
    reference = np.sum(values)
    other = np.float32(16.0)
    program = Program({"x0": "np.array([1e8, 1.0, -1e8, 1.0] * 8, np.float32)"},
                      ("v0 = x0.sum()",), ("v0",))  # fmt: skip
    moved = [
        with_noise(lambda: run(program, program.function(), 0, program.arrays(0)).values, seed)[0]
        for seed in range(8)
    ]
    a, b = np.asarray(reference), np.asarray(other)
    assert differing(a, b).any()
    assert not unexplained(a, b, moved).any()
    assert unexplained(a, np.float32(1e6) * b, moved).any()


def test_nan_has_no_sign() -> None:
    """Processors and NumPy's builds give the NaN that an op makes either sign."""
    program = Program({"x0": "np.array([-2.0, 0.5], np.float32)"},
                      ("v0 = schuss.copysign(3.0, schuss.atanh(x0))",), ("v0",))  # fmt: skip
    moved = [
        with_noise(lambda: run(program, program.function(), 0, program.arrays(0)).values, seed)[0]
        for seed in range(8)
    ]
    reference = np.array([-3.0, 3.0], np.float32)
    assert not unexplained(reference, np.array([3.0, 3.0], np.float32), moved).any()
    assert unexplained(reference, np.array([-3.0, -3.0], np.float32), moved).tolist() == [
        False,
        True,
    ]


def test_sums_of_equal_numbers_round_to_one_side() -> None:
    """NumPy's sum over the first axis is off by 13 ulps here, which all that follows shares."""
    inputs = {"x5": "rng(5).standard_normal((200, 31))"}
    lines = (
        "v0 = schuss.softmax(schuss.floor(x5), axis=0)",
        "v1 = schuss.cumulative_sum(v0, axis=0)",
    )
    assert check(Program(inputs, lines, ("v1",))) is None


def test_what_is_left_of_a_difference_may_be_nothing() -> None:
    """Equal numbers less their mean are zeros, or roundings to one side."""
    inputs = {
        "x1": "rng(2).standard_normal((1, 2)).astype(schuss.float32)",
        "x2": "rng(3).standard_normal((18,)).astype(schuss.float32)",
    }
    lines = (
        "x2[:] = -0.3",
        "v0 = schuss.cond(x2.sum() > 0.1, lambda s: s, lambda s: s * 2, x2)",
        "v1 = schuss.floor(schuss.var(v0, axis=(0,), keepdims=True)[None] @ x1)",
    )
    assert check(Program(inputs, lines, ("v1",))) is None


def test_products_may_overflow_on_the_way() -> None:
    """The factors are large, then small: it matters in which order they are multiplied."""
    inputs = {"x0": "np.repeat(np.array([1e2, 1e-2], np.float32), 64)[None]"}
    program = Program(inputs, ("v0 = x0.prod(axis=1)",), ("v0",))
    assert check(program) is None
    moved = [
        with_noise(lambda: run(program, program.function(), 0, program.arrays(0)).values, seed)[0]
        for seed in range(16)
    ]
    assert {0.0, np.inf} <= {float(each[0]) for each in moved}  # or small before large


def test_products_may_meet_a_zero_before_they_overflow() -> None:
    """Here NumPy multiplies infinity by zero."""
    inputs = {"x0": "np.array([1e20] * 8 + [0], np.float32)"}
    program = Program(inputs, ("v0 = x0.prod(axis=0)",), ("v0",))
    assert check(program) is None
    run_once = partial(run, program, program.function(), 0, program.arrays(0))
    values = [with_noise(lambda: run_once().values, seed)[0] for seed in range(8)]
    assert np.isnan(run_once().values[0])
    assert {0.0} == {float(each) for each in values if not np.isnan(each)}


def test_parts_of_a_product_may_overflow_and_others_vanish() -> None:
    """Here NumPy finds nothing left; infinity times nothing is NaN."""
    inputs = {"x0": "np.repeat(np.array([1e-3, 1e3], np.float16), 33)"}
    program = Program(inputs, ("v0 = x0.prod(axis=0)",), ("v0",))
    assert check(program) is None
    run_once = partial(run, program, program.function(), 0, program.arrays(0))
    moved = [with_noise(lambda: run_once().values, seed)[0] for seed in range(32)]
    assert any(np.isnan(each) for each in moved)


def test_functions_move_equal_numbers_alike() -> None:
    """Which of them are the largest, and so share a gradient, may hang on it."""
    inputs = {"x0": "np.repeat(np.array([3, 3.02], np.float32), 50).astype(schuss.bfloat16)"}
    program = Program(inputs, ("v0 = schuss.sigmoid(x0)",), ("v0",))
    run_once = partial(run, program, program.function(), 0, program.arrays(0))
    for seed in range(8):
        (moved,) = with_noise(lambda: run_once().values, seed)
        assert len(set(moved[:50].tolist())) == len(set(moved[50:].tolist())) == 1


def test_weights_of_attention_may_vanish() -> None:
    """A weight of 1e-45 times infinity is infinite; where it comes out as 0, the product is NaN."""
    inputs = {
        "x0": "np.array([[[1]]], np.float32)",
        "x1": "np.array([[[0], [-103.5], [-1]]], np.float32)",
        "x2": "np.array([[[1], [np.inf], [2]]], np.float32)",
    }
    line = "v0 = nn.functional.scaled_dot_product_attention(x0, x1, x2)"
    program = Program(inputs, (line,), ("v0",))
    assert check(program) is None
    run_once = partial(run, program, program.function(), 0, program.arrays(0))
    values = [with_noise(lambda: run_once().values, seed)[0] for seed in range(16)]
    assert any(np.isinf(each).all() for each in values)


def test_what_cancels_in_attention_is_no_failure() -> None:
    shapes = [(1, 2), (65531, 2), (65531, 1), (1, 65531)]
    inputs = {
        f"x{i}": f"rng({i}).standard_normal({shape}).astype(schuss.float32)"
        for i, shape in enumerate(shapes)
    }
    line = "v0 = nn.functional.scaled_dot_product_attention(x0, x1, x2, attn_mask=x3)"
    assert check(Program(inputs, (line,), ("v0",))) is None


def test_sums_of_differences_may_be_differences_of_sums() -> None:
    """What is left of a mean that was taken off is a rounding of the sum, not of the rest."""
    inputs = {
        "x0": "rng(0).standard_normal((2, 2, 2, 2)).astype(schuss.float32)",
        "x1": "rng(1).standard_normal((2, 2, 1, 1)).astype(schuss.float32)",
        "x2": "rng(2).standard_normal((2,)).astype(schuss.float32)",
    }
    lines = (
        "x2 = x2.detach(); x2.requires_grad = True",
        "v0 = nn.functional.conv2d(x0, x1, x2, padding=1)",
        "v1 = v0 - v0.mean(axis=(0, 2, 3), keepdims=True)",
        "(v1 * v1).mean().backward()",
        "v2 = x2.grad * 3",
    )
    program = Program(inputs, lines, ("v2",))
    with tiers.using("reference"):
        exact = run(program, program.function(), 0, program.arrays(0)).values[0]
    with tiers.using("compiled"):
        other = run(program, program.function(), 0, program.arrays(0)).values[0]
    assert differing(exact, other).any()
    assert check(program) is None
    moved = [
        with_noise(lambda: run(program, program.function(), 0, program.arrays(0)).values, seed)[0]
        for seed in range(8)
    ]
    assert unexplained(exact, np.float32(100) * other, moved).any()


def test_what_cancels_inside_a_loop_is_no_failure() -> None:
    """h + r is nearly 0 in one element: what rounds there shows in the last digits."""
    inputs = {
        "x1": "rng(1).standard_normal((3, 1, 3, 3)).astype(schuss.float32)",
        "x4": "rng(4).standard_normal((1, 3, 3)).astype(schuss.float32)",
    }
    step = "lambda h, r: (schuss.tanh(h + r) * 0.5,) * 2"
    program = Program(inputs, (f"v0, v1 = schuss.scan({step}, x4, x1)",), ("v1",))
    assert check(program) is None


def test_a_fault_inside_a_loop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"x0": "rng(0).standard_normal((4, 3)).astype('f')"}
    lines = ("v0, v1 = schuss.scan(lambda h, r: (schuss.tanh(h + r),) * 2, x0[0], x0)",)
    program = Program(inputs, lines, ("v1",))
    wrong(monkeypatch, "scan", 1e-5)
    found = check(program)
    assert found is not None
    assert found.kind == "value"


def test_a_few_values_of_many_may_be_anything_where_roundings_grow() -> None:
    rng = np.random.default_rng(0)
    reference, other = rng.uniform(-1, 1, (2, 1000)).astype(np.float32)
    moved = rng.uniform(-1, 1, 1000).astype(np.float32)
    shown = np.abs(other - reference) <= 4 * np.abs(moved - reference)
    few = moved.copy()
    few[~shown] = other[~shown]  # all are explained, and then all but ten
    few[np.flatnonzero(~shown)[:10]] = reference[np.flatnonzero(~shown)[:10]]
    assert not unexplained(reference, other, [few]).any()
    many = moved.copy()
    many[:100] = reference[:100]
    assert unexplained(reference, other, [many]).any()
    near = reference + np.float32(1e-4) * moved  # nothing grows
    other = reference - np.float32(2e-4) * moved
    assert not unexplained(reference, other, [near]).any()
    other[7] += np.float32(0.01)
    assert np.flatnonzero(unexplained(reference, other, [near])).tolist() == [7]


def test_what_hangs_on_a_rounding_is_no_failure() -> None:
    a, b = np.array([True, False]), np.array([False, False])
    assert unexplained(a, b, [a.copy()]).tolist() == [True, False]
    assert not unexplained(a, b, [a.copy(), b.copy()]).any()
    many = np.zeros(200, bool)  # of which all are shown to change but one
    shown = np.arange(200) > 0
    assert not unexplained(many, ~many, [shown]).any()
    assert unexplained(many, ~many, [np.arange(200) > 5]).any()


def test_fenced_arrays_hold_the_same_numbers() -> None:
    array = np.arange(2000, dtype=np.float32).reshape(4, 500)
    copy = fenced(array)
    np.testing.assert_array_equal(copy, array)
    assert (copy.ctypes.data + copy.nbytes) % 4096 == 0


def test_the_page_of_results_grows_by_a_row(tmp_path: Any) -> None:
    page = tmp_path / "FUZZ.md"
    record(page, Result(100, 90.0, 7), 0)
    record(page, Result(50, 30.0, 1, [(120, "value", "", {}), (121, "value", "", {})]), 100)
    rows = page.read_text().splitlines()[-2:]
    assert rows[0].endswith("| 0 to 99 | 100 | 2 | 7 | none |")
    assert rows[1].endswith("| 100 to 149 | 50 | 0 | 1 | 2 x value |")
