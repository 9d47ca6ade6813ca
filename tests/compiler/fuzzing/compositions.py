"""Lines of several ops: indices, losses, attention, chance, loops, derivatives."""

from __future__ import annotations

from typing import Any

from .steps import step

# --- positions that are data ---


def indices(m: Any, n: int, shape: tuple[int, ...] | None = None) -> str:
    shape = m.random.choice([(), (3,), (5,), (2, 4), (17,)]) if shape is None else shape
    name = m.input(shape, "int64")
    m.inputs[name] = f"rng({name[1:]}).integers({-n if m.chance(0.5) else 0}, {n}, {shape})"
    m.env[name] = m.env[name] % n
    return name


@step(3)
def gather(m: Any) -> str | None:
    name = m.pick(least=1)
    shape = m.env[name].shape
    axis = m.random.randrange(len(shape))
    n = shape[axis]
    if not n:
        return None
    index = indices(m, n)
    if m.chance(0.3):
        return f"{m.fresh()} = schuss.take({name}, {index}, axis={axis})"
    key = ", ".join([*([":"] * axis), index])
    if m.chance(0.3) and axis + 1 < len(shape) and shape[axis + 1]:
        key += f", {indices(m, shape[axis + 1], ())}"
    return f"{m.fresh()} = {name}[{key}]"


@step(2)
def scatter(m: Any) -> str | None:
    name = m.pick("f", "f", "i", least=1)
    value = m.env[name]
    n = value.shape[0]
    if not n:
        return None
    index = indices(m, n)
    part = m.input((*m.env[index].shape, *value.shape[1:]), str(value.dtype))
    if m.chance(0.25):
        return f"{name}[{index}] = {part}"
    if m.chance(0.2):
        return f"{name}[{index}] += {part}"
    kind = m.random.choice(["scatter", "scatter_add", "scatter_add"])
    return f"{m.fresh()} = op({kind!r}, {name}, {part}, {index}, axes=(0,), wrap=True)"


@step(1)
def along_axis(m: Any) -> str | None:
    name = m.pick("f", least=1)
    shape = m.env[name].shape
    if not shape[-1]:
        return None
    index = indices(m, shape[-1], (*shape[:-1], m.random.choice([1, 3])))
    return f"{m.fresh()} = schuss.take_along_axis({name}, {index}, axis=-1)"


@step(0.7)
def one_hot(m: Any) -> str:
    index = indices(m, 5)
    m.inputs[index] = m.inputs[index].replace("integers(-5,", "integers(0,")
    return f"{m.fresh()} = schuss.one_hot({index}, 5)"


# --- compositions ---


@step(3)
def softmax(m: Any) -> str:
    name = m.pick("f", least=1)
    axis = m.random.randrange(m.env[name].ndim)
    return (
        f"{m.fresh()} = schuss.{m.random.choice(['softmax', 'log_softmax'])}({name}, axis={axis})"
    )


@step(2)
def layer_norm(m: Any) -> str:
    name = m.pick("f", least=1)
    shape = m.env[name].shape[m.random.randrange(m.env[name].ndim) :]
    more = ""
    if m.chance(0.5):
        dtype = str(m.env[name].dtype)
        more = f", {m.input(shape, dtype)}, {m.input(shape, dtype)}"
    return f"{m.fresh()} = nn.functional.layer_norm({name}, {shape}{more})"


@step(1.5)
def cross_entropy(m: Any) -> str | None:
    name = m.pick("f", least=2)
    shape = m.env[name].shape
    if len(shape) != 2 or not shape[1]:
        return None
    index = indices(m, shape[1], shape[:1])
    m.inputs[index] = f"rng({index[1:]}).integers(0, {shape[1]}, {shape[:1]})"
    reduction = m.random.choice(["mean", "sum", "none"])
    smooth = m.random.choice([0.0, 0.0, 0.1])
    return (
        f"{m.fresh()} = nn.functional.cross_entropy({name}, {index}, reduction={reduction!r}, "
        f"label_smoothing={smooth})"
    )


@step(1.5)
def loss(m: Any) -> str:
    a = m.pick("f")
    b = m.input(m.env[a].shape, str(m.env[a].dtype))
    name = m.random.choice(
        ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"]
    )
    return f"{m.fresh()} = nn.functional.{name}({a}, {b})"


@step(1.5)
def attention(m: Any) -> str:
    q = m.pick("f", least=2)
    value = m.env[q]
    tk = m.random.choice([*m.sizes, 2])
    k = m.input((*value.shape[:-2], tk, value.shape[-1]), str(value.dtype))
    v = m.input((*value.shape[:-2], tk, m.random.choice([1, 4, 9])), str(value.dtype))
    # Kernels may skip later keys, or multiply their values by 0: not the same for infinite ones.
    causal = "" if m.wild else ", is_causal=True"
    more = m.random.choice(["", causal, ", scale=0.7"])
    if m.chance(0.3):
        dtype = m.random.choice(["bool", str(value.dtype)])
        more += f", attn_mask={m.input((value.shape[-2], tk), dtype)}"
    return f"{m.fresh()} = nn.functional.scaled_dot_product_attention({q}, {k}, {v}{more})"


@step(1.5)
def chance(m: Any) -> str:
    if m.chance(0.5):
        return f"{m.fresh()} = nn.functional.dropout({m.pick('f')}, {m.random.choice([0.1, 0.5])})"
    shape = m.shape()
    text = m.random.choice([
        f"uniform({shape}, dtype=schuss.{m.main})", f"normal({shape})", f"randint(-3, 9, {shape})",
        f"bernoulli(0.3, {shape})", f"bits({shape})", f"uniform({shape}, low=-1, high=3)",
    ])  # fmt: skip
    return f"{m.fresh()} = schuss.random.{text}"


@step(0.5)
def solve(m: Any) -> str | None:
    n = m.random.choice([1, 3, 5])
    dtype = m.main if m.main in ("float32", "float64") else "float32"
    a, b = m.input((n, n), dtype), m.input((n, 2), dtype)
    return f"{m.fresh()} = schuss.solve({a} * 0.1 + 4 * schuss.eye({n}, dtype={a}.dtype), {b})"


@step(0.7)
def made(m: Any) -> str:
    text = m.random.choice([
        f"schuss.arange({m.random.choice([1, 5, 16])})",
        f"schuss.full({m.shape()}, 1.5, dtype=schuss.{m.main})",
        f"schuss.zeros({m.shape()})",
        f"schuss.linspace(-1, 1, {m.random.choice([1, 2, 9])})",
        f"schuss.eye({m.random.choice([1, 3, 8])})",
    ])  # fmt: skip
    return f"{m.fresh()} = {text}"


# --- loops ---


@step(0.25)
def chain(m: Any) -> str:
    """A value that goes through many lines: up to some thousand ops."""
    name = m.pick("f")
    count = m.random.choice([10, 40, 150, 150, 600])
    other = m.partner(name)
    form = m.random.choice([
        "schuss.sin({v}) + 0.1", "{v} * 0.9 + {o}", "schuss.tanh({v} * {o})", "({v} + {o}) / 2",
        "schuss.where({v} > 0, {v} * 0.5, {v} + 1)", "schuss.softmax({v}, axis=-1) + {o}",
        "{v} - {v}.mean()", "{v} / (1 + ({v} * {v}).sum())", "schuss.flip({v}) * 0.9 + {o}",
        "{v}.mT.mT + 1", "schuss.roll({v}, 1, axis=0) - {v} * 0.5", "abs({v} - {o})",
        "{v}.reshape(-1).reshape({v}.shape) + {o}", "schuss.sqrt({v} * {v} + 1)",
    ])  # fmt: skip
    return f"for i in range({count}): {name} = {form.format(v=name, o=other)}"


@step(0.25)
def recurrence(m: Any) -> str:
    """A recurrent layer over a sequence, or a value built up slice by slice."""
    x = m.pick("f", least=2)
    value = m.env[x]
    h = m.input(value.shape[1:], str(value.dtype))
    w = m.input((value.shape[-1],) * 2, str(value.dtype))
    form = m.random.choice([
        "{h} = schuss.tanh({x}[i] + {h} * {w}[0])", "{h} = {h} * 0.5 + {x}[i]",
        "{h} = schuss.maximum({h}, {x}[-1 - i])", "{h} = schuss.tanh({x}[i] @ {w} + {h})",
        "{x}[i] = {h} * i", "{x}[i] += {h}", "{h} = {h} + {x}[i:].sum(axis=0)",
        "{h} = schuss.stack([{h}, {x}[i]]).mean(axis=0)",
    ])  # fmt: skip
    if x[0] == "x" and "{x}[i] " in form:
        form = "{h} = {h} * 0.5 + {x}[i]"
    return f"for i in range({min(value.shape[0], 40)}): {form.format(h=h, x=x, w=w)}"


@step(2)
def scan(m: Any) -> str | None:
    """A loop as an op, over rows of something, with a weight and a table from outside."""
    x = m.pick("f", least=2)
    value = m.env[x]
    if not value.shape[0] or value.shape[0] > 70:
        return None
    dtype = str(value.dtype)
    h, w = m.input(value.shape[1:], dtype), m.input((value.shape[-1],) * 2, dtype)
    table = m.input((5, *value.shape[1:]), dtype)
    index = indices(m, 5, value.shape[:1])
    form = m.random.choice([
        "schuss.tanh(r + h * {w}[0])", "schuss.tanh(r @ {w} + h)", "schuss.tanh(h + r) * 0.5",
        "schuss.where(h > r, h * 0.5, r)", "schuss.sigmoid(h) * r + schuss.tanh(h)",
        "h + 0.1 * schuss.softmax(r, axis=-1)", "schuss.tanh(t + r)", "h - r.mean()",
        "schuss.concat([schuss.sin(h)[:1], r[1:]], axis=0)", "schuss.flip(h) * 0.5 + r",
    ])  # fmt: skip
    if len(value.shape) == 3:
        form = m.random.choice([form, "schuss.tanh(h @ {w} + r)", "schuss.tanh((h + r) @ {w} + t)"])
    y = m.random.choice(["h", "n", "n * r", "n.sum()", "(h, n)[1] - h", "n @ {w}"])
    first, second = m.fresh(), m.fresh()
    step = f"lambda h, x: (lambda r, t: (lambda n: (n, {y}))({form}))(*x)".format(w=w)
    rows = m.random.choice([f"{table}[{index}]", f"{x} * 0.5"])
    reverse = m.chance(0.4)
    return f"{first}, {second} = schuss.scan({step}, {h}, ({x}, {rows}), reverse={reverse})"


@step(1)
def branch(m: Any) -> str:
    """A choice as an op, by a value."""
    a = m.pick("f")
    b = m.input(m.env[a].shape, str(m.env[a].dtype))
    n = m.number(m.env[a].dtype)
    forms = ["s * 2", "schuss.tanh(s)", "t", "s + t", f"s * {n}", "schuss.where(s > t, s, t * 2)"]
    first, second = m.random.sample(forms, 2)
    return (
        f"{m.fresh()} = schuss.cond({a}.sum() > {n}, "
        f"lambda s, t: {first}, lambda s, t: {second}, {a}, {b})"
    )


@step(1)
def half(m: Any) -> str:
    """A product under autocast."""
    a = m.pick("f", least=1)
    b = m.input((m.env[a].shape[-1], m.random.choice(m.sizes)), str(m.env[a].dtype))
    form = m.random.choice(["{a} @ {b}", "schuss.tanh({a} @ {b})", "({a} @ {b}).sum(axis=-1)"])
    return f"with schuss.autocast(): {m.fresh()} = {form.format(a=a, b=b)}"


# --- derivatives, looks ---


@step(10)
def differentiate(m: Any) -> str | None:
    found = [name for name, value in m.env.items() if value.requires_grad and name[0] == "v"]
    if not found or not m.leaves:
        return None
    xs = m.random.sample(m.leaves, min(len(m.leaves), m.random.choice([1, 1, 2])))
    first = int(m.fresh()[1:])
    names = ", ".join(f"v{first + i}" for i in range(len(xs)))
    y = m.random.choice(found[-3:])
    if len(xs) == 1:
        return f"{names} = gradient({y}, {xs[0]}, again={m.chance(0.5)})[0]"
    return f"{names} = gradient({y}, {', '.join(xs)}, again={m.chance(0.5)})"


@step(1)
def grad(m: Any) -> str:
    a = m.pick("f")
    f = m.random.choice(["sin", "tanh", "exp", "sigmoid", "square", "softplus"])
    g = m.random.choice(["sum", "mean", "logsumexp", "max"])
    b = m.partner(a)
    function = "nn.functional.softplus" if f == "softplus" else f"schuss.{f}"
    inner = f"lambda t: schuss.{g}({function}(t * {b}))"
    if m.chance(0.3):
        inner = f"lambda t: (schuss.grad({inner})(t) ** 2).sum()"
    return f"{m.fresh()} = schuss.grad({inner})({a})"


@step(0.7)
def look(m: Any) -> str:
    name = m.pick()
    return m.random.choice([f"{name}.numpy()", f"repr({name})", f"schuss.evaluate({name})"])
