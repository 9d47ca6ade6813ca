"""autocast: which functions compute in half precision, and what comes of it."""

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError
from schuss.execution import tiers

HALVES = [schuss.bfloat16, schuss.float16]
RNG = np.random.default_rng(0)


def normal(*shape, dtype=schuss.float32):
    return schuss.asarray(RNG.standard_normal(shape).astype(np.float32)).astype(dtype)


PRODUCTS = {
    "matmul": lambda a: a @ a,
    "vector": lambda a: a @ a[0],
    "tensordot": lambda a: schuss.tensordot(a, a, axes=1),
    "einsum": lambda a: schuss.einsum("ij,jk,kl->il", a, a, a),
    "linear": lambda a: nn.functional.linear(a, a, a[0]),
    "conv1d": lambda a: nn.functional.conv1d(a[None], a[:, :, None], a[0]),
    "conv2d": lambda a: nn.functional.conv2d(a[None, :, None], a[:, :, None, None]),
    "attention": lambda a: nn.functional.scaled_dot_product_attention(a, a, a),
    "attention with dropout": lambda a: nn.functional.scaled_dot_product_attention(
        a, a, a, dropout_p=0.5
    ),
}
SUMS = {
    "sum": schuss.sum,
    "mean": lambda a: a.mean(axis=0),
    "var": schuss.var,
    "std": schuss.std,
    "prod": lambda a: schuss.prod(a, axis=1),
    "logsumexp": schuss.logsumexp,
    "cumulative_sum": lambda a: schuss.cumulative_sum(a, axis=0),
    "softmax": schuss.softmax,
    "log_softmax": schuss.log_softmax,
    "layer_norm": lambda a: nn.functional.layer_norm(a, (6,)),
    "batch_norm": lambda a: nn.BatchNorm1d(6)(a),
    "mse_loss": lambda a: nn.functional.mse_loss(a, a * 2),
    "cross_entropy": lambda a: nn.functional.cross_entropy(a, schuss.arange(6)),
    "nll_loss": lambda a: nn.functional.nll_loss(a, schuss.arange(6)),
    "hinge_loss": lambda a: nn.functional.hinge_loss(a, schuss.sign(a), reduction="none"),
}
OTHERS = {
    "add": lambda a: a + a,
    "relu": schuss.relu,
    "gelu": nn.functional.gelu,
    "max": schuss.max,
    "reshape": lambda a: a.reshape(-1),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_computed_in_half_precision(name, dtype):
    a = normal(6, 6)
    with schuss.autocast(dtype):
        found = PRODUCTS[name](a)
    assert found.dtype == dtype
    if "dropout" not in name:
        want, tolerance = PRODUCTS[name](a).numpy(), 8 * float(schuss.finfo(dtype).eps)
        np.testing.assert_allclose(
            found.numpy().astype(np.float32), want, atol=tolerance * np.abs(want).max()
        )


@pytest.mark.parametrize("name", PRODUCTS)
def test_other_dtypes_are_left_alone(name):
    with schuss.autocast():
        assert PRODUCTS[name](normal(6, 6, dtype=schuss.float64)).dtype == schuss.float64


def test_products_with_other_dtypes():
    with schuss.autocast():
        for dtype in (schuss.float64, schuss.complex64):
            assert (normal(6, 6) @ normal(6, 6).astype(dtype)).dtype == dtype
        assert (schuss.arange(3) @ schuss.arange(3)).dtype == schuss.int64
        assert (normal(6, 6) @ normal(6, 6, dtype=schuss.float16)).dtype == schuss.bfloat16


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_float32(name):
    a = normal(6, 6, dtype=schuss.bfloat16)
    with schuss.autocast():
        found = SUMS[name](a)
    assert found.dtype == schuss.float32
    want = SUMS[name](a.astype(schuss.float32))
    np.testing.assert_allclose(found.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
    if name != "batch_norm":  # whose weight is float32
        assert SUMS[name](a).dtype == schuss.bfloat16


@pytest.mark.parametrize("name", OTHERS)
def test_the_rest_takes_what_it_is_given(name):
    with schuss.autocast():
        for dtype in (schuss.bfloat16, schuss.float32):
            assert OTHERS[name](normal(6, 6, dtype=dtype)).dtype == dtype


def test_bias_is_added_in_float32():
    """1 + 2**-8 needs a digit more than bfloat16 has; adding 2**-8 makes it 1 + 2**-7."""
    x, bias = schuss.tensor([[1.0, 2.0**-8]]), schuss.tensor([2.0**-8])
    weight = schuss.tensor([[1.0, 0.0]])
    with schuss.autocast():
        y = nn.functional.linear(x, weight, bias + bias)
    assert y.dtype == schuss.bfloat16
    assert y.item() == 1 + 2.0**-7


def test_it_ends_with_the_block_and_can_be_switched_off():
    a = normal(2, 2)
    with schuss.autocast():
        with schuss.autocast(enabled=False):
            assert (a @ a).dtype == schuss.float32
        with schuss.autocast("float16"):
            assert (a @ a).dtype == schuss.float16
        assert (a @ a).dtype == schuss.bfloat16
    with pytest.raises(ZeroDivisionError), schuss.autocast():
        raise ZeroDivisionError
    assert (a @ a).dtype == schuss.float32


def test_as_a_decorator():
    @schuss.autocast(schuss.bfloat16)
    def product(a):
        return a @ a

    assert product(normal(2, 2)).dtype == schuss.bfloat16


def test_other_precisions_are_refused():
    with pytest.raises(ArgumentError, match="dtype must be bfloat16 or float16, got float32"):
        schuss.autocast(schuss.float32).__enter__()


def make_network():
    schuss.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 20), nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 3))


X, Y = normal(30, 6), schuss.asarray(np.arange(30) % 3)


def gradients(inside: bool, mixed: bool = True):
    """Gradients of a small network's parameters; `inside` says where backward() stands."""
    model = make_network()
    with schuss.autocast(enabled=mixed):
        loss = nn.functional.cross_entropy(model(X), Y)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert loss.dtype == schuss.float32
    return [p.grad for p in model.parameters()]


@pytest.mark.usefixtures("one_tier")
def test_gradients_are_float32_wherever_backward_stands():
    inside, outside, plain = gradients(True), gradients(False), gradients(False, mixed=False)
    for one, other, exact in zip(inside, outside, plain, strict=True):
        assert one.dtype == schuss.float32
        np.testing.assert_array_equal(one.numpy(), other.numpy())
        error = np.abs(one.numpy() - exact.numpy()).max()
        assert 0 < error < 0.03 * np.abs(exact.numpy()).max()


def test_second_derivatives():
    """Of |W x|^4 / 4 for exact numbers: products of bfloat16 lose nothing here."""
    w, x = schuss.tensor([[1.0, 2.0], [0.0, 1.0]]), schuss.tensor([[1.0], [1.0]])

    def loss(w):
        with schuss.autocast():
            return schuss.square(schuss.sum(schuss.square(w @ x))) / 4

    def plain(w):
        return schuss.square(schuss.sum(schuss.square(w @ x))) / 4

    direction = schuss.tensor([[1.0, 0.0], [2.0, 1.0]])
    for derivative in (schuss.grad, lambda f: lambda w: schuss.hvp(f, w, direction)):
        found = derivative(loss)(w)
        assert found.dtype == schuss.float32
        np.testing.assert_array_equal(found.numpy(), derivative(plain)(w).numpy())
    np.testing.assert_array_equal(schuss.hessian(loss)(w).numpy(), schuss.hessian(plain)(w).numpy())


def test_vmap_and_jvp():
    def product(x):
        with schuss.autocast():
            return x @ x

    batch = normal(4, 3, 3)
    mapped = schuss.vmap(product)(batch)
    assert mapped.dtype == schuss.bfloat16
    alone = np.stack([product(x).numpy().astype(np.float32) for x in batch])
    np.testing.assert_allclose(mapped.numpy().astype(np.float32), alone, rtol=2e-2, atol=2e-2)
    y, t = schuss.jvp(product, (batch[0],), (batch[1],))
    assert y.dtype == t.dtype == schuss.bfloat16


@pytest.mark.usefixtures("one_tier")
def test_repeated_calls_see_their_own_operands():
    """What is recorded again and again is remembered: neither the block around it, nor the operand
    behind a transpose, may be taken for that of another call.
    """
    weight = normal(3, 4)
    for i in range(4):
        a = normal(4, 5)
        for enabled in (True, False):
            with schuss.autocast(enabled=enabled):
                y = nn.functional.linear(a.mT, weight)
                z = schuss.softmax(y)
            assert (y.dtype, z.dtype) == (
                schuss.bfloat16 if enabled else schuss.float32,
                schuss.float32,
            ), i
            want = a.numpy().T @ weight.numpy().T
            np.testing.assert_allclose(y.numpy().astype(np.float32), want, atol=0.1)


@pytest.mark.usefixtures("one_tier")
def test_a_checkpointed_layer_gives_the_same():
    model = make_network()

    def gradient(f):
        with schuss.autocast():
            loss = nn.functional.cross_entropy(f(X), Y)
        model[0].weight.grad = None
        loss.backward()
        return model[0].weight.grad.numpy().copy()

    np.testing.assert_array_equal(gradient(model), gradient(schuss.checkpoint(model)))


def train(steps: int, precision, jit: bool = False):
    """Losses and parameters of a small run."""
    model = make_network()
    optimizer = optim.Adam(model.parameters(), lr=0.02)

    def step():
        optimizer.zero_grad()
        with schuss.autocast(enabled=precision == "bfloat16"):
            loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        return loss

    run = schuss.jit(step) if jit else step
    losses = [run().item() for _ in range(steps)]
    if jit:
        assert not run.why, run.why
    return losses, [p.numpy().copy() for p in model.parameters()]


@pytest.mark.usefixtures("one_tier")
def test_training_follows_float32():
    mixed, parameters = train(30, "bfloat16")
    plain, _ = train(30, "float32")
    assert all(p.dtype == np.float32 for p in parameters)
    assert mixed != plain
    assert plain[-1] < 0.6 * plain[0]
    np.testing.assert_allclose(mixed, plain, atol=0.02 * (plain[0] - plain[-1]))


@pytest.mark.skipif(tiers.mode() == "reference", reason="the reference tier has no replays")
@pytest.mark.usefixtures("one_tier")
def test_jit_gives_the_same_bits():
    losses, parameters = train(8, "bfloat16")
    again, others = train(8, "bfloat16", jit=True)
    assert losses == again
    for one, other in zip(parameters, others, strict=True):
        np.testing.assert_array_equal(one, other)


def test_jit_notices_the_block_around_it():
    product = schuss.jit(lambda a: a @ a)
    a = normal(3, 3)
    for _ in range(4):
        assert product(a).dtype == schuss.float32
    with schuss.autocast():
        assert product(a).dtype == schuss.bfloat16
    assert product(a).dtype == schuss.float32


def test_optimizers_compute_in_float32():
    found = []

    class Products(optim.SGD):
        def update(self, p, g, state, group):
            found.append((p @ g).dtype)
            return super().update(p, g, state, group)

    model = nn.Linear(4, 4, bias=False)
    optimizer = Products(model.parameters(), lr=0.1)
    with schuss.autocast():
        nn.functional.mse_loss(model(normal(5, 4)), normal(5, 4)).backward()
        optimizer.step()
    assert found == [schuss.float32]


@pytest.mark.skipif(tiers.mode() == "reference", reason="compares with the compiled tier")
def test_tiers_agree():
    """Both round the sums of a product once: no element differs by more than a last digit."""
    x, weight, bias = normal(33, 65), normal(17, 65), normal(17)
    found = []
    for tier in ("reference", "compiled"):
        with tiers.using(tier), schuss.autocast():
            found.append(nn.functional.linear(x, weight, bias).relu().numpy().astype(np.float32))
    np.testing.assert_allclose(*found, rtol=2.0**-7, atol=1e-3)
