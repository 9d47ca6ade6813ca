"""Where the elements of values lie that only live inside."""

from __future__ import annotations

from typing import Any

import pytest
from tests.compiler.graphs import agree, filled, numbers, recorded

import schuss
from schuss.compiler.cpu.host import host
from schuss.compiler.layout import layout
from schuss.compiler.program import Program, compile_graph
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Convolution, Loops
from schuss.compiler.values import Graph, Value
from schuss.compiler.verify import verify
from schuss.nn import functional as F  # noqa: N812

PAGE = 1024  # elements of float32


def laid_out(*tensors: Any) -> Graph:
    return layout(simplify(recorded(*tensors)))


def named(graph: Graph, op: str) -> list[Value]:
    return [value for value in graph.values if value.op == op]


def test_rows_of_whole_pages_are_moved_apart_for_a_product() -> None:
    x, w = schuss.ones((2, 64, PAGE)), schuss.ones((PAGE, 4))
    graph = laid_out(schuss.exp(x.reshape(128, PAGE) + 1.0) @ w)
    (made,) = named(graph, "exp")
    assert made.strides == (PAGE + 16, 1)
    assert made.pitch == PAGE + 16
    assert made.room == 4 * (127 * (PAGE + 16) + PAGE)


def test_rows_stay_dense_where_nothing_is_gained_or_somebody_looks() -> None:
    x, w = schuss.ones((128, PAGE)), schuss.ones((PAGE, 4))
    assert named(laid_out(schuss.exp(x[:64]) @ w), "exp")[0].strides is None  # few rows
    narrow = laid_out(schuss.exp(x[:, 1:]) @ w[1:])
    assert named(narrow, "exp")[0].strides is None  # no whole pages
    y = schuss.exp(x)
    assert named(laid_out(y @ w, y), "exp")[0].strides is None  # an output
    assert named(laid_out(y @ w, y.reshape(-1)), "exp")[0].strides is None  # a view of it is
    assert named(laid_out(y @ w, schuss.sort(y)), "exp")[0].strides is None  # the host reads it


def test_a_reshape_finds_rows_that_lie_apart() -> None:
    def f(x: Any, v: Any, w: Any) -> Any:
        h = schuss.exp((x.reshape(2, 64, 8) @ v) / 9)
        return h.reshape(128, PAGE) @ w, h.sum(axis=(0, 1)), h.sum(axis=2)

    arrays = numbers(128, 8), numbers(8, PAGE, seed=1), numbers(PAGE, 4, seed=2)
    agree(f, *arrays, rtol=1e-4)
    x, v, w = map(schuss.tensor, arrays)
    compiled = compile_graph(recorded(*f(x, v, w)))
    verify(compiled)
    assert any(value.strides for value in compiled.simplified.values if value.op == "exp")


def test_large_results_of_products_are_written_past_the_caches() -> None:
    large, small = schuss.ones((1024, 512)), schuss.ones((1023, 512))
    w = schuss.ones((512, 512))
    for x, expected in ((large, True), (small, False)):
        graph = laid_out(schuss.exp(x @ w) @ w)
        (made,) = named(graph, "exp")
        assert made.is_streamed is expected
    made = schuss.exp(large @ w)
    assert not named(laid_out(made @ w, made), "exp")[0].is_streamed


def test_what_is_written_past_the_caches_is_right() -> None:
    def f(x: Any, w: Any) -> Any:
        return schuss.exp(x @ w) @ schuss.abs(w.T)

    for columns in (528, 521):  # whole lines, and not
        arrays = numbers(1024, 16) / 9, numbers(16, columns, seed=1) / 9
        agree(f, *arrays, rtol=1e-4)
        compiled = compile_graph(recorded(f(*map(schuss.tensor, arrays))))
        texts = [call.source.text for calls in compiled.calls if calls for call in calls.groups[-1]]
        in_lines = columns % 16 == 0 and host().is_x86 and host().vector_bits == 512
        assert any("nontemporal" in text for text in texts) is in_lines


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_results_of_groups_whose_outputs_do_not_fill_lines(groups: int) -> None:
    """The second group's outputs begin in the middle of a line: not to be written past the caches.

    A vector that is must lie on a line of its own, or the processor refuses it.
    """

    def f(x: Any, w: Any) -> Any:
        y = F.conv2d(x, w, padding=1, groups=groups) / 9
        made = schuss.tanh(schuss.sin(schuss.exp(schuss.tanh(y))))  # too dear to compute twice
        return made.sum(axis=(0, 2, 3)), (made * made).sum(axis=1)

    arrays = numbers(8, 16, 40, 40), numbers(48, 16 // groups, 3, 3, seed=1)
    compiled = compile_graph(recorded(*f(*map(schuss.tensor, arrays))))
    assert any(v.is_streamed for u in compiled.units for v in u.writes() if v.op == "tanh")
    agree(f, *arrays, rtol=1e-4)


def test_what_is_made_of_constants_lies_dense() -> None:
    """It is computed once, into memory of its own."""
    x, w = numbers(PAGE, 3), numbers(128, PAGE, seed=1)
    graph = recorded(schuss.exp(schuss.tensor(w)) @ schuss.tensor(x))
    weight = next(value for value in graph.inputs if value.shape == w.shape)
    weight.array = w
    compiled = compile_graph(graph)
    made = [value for value in compiled.simplified.values if value.op == "exp"]
    assert made
    assert not any(value.strides for value in made)
    Program(compiled)


def test_pitch() -> None:
    def value(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Value:
        return Value("input", (), {}, shape, filled(1).dtype, strides=strides)

    assert value((3, 4), None).pitch == 4
    assert value((), None).pitch == value((3, 0), None).pitch == 1
    assert value((2, 3, 4), (18, 6, 1)).pitch == 6
    assert value((2, 3, 4), (17, 6, 1)).pitch == 0  # matrices apart
    assert value((3, 4), (1, 3)).pitch == 0  # turned
    assert value((3, 4), (0, 1)).pitch == 0  # all rows are one
    assert value((4,), (2,)).pitch == 0
    assert value((3, 4), (6, 1)).room == 4 * 16


def test_operands_of_one_axis_and_none() -> None:
    x = schuss.ones(4096)
    assert laid_out(schuss.exp(x) @ x, schuss.exp(x[0]).reshape(1, 1) @ x[:1]).kept == set()


def test_attention_seen_in_another_order_is_an_output_like_others() -> None:
    def f(q, k, v):
        return F.scaled_dot_product_attention(q, k, v).permute(0, 2, 1, 3)

    agree(f, *[numbers(2, 3, 8, 4, seed=i) for i in range(3)])


def gradient_of_weights(x, w):
    w.requires_grad = True
    F.conv2d(x, w, padding=1).sum().backward()
    return w.grad


VIEWS = {
    "itself": lambda g: g,
    "turned": lambda g: g.permute(1, 0, 2, 3),
    "flat": lambda g: g.reshape(20, -1),
    "cut": lambda g: g[3:, 1:],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_of_gradients_of_weights_are_outputs_like_others(view) -> None:
    agree(lambda x, w: view(gradient_of_weights(x, w)), numbers(2, 5, 8, 8), numbers(20, 5, 3, 3))


def test_the_update_of_a_weight_is_one_transposition() -> None:
    x, w = filled(2, 5, 8, 8), filled(20, 5, 3, 3)
    graph = recorded(w - 0.1 * gradient_of_weights(x, w))
    compiled = compile_graph(graph)
    verify(compiled)
    gradient = next(u for u in compiled.units if isinstance(u, Convolution))
    (made,) = gradient.writes()
    assert made.strides == (5 * 9 * 20, 20, 9 * 20, 1)  # (1, taps, channels, outputs)
    update = next(u for u in compiled.units if isinstance(u, Loops) and made in u.reads())
    assert update.kernel.sizes == (20, 45)


def test_updates_of_weights_agree_with_the_reference() -> None:
    def f(x, w):
        return w - 0.1 * gradient_of_weights(x, w)

    for weights in ((20, 5, 3, 3), (20, 5, 1, 1), (20, 5, 1, 3)):
        agree(f, numbers(2, 5, 8, 8), numbers(*weights))


def test_gradients_of_grouped_weights_agree_with_the_reference() -> None:
    def f(x, w):
        w.requires_grad = True
        F.conv2d(x, w, padding=1, groups=2).sum().backward()
        return w - 0.1 * w.grad

    agree(f, numbers(2, 10, 8, 8), numbers(20, 5, 3, 3))
    agree(f, numbers(2, 2, 8, 8), numbers(6, 1, 3, 3))
    # Sums of 128 numbers come to some 50, and may cancel the weights.
    agree(f, numbers(2, 40, 8, 8), numbers(40, 20, 3, 3), atol=5e-6)
