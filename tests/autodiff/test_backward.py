"""`backward()`: what arrives in `.grad`, and what does not."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import schuss
from schuss.errors import DTypeError, GradientError, ShapeError
from schuss.execution.evaluate import watchers


def leaf(values, dtype=schuss.float64) -> schuss.Tensor:
    return schuss.tensor(values, dtype=dtype, requires_grad=True)


def test_gradient_of_a_scalar() -> None:
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 4]
    assert x.grad.dtype == x.dtype
    assert not x.grad.requires_grad


def test_one_element_of_any_rank_counts_as_scalar() -> None:
    x = leaf([[3.0]])
    (x * x).backward()
    assert x.grad.tolist() == [[6]]


def test_two_passes_add_up() -> None:
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert x.grad.tolist() == [5, 7]


def test_grad_none_starts_anew() -> None:
    x = leaf([1.0])
    x.sum().backward()
    x.grad = None
    (2 * x).sum().backward()
    assert x.grad.tolist() == [2]


def test_gradient_argument() -> None:
    x = leaf([1.0, 2.0])
    (x * x).backward(schuss.tensor([1.0, 10.0]))
    assert x.grad.tolist() == [2, 40]


def test_gradient_of_another_shape_is_refused() -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(
        ShapeError, match="the gradient must have the shape of the tensor"
    ) as caught:
        (x * x).backward(schuss.tensor([1.0]))
    assert "gradient: (1,) float32" in str(caught.value)


def test_non_scalar_without_gradient_is_refused() -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(
        GradientError, match="only a scalar can do without a gradient argument"
    ) as e:
        (x * x).backward()
    assert "hint: reduce it first, say loss.mean()" in str(e.value)
    assert __file__ in str(e.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: schuss.tensor(1.0),
        lambda x: x.detach().sum(),
        lambda x: (x > 0).sum(),
        lambda x: schuss.no_grad()(lambda: x.sum())(),
        lambda x: schuss.floor(x).sum(),
    ],
)
def test_without_a_graph_is_refused(make) -> None:
    with pytest.raises(GradientError, match="was not computed from any that requires a gradient"):
        make(leaf([1.0])).backward()


def test_leaf_itself() -> None:
    x = leaf(3.0)
    x.backward()
    assert x.grad.item() == 1


def test_a_leaf_used_twice_in_one_op() -> None:
    x = leaf([2.0, 3.0])
    (x * x * x).sum().backward()
    assert x.grad.tolist() == [12, 27]


def test_only_what_requires_gradients_gets_them() -> None:
    x, c = leaf([1.0]), schuss.tensor([2.0], dtype=schuss.float64)
    (x * c).sum().backward()
    assert c.grad is None


def test_intermediate_tensors_collect_nothing() -> None:
    x = leaf([1.0])
    y = x * 2
    y.sum().backward()
    assert y.grad is None
    assert y.requires_grad
    assert not y.is_leaf


def test_detach_stops() -> None:
    x = leaf([3.0])
    (x * x.detach()).sum().backward()
    assert x.grad.tolist() == [3]


def test_no_grad_context_restores_after_an_error() -> None:
    x = leaf([1.0])
    with pytest.raises(ZeroDivisionError), schuss.no_grad():
        1 // 0  # noqa: B018
    assert (x * 2).requires_grad


def test_no_grad_and_enable_grad_nest() -> None:
    x = leaf([1.0])
    with schuss.no_grad():
        with schuss.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad


def test_no_grad_as_decorator() -> None:
    @schuss.no_grad()
    def double(x):
        return x * 2

    x = leaf([1.0])
    assert not double(x).requires_grad
    assert not double(x).requires_grad, "more than once"
    assert (x * 2).requires_grad


def test_requires_grad_on_integers_is_refused() -> None:
    with pytest.raises(DTypeError, match="gradients exist for floating and complex dtypes only"):
        schuss.tensor([1, 2], requires_grad=True)


def test_requires_grad_set_and_unset() -> None:
    x = schuss.tensor([1.0])
    y = x * 2
    assert x.requires_grad_() is x
    assert x.is_leaf
    assert not y.requires_grad
    x.requires_grad = False
    assert not x.requires_grad
    x.requires_grad = False


def test_a_computed_tensor_cannot_stop_requiring() -> None:
    y = leaf([1.0]) * 2
    with pytest.raises(GradientError, match="a computed tensor cannot stop requiring its gradient"):
        y.requires_grad = False


def test_leaf_in_place_is_refused_while_recording() -> None:
    x = leaf([1.0])
    for change in ("x += 1", "x[0] = 3", "x *= x"):
        with pytest.raises(
            GradientError, match="a leaf that requires a gradient cannot be changed"
        ):
            exec(change, {"x": x})
    assert x.tolist() == [1]


def test_leaf_in_place_under_no_grad_stays_a_leaf() -> None:
    x = leaf([1.0])
    same = x
    with schuss.no_grad():
        x -= 0.5
        x[0] = x[0] * 4
    assert x is same
    assert x.is_leaf
    assert x.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [4]


def test_assign_keeps_a_leaf_a_leaf() -> None:
    x = leaf([1.0])
    old = x * 10
    x.assign(schuss.tensor([5.0], dtype=schuss.float64))
    assert x.is_leaf
    assert old.tolist() == [10]
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2]


def test_what_a_leaf_was_assigned_from_is_not_gone_through() -> None:
    v, x = leaf([2.0]), leaf([1.0])
    y = v * v
    y.sum().backward()
    schuss.optim.SGD([v], lr=0.5).step()
    x.assign(y * y)  # of whose graph the step has let go
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2]


def test_a_graph_recorded_before_assign_still_reaches_the_leaf() -> None:
    x = leaf([2.0])
    y = (x * x).sum()
    with schuss.no_grad():
        x += 1
    y.backward()
    assert x.grad.tolist() == [4], "at the value that y was computed from"


def test_in_place_on_a_computed_tensor_keeps_the_graph() -> None:
    x = leaf([1.0, 2.0, 3.0])
    y = x * 2
    y += 1
    y[1] = 0
    y *= y
    y.sum().backward()
    assert x.grad.tolist() == [12, 0, 28]


def test_create_graph_for_second_derivatives() -> None:
    x = leaf([1.0, 2.0])
    (x * x * x).sum().backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    x.grad = None
    (first * first).sum().backward()
    assert x.grad.tolist() == [36, 288]  # d/dx (3x²)² = 36x³


def test_gradient_penalty() -> None:
    w = leaf([1.0, 2.0])
    x = leaf([0.5, -1.0])
    out = schuss.tanh((w * x).sum())
    out.backward(create_graph=True)
    penalty = (x.grad * x.grad).sum()
    w.grad = None
    penalty.backward()
    t = np.tanh(0.5 - 2)
    inner = np.array([0.5, -1.0])
    weight = np.array([1.0, 2.0])
    slope = 1 - t * t
    expected = 2 * slope**2 * weight - 4 * t * slope**2 * (weight @ weight) * inner
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-12)


def test_shared_subexpressions_are_visited_once() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(200):
        y = y + y  # 2**200 paths
    y.backward()
    assert x.grad.item() == 2.0**200

    ran = []
    watchers.append(ran.append)
    try:
        x.grad.item()
        z = leaf(1.0)
        y = z
        for _ in range(50):
            y = y * y
        y.backward()
        z.grad.item()
    finally:
        watchers.remove(ran.append)
    assert len(ran) < 50 * 8


def test_wide_sharing() -> None:
    x = leaf(2.0)
    sum_ = x * 0
    for _ in range(1000):
        sum_ = sum_ + x
    sum_.backward()
    assert x.grad.item() == 1000


def test_a_dead_leaf_is_skipped() -> None:
    x, y = leaf([1.0]), leaf([2.0])
    z = (x * y).sum()
    del y
    z.backward()
    assert x.grad.tolist() == [2]


def test_branches_that_lead_nowhere_cost_nothing() -> None:
    x = leaf([1.0])
    (schuss.floor(x) * 3 + x).sum().backward()
    assert x.grad.tolist() == [1]


def test_half_precision_gradients_keep_the_dtype() -> None:
    for dtype in (schuss.float16, schuss.bfloat16, schuss.float32):
        x = leaf([1.0, 2.0], dtype)
        (x * x).sum().backward()
        assert x.grad.dtype == dtype
        assert x.grad.tolist() == [2, 4]


def test_mixed_precision_gradients_have_the_dtype_of_their_leaf() -> None:
    x, w = leaf([1.0, 2.0], schuss.float16), leaf([3.0, 4.0], schuss.float32)
    (x * w).sum().backward()
    assert x.grad.dtype == schuss.float16
    assert w.grad.dtype == schuss.float32


def test_gradients_of_complex_numbers_descend() -> None:
    """dL/dx + i dL/dy for L = |z - c|**2 is 2 (z - c): a step against it leads to c."""
    z = leaf([1.0 + 2.0j, 3.0j], schuss.complex128)
    target = schuss.tensor([2.0 - 1.0j, 1.0], dtype=schuss.complex128)
    schuss.abs(z - target).square().sum().backward()
    assert z.grad.dtype == schuss.complex128
    np.testing.assert_allclose(z.grad.numpy(), 2 * (z - target).detach().numpy())
    with schuss.no_grad():
        np.testing.assert_allclose((z - 0.5 * z.grad).numpy(), target.numpy())


def test_gradients_between_real_and_complex_numbers() -> None:
    x = leaf([1.0, 2.0], schuss.float32)
    (schuss.imag(x * (3 + 4j)) * schuss.tensor([1.0, 10.0])).sum().backward()
    assert x.grad.tolist() == [4, 40]
    assert x.grad.dtype == schuss.float32
    z = leaf([1.0 + 2.0j], schuss.complex64)
    (schuss.real(z) * 5.0).sum().backward()
    assert z.grad.tolist() == [5]


def test_backward_of_a_complex_number() -> None:
    z = leaf([3.0 + 4.0j], schuss.complex128)
    with pytest.raises(GradientError, match="a complex number has no gradient") as e:
        (z * z).sum().backward()
    assert "hint: take abs(), real() or imag() of it first" in str(e.value)
    (z * z).sum().backward(schuss.tensor(1j, dtype=schuss.complex128))
    np.testing.assert_allclose(z.grad.numpy(), [1j * np.conj(2 * (3 + 4j))])


def test_memory_of_a_plain_training_loop_does_not_grow() -> None:
    p = leaf([1.0, -2.0])
    for _ in range(1000):
        p.grad = None
        (p * p).sum().backward()
        with schuss.no_grad():
            p -= 0.01 * p.grad
    np.testing.assert_allclose(p.numpy(), np.array([1, -2]) * 0.98**1000)
    assert depth(p) < 5


def depth(x: schuss.Tensor) -> int:
    found, stack = set(), [x._node]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return len(found)


def test_error_line() -> None:
    x = schuss.tensor([1.0, 2.0])
    line = inspect.currentframe().f_lineno + 2
    with pytest.raises(GradientError) as caught:
        x.backward()
    assert f"at: {__file__}:{line}" in str(caught.value)


def test_copies_of_leaves() -> None:
    import copy

    x = leaf([1.0])
    deep = copy.deepcopy(x)
    assert deep.is_leaf
    assert deep.requires_grad
    deep.sum().backward()
    assert x.grad is None
    shallow = copy.copy(x)
    (shallow * 3).sum().backward()
    assert x.grad.tolist() == [3]


def test_a_graph_that_a_step_let_go_of_says_so():
    w = schuss.tensor([1.0, 2.0], requires_grad=True)
    optimizer = schuss.optim.SGD([w], lr=0.1)
    loss = (w * w).sum()
    loss.backward()
    optimizer.step()
    text = (
        r"a step has let go of it since(.|\n)*recorded: .*test_backward.py(.|\n)*retain_graph=True"
    )
    with pytest.raises(GradientError, match=text):
        loss.backward()
    with pytest.raises(GradientError, match="let go"):
        (loss * 2).backward()


def test_a_retained_graph_survives_the_step():
    w = schuss.tensor([1.0, 2.0], requires_grad=True)
    optimizer = schuss.optim.SGD([w], lr=0.1)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    loss.backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), [4.0, 8.0])
