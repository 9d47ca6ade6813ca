"""Loops in compiled programs: what a step becomes, and what stays outside of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import compiler, nn
from schuss.compiler.kernel import Kernel
from schuss.compiler.merge import joined
from schuss.compiler.program import Program, compile_graph
from schuss.compiler.units import Host, Loops, Product, Repeat
from schuss.compiler.values import Value
from schuss.compiler.verify import verify
from schuss.errors import OutOfBoundsError
from schuss.execution.capture import capture
from schuss.execution.tiers import using
from schuss.graph import ancestors

RNG = np.random.default_rng(0)


def tensor(*shape: int) -> schuss.Tensor:
    return schuss.tensor(RNG.uniform(-0.5, 0.5, shape), dtype=schuss.float32)


def compiled(*results: schuss.Tensor) -> Any:
    targets = [each._node for each in results]
    order = ancestors(targets, lambda node: node.value is None)
    made = compile_graph(capture(order, set(targets)).graph())
    verify(made)
    return made


def loops_of(made: Any) -> list[Repeat]:
    return [unit for unit in made.units if isinstance(unit, Repeat)]


def rnn(x: schuss.Tensor, u: schuss.Tensor) -> schuss.Tensor:
    return schuss.scan(lambda h, x: ((new := schuss.tanh(h @ u + x)), new), x[0] * 0, x)[1]


def test_a_step_of_an_rnn_is_one_kernel() -> None:
    """The product with all that follows it, which reads and writes one history."""
    (loop,) = loops_of(compiled(rnn(tensor(5, 4, 8), tensor(8, 8))))
    (product,) = loop.units
    assert isinstance(product, Product)
    assert loop.rounds == 5
    moving = [each for each in loop.places.values() if each.memory is loop.value]
    assert [(each.offset, each.even, each.odd) for each in moving] == [
        (0, 128, 128),
        (128, 128, 128),
    ]


def test_an_lstm_is_two_kernels_a_step_each_way() -> None:
    model, x = nn.LSTM(8, 16), tensor(5, 4, 8)
    model(x)[0].sum().backward()
    loops = loops_of(compiled(*[each.grad for each in model.parameters()]))
    kinds = [sorted(type(unit).__name__ for unit in loop.units) for loop in loops]
    assert kinds == [["Loops", "Product"], ["Loops", "Product"]]


def test_carries_take_turns_where_no_history_is_kept() -> None:
    for length in (1, 2, 5):
        last, _ = schuss.scan(lambda c, _: (c * 2 + 1, None), schuss.ones((3,)), length=length)
        (loop,) = loops_of(compiled(last))
        assert {(p.even, p.odd) for p in loop.places.values() if p.memory.op == "ring"} == {
            (12, -12), (-12, 12)
        }  # fmt: skip
        with using("compiled"):
            assert last.numpy().tolist() == [2 ** (length + 1) - 1] * 3


def test_what_runs_beside_a_loop_has_waves_of_its_own() -> None:
    x, u = tensor(5, 4, 8), tensor(8, 8)
    made = compiled(rnn(x, u), schuss.exp(x), rnn(x, u * 2))
    waves = [set(step.waves) for step in made.plan.steps if isinstance(step.unit, Repeat)]
    others = [set(step.waves) for step in made.plan.steps if not isinstance(step.unit, Repeat)]
    assert len(waves) == 2
    assert not waves[0] & waves[1]
    assert not any(wave & other for wave in waves for other in others)


def test_weights_are_packed_before_the_loop() -> None:
    made = compiled(rnn(tensor(5, 32, 256), tensor(256, 256)))
    (calls,) = [each for each in made.calls if each is not None and each.rounds]
    first, last = calls.inside
    before = [call.name for group in calls.groups[:first] for call in group]
    inside = [call.name for group in calls.groups[first:last] for call in group]
    assert any(name.endswith("_pack") for name in before)
    assert not any(name.endswith("_pack") for name in inside)


def test_two_threads_have_as_many_parts_of_a_kernel_in_a_step() -> None:
    model, x = nn.LSTM(8, 256), tensor(3, 32, 8)
    model(x)[0].sum().backward()
    made = compiled(*[each.grad for each in model.parameters()])
    parts = []
    for calls in made.calls:
        if calls is not None and calls.rounds:
            groups = calls.groups[slice(*calls.inside)]
            parts += [c.parts for group in groups for c in group if c.name.startswith("loops_")]
    assert parts == [4, 4]


def test_a_step_that_needs_the_host_leaves_the_loop_to_it() -> None:
    def step(c: Any, x: Any) -> Any:
        return schuss.sort(c + x), c

    x = tensor(4, 5)
    last, _ = schuss.scan(step, schuss.zeros((5,)), x)
    made = compiled(last)
    assert any(isinstance(unit, Host) and unit.value.op == "scan" for unit in made.units)
    expected = np.zeros(5, np.float32)
    for row in x.numpy():
        expected = np.sort(expected + row)
    with using("compiled"):
        np.testing.assert_allclose(last.numpy(), expected, rtol=1e-6)


def sums(h: Any, rows: Any) -> Any:
    return schuss.scan(lambda h, x: (schuss.tanh(h + x), None), h, rows)[0], h


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_of_a_loop_on_the_host_are_programs(reverse: bool) -> None:
    """So a loop in a loop is compiled, and so is what stands around a sort."""
    x, at = tensor(4, 6, 5), schuss.tensor([3, 0, 5, 1])

    def nested(h: Any, given: Any) -> Any:
        rows, i = given
        last, old = sums(h, rows)
        return schuss.sort(last) * rows[i], (old, i * 2)

    found = {}
    for tier in ("reference", "compiled"):
        with using(tier):
            last, (ys, numbers) = schuss.scan(nested, schuss.ones((5,)), (x, at), reverse=reverse)
            found[tier] = [each.numpy() for each in (last, ys, numbers)]
    for a, b in zip(found["reference"], found["compiled"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    program = Program(compiled(schuss.scan(sums, schuss.zeros((5,)), x)[0]))
    (steps,) = program._steps.values()
    assert loops_of(steps.program.compiled)
    (loop,) = [unit for unit in program.compiled.units if isinstance(unit, Host)]
    before = program._arena
    assert steps.program._arena is not before  # both have values there at the same time
    assert loop.value.op == "scan"


def test_an_index_outside_in_a_loop_in_a_loop_is_named() -> None:
    def look(c: Any, i: Any) -> Any:
        return schuss.scan(lambda c, _: (x[c + i], None), c, length=2)[0], None

    x, places = schuss.tensor([0, 0, 0, 0]), schuss.tensor([0, 9])
    with using("compiled"), pytest.raises(OutOfBoundsError, match="index 9 is outside axis 0"):
        schuss.scan(look, x[0], places)[0].item()


@pytest.mark.parametrize("reverse", [False, True])
def test_strided_inputs(reverse: bool) -> None:
    """Rows and weights that are views of other memory are read where they are."""
    x, u = tensor(4, 9, 2, 8), tensor(2, 8, 8)
    found = {}
    for tier in ("reference", "compiled"):
        with using(tier):
            rows = x.permute_dims((1, 2, 0, 3))[:, 1, :, ::-1]  # (9, 4, 8)
            w = u[1].T
            f = lambda h, x, w=w: ((new := schuss.tanh(h @ w + x)), new[:, :3])
            found[tier] = schuss.scan(f, schuss.zeros((4, 8)), rows, reverse=reverse)[1].numpy()
    np.testing.assert_allclose(found["compiled"], found["reference"], rtol=1e-5, atol=1e-6)


def test_loops_are_shown() -> None:
    text = compiler.show(rnn, tensor(5, 4, 8), tensor(8, 8), stages=("simplified", "units", "plan"))
    assert "loop=<5 steps of <body of " in text
    assert "repeat for 5 rounds:" in text
    assert "+ 128 each" in text
    assert ": repeat -> %" in text


def test_checked_against_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from schuss.execution import tiers

    monkeypatch.setattr(tiers, "_checks", True)
    model, x = nn.LSTM(8, 16, bidirectional=True), tensor(5, 4, 8)
    model(x)[0].sum().backward()
    with using("compiled"):
        schuss.evaluate(*[each.grad for each in model.parameters()])
        assert schuss.last_run().tier == "both"


# --- merging ---


def value(number: int, *shape: int) -> Value:
    made = Value("input", (), {}, shape, schuss.float32)
    made.number = number
    return made


def chain(
    source: Value, target: Value, sizes: tuple[int, ...], step: tuple[int, ...], op: str
) -> Kernel:
    kernel = Kernel(sizes, len(sizes))
    line = kernel.add("load", (), schuss.float32, (kernel.word(source), step))
    kernel.store(target, step, kernel.add(op, (line,), schuss.float32), schuss.float32)
    return kernel


def test_merged_kernels_keep_values_in_registers() -> None:
    x, y, z = value(0, 6), value(1, 6), value(2, 6)
    first = chain(x, y, (6,), (1, 0), "exp")
    second = chain(y, z, (2, 3), (3, 1, 0), "negative")
    merged = joined([first, second])
    assert merged is not None
    assert [line.op for line in merged.lines] == ["load", "exp", "negative"]
    assert merged.written() == [y, z]
    assert joined([first, second], {y}).written() == [z]  # type: ignore[union-attr]


def test_what_is_read_elsewhere_is_not_merged() -> None:
    x, y, z = value(0, 6), value(1, 6), value(2, 6)
    first = chain(x, y, (6,), (1, 0), "exp")
    assert joined([first, chain(y, z, (6,), (-1, 5), "exp")]) is None
    assert joined([first, chain(y, z, (5,), (1, 0), "exp")]) is None
    assert isinstance(Loops(first), Loops)
