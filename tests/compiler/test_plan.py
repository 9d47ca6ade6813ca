"""Waves, the arena, and memory that outputs take over."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.compiler.graphs import filled, recorded

import schuss
from schuss.compiler.program import Program, _pooled, compile_graph
from schuss.compiler.verify import verify


def planned(*tensors: Any) -> Any:
    compiled = compile_graph(recorded(*tensors))
    verify(compiled)
    return compiled


def test_values_that_do_not_meet_share_memory() -> None:
    x = filled(64, 64)
    y = x
    for _ in range(6):
        y = y @ x  # each product needs the one before only
    compiled = planned(y)
    assert compiled.plan.arena <= 4 * 64 * 64 * 4 + 4096


def test_independent_products_share_a_wave() -> None:
    x = filled(8, 8)
    plan = planned(x @ x, x @ x.mT).plan
    assert {step.start for step in plan.steps} == {0}


def test_an_update_may_take_over_its_parameter() -> None:
    p, g = filled(100), filled(100)
    compiled = planned(p - g * 0.1)
    ((output, source),) = compiled.plan.donations.items()
    assert output.op == "subtract"
    assert source.op == "input"


def test_not_while_another_step_reads_the_old_value_later() -> None:
    p, x = filled(8, 8), filled(8, 8)
    updated = p - x * 0.1
    after = schuss.sum(updated) * p  # needs the update and the old value
    compiled = planned(updated, after)
    sources = [each.number for each in compiled.plan.donations.values()]
    assert 0 not in sources


def test_not_what_a_product_reads_for_other_places() -> None:
    x, w = filled(8, 8), filled(8, 8)
    assert not planned(x @ w + x).plan.donations
    assert not planned(w @ x + x).plan.donations
    (source,) = planned(x @ w + filled(8, 8)).plan.donations.values()
    assert source.op == "input"


def test_weights_are_packed_just_before_they_are_used() -> None:
    x, first, second = filled(2, 3, 8, 8), filled(4, 3, 3, 3), filled(5, 4, 3, 3)
    y = schuss.nn.functional.conv2d(schuss.nn.functional.conv2d(x, first), second)
    plan = planned(y).plan
    starts = [step.start for step in plan.steps if type(step.unit).__name__ == "Panels"]
    assert starts == [0, 1]


def test_an_input_that_an_output_is_a_view_of_stays() -> None:
    p = filled(100)
    compiled = planned(p - 0.5 * p, p.detach())
    assert not compiled.plan.donations


def test_dying_inputs_are_overwritten_and_others_are_not() -> None:
    p, g = filled(100), filled(100)
    program = Program(planned(p - g * 0.1))
    assert [each.shape for each in program.compiled.simplified.inputs] == [(100,), (), (100,)]
    old = np.arange(100, dtype=np.float32)
    arrays = [np.ones(100, np.float32), np.asarray(0.1, np.float32), old]
    (kept,) = program.run(arrays, [False, False, False])
    assert kept is not old
    assert old[5] == 5
    (taken,) = program.run(arrays, [True, False, True])
    assert taken is old or taken is arrays[0]
    np.testing.assert_array_equal(taken, kept)


def test_results_that_somebody_holds_are_not_written_over() -> None:
    x = filled(10)
    program = Program(planned(x * 2.5))
    arrays = [np.ones(10, np.float32), np.asarray(2.5, np.float32)]
    (first,) = program.run(arrays)
    view = first[2:]
    del first
    arrays[0] = np.zeros(10, np.float32)
    program.run(arrays)
    program.run(arrays)
    np.testing.assert_array_equal(view, np.full(8, 2.5))


def pooled(program: Program) -> list[np.ndarray]:
    return [array for pool in program._pools for array, _ in pool]


def test_memory_of_another_program_is_taken_over() -> None:
    p, g = filled(100), filled(100)
    one, other = (Program(planned(p - g * 0.1)) for _ in range(2))
    given = [np.ones(100, np.float32), np.asarray(0.1, np.float32), np.ones(100, np.float32)]
    taken = next(i for i in range(3) if i in other.donors)
    (made,) = one.run(given)
    (kept,) = other.run(given)
    assert other.owns(made)
    assert pooled(other)[0] is kept
    given[taken] = made
    dying = [i == taken for i in range(3)]
    (again,) = other.run(given, dying)
    assert again is made
    assert pooled(other) == [], "it needs no memory of its own as long as this goes on"
    assert not other.owns(kept)
    (last,) = other.run([np.ones(100, np.float32) if i == taken else each
                         for i, each in enumerate(given)])  # fmt: skip
    assert last is not made
    assert other.owns(last)


def test_programs_give_back_what_nobody_uses() -> None:
    x = filled(10)
    program = Program(planned(x * 2.5))
    arrays = [np.ones(10, np.float32), np.asarray(2.5, np.float32)]
    (first,) = program.run(arrays)
    (second,) = program.run(arrays)
    number = id(second)
    assert number in _pooled
    del second
    program.give_back()
    assert len(pooled(program)) == 1
    assert pooled(program)[0] is first
    assert number not in _pooled
