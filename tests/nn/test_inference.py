"""Models compiled for inference: the same values, constants for good, and clear refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import (
    ArgumentTypeError,
    GradientError,
    OutOfBoundsError,
    TransformError,
)
from schuss.execution import tiers


@pytest.fixture(autouse=True)
def compiling() -> Iterator[None]:
    """The reference tier has no programs that could be prepared."""
    with tiers.using("auto" if tiers.mode() == "reference" else tiers.mode()):
        yield


def trained(model: Any, *shape: int) -> Any:
    """A model whose running statistics are not those that it began with, in evaluation mode."""
    schuss.manual_seed(3)
    for scale in (1.0, 2.0):
        model(scale * schuss.random.normal(shape) + 0.5).numpy()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.weight is not None:
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


def expected(model: Any, *args: Any) -> np.ndarray:
    with schuss.no_grad():
        return model(*args).numpy()


def check(model: Any, x: Any, rtol: float = 1e-5) -> nn.InferenceModel:
    made = model.compile_for_inference(x)
    wanted = expected(model, x)
    found = made(x)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())
    return made


def network() -> Any:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12 * 9, 20), nn.BatchNorm1d(20), nn.Tanh(),
        nn.Dropout(0.5), nn.Linear(20, 5),
    )  # fmt: skip
    return trained(layers, 4, 3, 14, 14)


def program_of(made: Any) -> Any:
    """What was compiled last."""
    return next(reversed(made._programs.values()))._program.compiled


def test_a_network_with_normalisations() -> None:
    model = network()
    made = check(model, schuss.random.normal((8, 3, 14, 14)))
    compiled = program_of(made)
    assert "divide" not in str(compiled.recorded)
    assert "rsqrt" not in str(compiled.recorded)
    assert "multiply" not in str(compiled.recorded)
    assert schuss.last_run().tier == "compiled"


def test_weights_are_packed_once() -> None:
    model = trained(nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20)), 9, 40)
    compiled = program_of(check(model, schuss.random.normal((64, 40))))
    assert [type(unit).__name__ for unit in compiled.once.units] == ["Pack", "Pack"]
    names = [call.name for calls in compiled.calls for group in calls.groups for call in group]
    assert names
    assert all(name.endswith("_multiply") for name in names)


def test_other_shapes_follow() -> None:
    model = network()
    made = model.compile_for_inference()
    assert repr(made) == "InferenceModel(Sequential, 0 programs)"
    for n in (1, 5, 1):
        x = schuss.random.normal((n, 3, 14, 14))
        np.testing.assert_allclose(made(x).numpy(), expected(model, x), rtol=1e-4, atol=1e-5)
    assert repr(made) == "InferenceModel(Sequential, 2 programs)"


def test_only_so_many_programs_are_kept() -> None:
    model = nn.Linear(2, 2)
    made = model.compile_for_inference()
    for n in range(1, 21):
        x = schuss.ones((n, 2))
        np.testing.assert_allclose(made(x).numpy(), expected(model, x), rtol=1e-6)
    assert repr(made) == "InferenceModel(Linear, 16 programs)"


def test_later_changes_are_not_seen() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), 5, 4)
    x, other = schuss.random.normal((2, 4)), schuss.random.normal((6, 4))
    made = model.compile_for_inference(x)
    before, before_other = expected(model, x).copy(), expected(model, other).copy()
    optimizer = schuss.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    model(x).sum().backward()
    optimizer.step()
    model.eval()
    assert not np.allclose(expected(model, x), before)
    np.testing.assert_allclose(made(x).numpy(), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made(other).numpy(), before_other, rtol=1e-5, atol=1e-6)


def test_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    state = {name: each.numpy().copy() for name, each in model.state_dict().items()}
    model.compile_for_inference(schuss.ones((2, 4)))(schuss.ones((2, 4)))
    assert model.training
    assert all(each.training for each in model.modules())
    for name, each in model.state_dict().items():
        np.testing.assert_array_equal(each.numpy(), state[name])


class Flexible(nn.Module):
    """Several arguments and results, some of them always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Any, more: Any = None, scale: float = 1.0, twice: bool = False) -> Any:
        y = self.linear(x) * scale
        if twice:
            y = y + y
        if more is not None:
            y = y + more["bias"]
        return {"y": y, "same": (self.linear.weight * 2, x), "none": None, "again": y}


def test_trees_and_settings() -> None:
    model = Flexible()
    made = model.compile_for_inference(schuss.ones((2, 3)))
    x, bias = schuss.random.normal((4, 3)), np.ones(2, np.float32)
    calls: list[Callable[[Any], Any]] = [
        lambda f: f(x),
        lambda f: f(x=x, scale=2.0),
        lambda f: f(x, scale=3.0),
        lambda f: f(x, twice=True),
        lambda f: f(x, {"bias": schuss.tensor(bias)}),
    ]
    for call in [*calls, *calls]:
        found, wanted = call(made), call(model)
        assert found.keys() == wanted.keys()
        assert found["none"] is None
        assert isinstance(found["same"], tuple)
        np.testing.assert_allclose(found["y"].numpy(), wanted["y"].numpy(), rtol=1e-5)
        np.testing.assert_allclose(found["again"].numpy(), wanted["y"].numpy(), rtol=1e-5)
        np.testing.assert_array_equal(found["same"][0].numpy(), wanted["same"][0].numpy())
        np.testing.assert_array_equal(found["same"][1].numpy(), x.numpy())
    assert repr(made) == "InferenceModel(Flexible, 6 programs)"
    for wrong in ({1.5}, x.numpy()):
        with pytest.raises(ArgumentTypeError, match="arguments are tensors, and values that can"):
            made(x, scale=wrong)


def test_no_tensors_at_all() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Any) -> Any:
            return {"name": "nothing"}

    assert Nothing().compile_for_inference()(schuss.ones(2)) == {"name": "nothing"}


def test_minus_zero_stays() -> None:
    class Shift(nn.Module):
        def forward(self, x: Any) -> Any:
            return x - schuss.tensor(-0.0), x + schuss.tensor(float("inf"))

    made = Shift().compile_for_inference()
    zero, infinite = made(schuss.tensor([-0.0]))
    assert not np.signbit(zero.numpy())[0]
    assert np.isinf(infinite.numpy())[0]


def test_views_of_what_comes_in() -> None:
    model = nn.Linear(4, 3)
    made = model.compile_for_inference()
    x = schuss.random.normal((4, 6)).mT[1:]
    np.testing.assert_allclose(made(x).numpy(), expected(model, x), rtol=1e-5, atol=1e-6)


def test_results_are_not_overwritten() -> None:
    made = nn.Linear(2, 2).compile_for_inference()
    xs = [schuss.full((3, 2), float(i)) for i in range(5)]
    results = [made(x) for x in xs]
    copies = [made(x).numpy().copy() for x in xs]
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result.numpy(), copy)


def test_threads_take_turns() -> None:
    model = network()
    made = model.compile_for_inference(schuss.zeros((2, 3, 14, 14)))
    inputs = [schuss.tensor(np.full((2, 3, 14, 14), i, np.float32)) for i in range(4)]
    wanted = [made(x).numpy().copy() for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(30):
            if not np.array_equal(made(inputs[i]).numpy(), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_indices_out_of_range() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, x: Any) -> Any:
            return self.table(x).sum(axis=-1)

    model = Words()
    made = model.compile_for_inference(schuss.tensor([1, 2]))
    np.testing.assert_allclose(
        made(schuss.tensor([4, 0])).numpy(), model(schuss.tensor([4, 0])).numpy(), rtol=1e-5
    )
    with pytest.raises(OutOfBoundsError, match="embedding: index 7 is outside axis 0"):
        made(schuss.tensor([1, 7]))


def test_the_reference_tier_and_jit_and_vmap() -> None:
    model = network()
    made = model.compile_for_inference()
    x = schuss.random.normal((2, 3, 14, 14))
    wanted = expected(model, x)
    with tiers.using("reference"):
        np.testing.assert_allclose(made(x).numpy(), wanted, rtol=1e-4, atol=1e-5)
        assert repr(made) == "InferenceModel(Sequential, 0 programs)"
    step = schuss.jit(lambda x: made(x) * 2)
    for _ in range(3):
        np.testing.assert_allclose(step(x).numpy(), 2 * wanted, rtol=1e-4, atol=1e-5)
    each = schuss.vmap(lambda x: made(x[None])[0])(x)
    np.testing.assert_allclose(each.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_it_cannot_be_trained() -> None:
    made = nn.Linear(2, 2).compile_for_inference(schuss.ones((1, 2)))
    assert made.eval() is made
    assert made.train(False) is made
    with pytest.raises(ArgumentTypeError, match=r"cannot be trained(.|\n)*hint: train the model"):
        made.train()
    x = schuss.ones((1, 2)).detach()
    x.requires_grad = True
    with pytest.raises(GradientError, match=r"Linear: (.|\n)*has no gradients(.|\n)*x.detach\(\)"):
        made(x)
    with schuss.no_grad():
        assert made(x).shape == (1, 2)
    with pytest.raises(GradientError, match="has no gradients"):
        schuss.grad(lambda x: made(x).sum())(schuss.ones((1, 2)))


class Looking(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


class Drawing(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + schuss.random.normal(x.shape)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = nn.Buffer(schuss.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x * 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Looking(), r"depends on the inputs(.|\n)*at: (.|\n)*hint: choose with schuss.where"),
        (Drawing(), r"Drawing: cannot be compiled(.|\n)*draws random numbers"),
        (Counting(), r"Counting: cannot be compiled(.|\n)*changes its state"),
    ],
)
def test_models_that_cannot_be_compiled(model: Any, message: str) -> None:
    made = model.compile_for_inference()
    for _ in range(2):
        with pytest.raises(TransformError, match=message):
            made(schuss.ones(3))
    with tiers.using("reference"):
        assert made(schuss.ones(3)).shape == (3,)
    assert model(schuss.ones(3)).shape == (3,)


def test_dtypes() -> None:
    for dtype, rtol in ((schuss.float64, 1e-12), (schuss.float16, 2e-3), (schuss.bfloat16, 2e-2)):
        schuss.manual_seed(1)
        layers = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)]
        model = nn.Sequential(*layers).eval().to(dtype)
        x = schuss.random.normal((7, 6)).astype(dtype)
        made = model.compile_for_inference(x)
        wanted = expected(model, x).astype(np.float64)
        np.testing.assert_allclose(made(x).numpy().astype(np.float64), wanted, rtol, rtol)
