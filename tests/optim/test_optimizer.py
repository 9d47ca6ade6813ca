"""What all optimizers share: groups, names, saving, errors, one evaluation a step, and what stays
in memory.
"""

from __future__ import annotations

import gc
import json
import signal
import weakref
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.compiler.program import Program
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
    StateDictError,
)
from schuss.execution import tiers

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (optim.Adam, {"lr": 0.1, "amsgrad": True}),
    (optim.Adam, {"lr": 0.1, "betas": (0, 0.9)}),
    (optim.AdamW, {"lr": 0.1}),
    (optim.Adagrad, {"lr": 0.1}),
]


def leaf(*values: float) -> schuss.Tensor:
    return schuss.tensor(list(values), requires_grad=True)


def make_model() -> nn.Module:
    schuss.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    x = schuss.tensor(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32))
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


# --- groups ---


def test_groups_have_their_own_settings() -> None:
    a, b = leaf(1.0), leaf(1.0)
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    a.grad = b.grad = schuss.ones(1)
    optimizer.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.5])
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.0], atol=1e-7)


def test_add_param_group() -> None:
    a, b = leaf(1.0), leaf(1.0)
    optimizer = optim.Adam([a], lr=0.1)
    optimizer.add_param_group({"params": [b], "lr": 0.01})
    assert [group["names"] for group in optimizer.param_groups] == [["param_0"], ["param_1"]]
    a.grad = b.grad = schuss.ones(1)
    optimizer.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.99], rtol=1e-6)
    assert set(optimizer.state) == {"param_0", "param_1"}


def test_names_come_from_the_model() -> None:
    model = make_model()
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    for params in (model.parameters(), model.named_parameters()):
        assert optim.SGD(params).param_groups[0]["names"] == names
    assert optim.SGD(p for p in model.parameters()).param_groups[0]["names"][0] == "param_0"
    named = optim.SGD([{"params": [leaf(1.0)], "names": ["w"]}])
    assert named.param_groups[0]["names"] == ["w"]


def test_names_of_two_parts_do_not_collide() -> None:
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizer = optim.SGD(
        [{"params": first.parameters()}, {"params": second.parameters(), "lr": 1.0}]
    )
    names = [group["names"] for group in optimizer.param_groups]
    assert names == [["weight", "bias"], ["group1.weight", "group1.bias"]]
    again = optim.SGD([{"params": first.parameters()}, {"params": second.parameters()}])
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[1]["lr"] == 1.0


def test_printed_optimizer() -> None:
    assert repr(optim.Adagrad([leaf(1.0)])).startswith(
        "Adagrad(1 parameters, lr=0.01, lr_decay=0.0"
    )


# --- the step ---


def test_parameters_without_gradient_are_skipped() -> None:
    a, b = leaf(1.0), leaf(1.0)
    optimizer = optim.Adam([a, b], lr=0.1, weight_decay=0.5)
    (a * 2).sum().backward()
    optimizer.step()
    assert b.item() == 1.0
    assert list(optimizer.state) == ["param_0"]


def test_zero_grad() -> None:
    a = leaf(1.0)
    optimizer = optim.SGD([a], lr=0.1)
    (a * 2).sum().backward()
    (a * 2).sum().backward()
    assert a.grad is not None
    assert a.grad.item() == 4
    optimizer.zero_grad()
    assert a.grad is None


def test_gradients_of_another_dtype_are_cast() -> None:
    a = leaf(1.0)
    a.grad = schuss.ones(1, dtype=schuss.float64)
    optim.SGD([a], lr=0.5).step()
    assert a.dtype == schuss.float32
    assert a.item() == 0.5


def test_a_step_leaves_earlier_results_alone() -> None:
    a = leaf(1.0)
    y = a * 3
    a.grad = schuss.ones(1)
    optim.SGD([a], lr=0.5).step()
    assert y.item() == 3.0


@pytest.mark.usefixtures("reference_tier")
def test_a_step_is_one_evaluation() -> None:
    """Forward, backward, update, the loss and whatever else is alive: all in one go."""
    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    x = schuss.ones((2, 3))
    train(model, optimizer, 1)
    before = schuss.last_run()
    optimizer.zero_grad()
    loss = (model(x) ** 2).mean()
    double = loss * 2
    loss.backward()
    assert schuss.last_run() is before, "nothing runs before the step"
    optimizer.step()
    run = schuss.last_run()
    assert run is not before
    assert run.ops["tanh"] == 1
    assert run.ops["sqrt"] == 4
    loss.item()
    double.item()
    for p in model.parameters():
        p.numpy()
        assert p.grad is not None
        p.grad.numpy()
    for slots in optimizer.state.values():
        slots["m"].numpy()
    assert schuss.last_run() is run, "and nothing after it"


def test_old_graphs_are_let_go() -> None:
    """A running loss that nobody looks at holds on to nothing."""
    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    total: Any = 0.0
    losses: list[weakref.ref[Any]] = []
    inputs: list[weakref.ref[Any]] = []
    hidden: list[weakref.ref[Any]] = []
    for i in range(200):
        optimizer.zero_grad()
        x = schuss.tensor(np.full((4, 3), i / 200, np.float32))
        h = model[0](x)
        loss = (model[2](h.tanh()) ** 2).mean()
        loss.backward()
        optimizer.step()
        total += loss.detach()
        inputs.append(weakref.ref(x._node))
        hidden.append(weakref.ref(h._node))
        losses.append(weakref.ref(loss._node))
    del x, h, loss
    optimizer.zero_grad()
    gc.collect()
    for name, refs in (("input", inputs), ("hidden", hidden), ("loss", losses)):
        assert sum(ref() is not None for ref in refs) <= 2, name
    assert total.item() > 0


def test_old_graphs_are_let_go_without_detach() -> None:
    """`total += loss` holds on to no batch, no activation and no old weight either."""
    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    total: Any = 0.0
    old: list[weakref.ref[Any]] = []
    for i in range(200):
        optimizer.zero_grad()
        x = schuss.tensor(np.full((4, 3), i / 200, np.float32))
        h = model[0](x)
        loss = (model[2](h.tanh()) ** 2).mean()
        loss.backward()
        optimizer.step()
        total += loss
        old += [weakref.ref(each._node) for each in (x, h, model[0].weight)]
    del x, h, loss
    gc.collect()
    held = [node for ref in old if (node := ref()) is not None]
    assert sum(node.value is not None for node in held) <= 6
    assert total.item() > 0


# --- saving ---


def through_files(state: dict[str, Any]) -> dict[str, Any]:
    """Slots as NumPy arrays, groups as JSON text."""
    slots = {name: {slot: each.numpy().copy() for slot, each in kept.items()}
             for name, kept in state["state"].items()}  # fmt: skip
    return {"state": slots, "groups": json.loads(json.dumps(state["groups"]))}


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_continuation_is_bit_identical(kind: Any, options: dict[str, Any]) -> None:
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    train(model, optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.05
    weights, saved = model.state_dict(), through_files(optimizer.state_dict())
    train(model, optimizer, 3)

    other = make_model()
    resumed = kind(other.parameters(), lr=1.0)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["lr"] == 0.05
    train(other, resumed, 3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    assert optimizer.state_dict()["groups"] == resumed.state_dict()["groups"]


def test_saved_state_does_not_change_with_training() -> None:
    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, 2)
    saved = optimizer.state_dict()
    before = through_files(saved)
    train(model, optimizer, 2)
    after = through_files(saved)
    assert before["groups"] == after["groups"]
    for name, slots in before["state"].items():
        for slot, value in slots.items():
            np.testing.assert_array_equal(value, after["state"][name][slot])
    assert before["state"]["0.weight"]["step"] == 2


def test_groups_are_plain() -> None:
    state = optim.Adam(make_model().parameters()).state_dict()
    assert state["groups"] == [
        {
            "method": "Adam",
            "names": ["0.weight", "0.bias", "2.weight", "2.bias"],
            "lr": 1e-3,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.0,
            "amsgrad": False,
        }
    ]
    assert state["state"] == {}


def test_loading_casts_to_the_parameter() -> None:
    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    saved = through_files(optimizer.state_dict())
    for slots in saved["state"].values():
        slots["m"] = slots["m"].astype(np.float64)
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)
    assert optimizer.state["0.weight"]["m"].dtype == schuss.float32


def test_loading_checks_everything_first() -> None:
    a, b = leaf(1.0), leaf(1.0, 2.0)
    optimizer = optim.SGD({"a": a, "b": b}, lr=0.1, momentum=0.9)
    a.grad, b.grad = schuss.ones(1), schuss.ones(2)
    optimizer.step()
    good = optimizer.state_dict()

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(StateDictError, match=message):
            optimizer.load_state_dict({**good, **changes})

    group = {**good["groups"][0], "lr": 7.0}
    refused("SGD.load_state_dict: the saved parameters are not this optimizer's",
            groups=[{**group, "names": ["a", "c"]}])  # fmt: skip
    refused("the saved parameters are not this optimizer's", groups=[])
    refused("there is no parameter 'c'", groups=[group], state={"c": {}})
    refused(
        r"momentum of b has another shape\n  saved: \(1,\) float32\n  parameter: \(2,\) float32",
        groups=[group],
        state={"b": {"momentum": np.ones(1, np.float32)}},
    )
    refused("the saved settings are not this optimizer's", groups=[{**group, "betas": [0.9, 0.9]}])
    with pytest.raises(StateDictError, match="the saved state has no 'groups'"):
        optimizer.load_state_dict({"state": {}})
    with pytest.raises(ArgumentError, match="SGD: lr must not be negative"):
        optimizer.load_state_dict({**good, "groups": [{**group, "lr": -1.0}]})
    assert optimizer.param_groups[0]["lr"] == 0.1
    np.testing.assert_array_equal(optimizer.state["b"]["momentum"].numpy(), [1, 1])


def test_state_of_another_method() -> None:
    model = make_model()
    saved = optim.Adam(model.parameters()).state_dict()
    with pytest.raises(StateDictError, match=r"the state was saved by Adam"):
        optim.SGD(model.parameters()).load_state_dict(saved)
    with pytest.raises(StateDictError, match=r"the state was saved by Adam"):
        optim.AdamW(model.parameters()).load_state_dict(saved)
    saved["groups"][0].pop("lr")
    with pytest.raises(StateDictError, match=r"the saved settings are not this optimizer's"):
        optim.Adam(model.parameters()).load_state_dict(saved)


# --- wrong parameters ---


def test_no_parameters() -> None:
    for empty in ([], nn.ReLU().parameters(), iter(())):
        with pytest.raises(ArgumentError, match="SGD: got no parameters to optimize"):
            optim.SGD(empty)


def test_a_tensor_instead_of_a_list() -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"params must be a list of tensors(.|\n)*hint: wrap"
    ):
        optim.SGD(leaf(1.0))


@pytest.mark.parametrize("params", [None, 3])
def test_not_a_list(params: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=f"params must be a list of tensors, got {params}"):
        optim.SGD(params)


def test_not_tensors() -> None:
    with pytest.raises(ArgumentTypeError, match="Adam: parameters are tensors, got ndarray"):
        optim.Adam([np.ones(2)])
    with pytest.raises(ArgumentTypeError, match="SGD: a group is a dict, got Tensor"):
        optim.SGD([{"params": [leaf(1.0)]}, leaf(1.0)])
    with pytest.raises(DTypeError, match="SGD: param_0 has no floating dtype"):
        optim.SGD([schuss.tensor([1, 2])])


def test_duplicates() -> None:
    a, b = leaf(1.0), leaf(1.0)
    with pytest.raises(ArgumentError, match="SGD: param_1 is given twice"):
        optim.SGD([a, a])
    with pytest.raises(ArgumentError, match="SGD: param_1 is given twice"):
        optim.SGD([{"params": [a]}, {"params": [a]}])
    with pytest.raises(ArgumentError, match="SGD: w is given twice"):
        optim.SGD([{"params": [a, b], "names": ["w", "w"]}])
    with pytest.raises(ArgumentError, match="SGD: w is given twice"):
        optim.SGD([{"params": [a], "names": ["w"]}, {"params": [b], "names": ["w"]}])


def test_computed_tensors() -> None:
    with pytest.raises(
        ArgumentError, match="SGD: param_1 is computed from other tensors: optimize those"
    ):
        optim.SGD([leaf(1.0), leaf(1.0) * 2])


def test_wrong_groups() -> None:
    with pytest.raises(
        ArgumentError,
        match=r"SGD: a group has 'params' and settings out of "
        r"\['dampening', 'lr', 'momentum', 'nesterov', 'weight_decay'\]",
    ):
        optim.SGD([{"params": [leaf(1.0)], "learning_rate": 0.1}])
    with pytest.raises(ArgumentError, match="SGD: a group has 'params' and settings"):
        optim.SGD([{"lr": 0.1}])
    with pytest.raises(ArgumentError, match="SGD: a group needs as many names as parameters"):
        optim.SGD([{"params": [leaf(1.0)], "names": ["a", "b"]}])


def test_a_refused_group_changes_nothing() -> None:
    optimizer = optim.SGD([leaf(1.0)])
    with pytest.raises(ArgumentError, match="lr must not be negative"):
        optimizer.add_param_group({"params": [leaf(1.0)], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


def test_a_step_that_fails_changes_nothing() -> None:
    """A label out of range is only seen when values are computed: in the step."""
    model = nn.Linear(3, 3)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    x = schuss.random.normal((4, 3))

    def step(labels: list[int]) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), schuss.tensor(labels)).backward()
        optimizer.step()

    step([0, 1, 2, 0])
    weight = model.weight.numpy().copy()
    state = {
        name: each.numpy().copy()
        for name, each in optimizer.state["weight"].items()
        if name != "step"
    }
    with pytest.raises(OutOfBoundsError, match="cross_entropy: target: index 5"):
        step([0, 1, 2, 5])
    np.testing.assert_array_equal(model.weight.numpy(), weight)
    assert optimizer.state["weight"]["step"] == 1
    for name, values in state.items():
        np.testing.assert_array_equal(optimizer.state["weight"][name].numpy(), values)
    step([0, 1, 2, 1])
    assert optimizer.state["weight"]["step"] == 2
    assert not np.array_equal(model.weight.numpy(), weight)


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_leaves_no_half_step(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """New values take over the memory of the old ones: large ones, in compiled steps."""
    run = Program.run

    def interrupted(self: Program, *args: Any) -> Any:
        if when == "before":
            signal.raise_signal(signal.SIGINT)
        values = run(self, *args)
        signal.raise_signal(signal.SIGINT)
        return values

    def trained(stop: int) -> list[np.ndarray]:
        p, q = (schuss.ones((n, n)).requires_grad_() for n in (2, 64))
        optimizer = optim.SGD([p, q], lr=0.1, momentum=0.9)
        for i in range(8):
            optimizer.zero_grad()
            ((p * p).sum() + (q * q).sum()).backward()
            with monkeypatch.context() as patch:
                if i == stop:
                    patch.setattr(Program, "run", interrupted)
                try:
                    optimizer.step()
                except KeyboardInterrupt:
                    assert i == stop
        return [
            p.numpy(),
            q.numpy(),
            *[each["momentum"].numpy() for each in optimizer.state.values()],
        ]

    with tiers.using("compiled"):
        whole, stopped = trained(-1), trained(6)
    for a, b in zip(whole, stopped, strict=True):
        assert np.array_equal(a, b)


def test_a_mistake_that_merely_waits_does_not_stop_a_step() -> None:
    model = nn.Linear(3, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    waiting = schuss.zeros(3)[schuss.tensor([7])]
    also = schuss.ones(3) + 1
    weight = model.weight.numpy().copy()
    model(schuss.ones(2, 3)).sum().backward()
    optimizer.step()
    assert not np.array_equal(model.weight.numpy(), weight)
    assert also._node.value is not None
    with pytest.raises(OutOfBoundsError, match="index 7 is outside axis 0"):
        waiting.numpy()


def test_a_step_without_gradients_says_so() -> None:
    optimizer = optim.SGD(nn.Linear(3, 1).parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"SGD.step: no parameter has a gradient; call loss.backw"):
        optimizer.step()
    optimizer.step()  # once is enough


def test_an_error_within_the_update_changes_nothing() -> None:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weight = model.weight.numpy().copy()
    model(schuss.ones(2, 3)).sum().backward()
    assert model.bias is not None
    model.bias.grad = schuss.ones(2, 2)
    with pytest.raises(ShapeError, match=r"SGD.step: the gradient of bias has another shape"):
        optimizer.step()
    np.testing.assert_array_equal(model.weight.numpy(), weight)
    assert optimizer.state == {}


def test_a_bad_batch_does_not_spoil_running_statistics() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    norm: Any = model[1]

    def step(words: list[int]) -> None:
        optimizer.zero_grad()
        model(schuss.tensor(words)).square().mean().backward()
        optimizer.step()

    step([1, 2, 3])
    mean = norm.running_mean.numpy().copy()
    with pytest.raises(OutOfBoundsError, match="embedding: index 10"):
        step([1, 2, 10])
    np.testing.assert_array_equal(norm.running_mean.numpy(), mean)
    step([4, 5, 6])
    model.eval()
    assert np.isfinite(model(schuss.tensor([1])).numpy()).all()


def test_a_bad_batch_after_a_cast_keeps_the_new_dtype() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(4))
    norm: Any = model[1]
    model.to(schuss.float64)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model(schuss.tensor([1, 10])).sum().backward()
    with pytest.raises(OutOfBoundsError, match="embedding: index 10"):
        optimizer.step()
    assert norm.running_mean.dtype == schuss.float64
    np.testing.assert_array_equal(norm.running_mean.numpy(), np.zeros(4))
