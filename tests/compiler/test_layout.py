"""The order in memory of what templates write."""

from __future__ import annotations

import pytest
from tests.compiler.graphs import agree, filled, numbers, recorded

from schuss.compiler.program import compile_graph
from schuss.compiler.units import Convolution, Loops
from schuss.compiler.verify import verify
from schuss.nn import functional as F  # noqa: N812


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
    agree(f, numbers(2, 40, 8, 8), numbers(40, 20, 3, 3), rtol=2e-5)
