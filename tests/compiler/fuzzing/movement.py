"""Lines that move elements: views, joins, assignments in place."""

from __future__ import annotations

import math
from typing import Any

from .steps import step

# --- movement ---


def split_size(m: Any, n: int) -> list[int]:
    """Numbers whose product is n."""
    made = []
    while n > 1:
        factors = [k for k in range(2, n + 1) if n % k == 0]
        k = m.random.choice(factors)
        made.append(k)
        n //= k
    return made


@step(4)
def reshape(m: Any) -> str | None:
    name = m.pick()
    shape = m.env[name].shape
    if 0 in shape:
        return f"{m.fresh()} = {name}.reshape({shape[::-1]})"
    sizes: list[int] = []
    if m.chance(0.6):  # split or join a few axes
        for n in shape:
            sizes += split_size(m, n) if m.chance(0.4) else [n]
        while len(sizes) > 1 and m.chance(0.5):
            at = m.random.randrange(len(sizes) - 1)
            sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
    else:
        sizes = split_size(m, math.prod(shape))
        m.random.shuffle(sizes)
    if m.chance(0.2):
        sizes.insert(m.random.randint(0, len(sizes)), 1)
    return f"{m.fresh()} = {name}.reshape({tuple(sizes)})" if len(sizes) < 6 else None


@step(4)
def permute(m: Any) -> str:
    name = m.pick(least=2)
    axes = list(range(m.env[name].ndim))
    m.random.shuffle(axes)
    return f"{m.fresh()} = schuss.permute_dims({name}, {tuple(axes)})"


def slice_text(m: Any, shape: tuple[int, ...]) -> str:
    parts = []
    for n in shape:
        kind = m.random.random()
        if kind < 0.4 or n == 0:
            parts.append(":")
        elif kind < 0.5:
            parts.append(str(m.random.randrange(-n, n)))
        elif kind < 0.7:
            low = m.random.randrange(n)
            parts.append(f"{low}:{m.random.randint(low + (not m.chance(0.05)), n)}")
        elif kind < 0.85:
            parts.append(f"{m.random.randrange(min(n, 3))}::{m.random.choice([1, 2, 3])}")
        else:
            parts.append(m.random.choice(["::-1", "::-2", f"{n - 1}:0:-1" if n > 1 else "::-1"]))
    if m.chance(0.15):
        parts.insert(m.random.randint(0, len(parts)), "None")
    if m.chance(0.2) and parts:
        parts = parts[: m.random.randint(1, len(parts))]
    return ", ".join(parts)


@step(5)
def cut(m: Any) -> str:
    name = m.pick(least=1)
    return f"{m.fresh()} = {name}[{slice_text(m, m.env[name].shape)}]"


@step(1.5)
def flip(m: Any) -> str:
    name = m.pick(least=1)
    return f"{m.fresh()} = schuss.flip({name}, axis={m.axes(name)})"


@step(2.5)
def broadcast(m: Any) -> str:
    name = m.pick()
    shape = [
        n if n != 1 or m.chance(0.3) else m.random.choice([1, 2, 5]) for n in m.env[name].shape
    ]
    if len(shape) < 4 and m.chance(0.6):
        shape = [m.random.choice([1, 2, 3, 8]), *shape]
    return f"{m.fresh()} = schuss.broadcast_to({name}, {tuple(shape)})"


@step(1.5)
def windows(m: Any) -> str:
    name = m.pick("f", "i", least=1)
    rank = m.random.randint(1, min(2, m.env[name].ndim))
    kernel = tuple(m.random.choice([1, 2, 3]) for _ in range(rank))
    stride = tuple(m.random.choice([1, 1, 2, 3]) for _ in range(rank))
    dilation = tuple(m.random.choice([1, 1, 2]) for _ in range(rank))
    made = f"{m.fresh()} = op('windows', {name}, kernel={kernel}, stride={stride}, "
    return made + f"dilation={dilation})"


@step(0.7)
def overlap(m: Any) -> str | None:
    name = m.pick("f", least=2)
    *_, count, kernel = m.env[name].shape
    stride, dilation = m.random.choice([1, 2, 3]), m.random.choice([1, 1, 2])
    size = (
        (count - 1) * stride + dilation * (kernel - 1) + 1 + m.random.choice([0, 0, 1, stride - 1])
    )
    if not count or not kernel or (size - dilation * (kernel - 1) - 1) // stride + 1 != count:
        return None
    more = f"sizes=({size},), stride=({stride},), dilation=({dilation},)"
    return f"{m.fresh()} = op('overlap', {name}, {more})"


@step(3)
def join(m: Any) -> str:
    name = m.pick(least=1)
    value = m.env[name]
    others = [n for n, v in m.env.items() if v.shape == value.shape and v.dtype == value.dtype]
    parts = [name, *m.random.choices(others, k=m.random.choice([0, 1, 1, 2, 4]))]
    axis = m.random.randrange(value.ndim)
    if m.chance(0.3):
        return f"{m.fresh()} = schuss.stack([{', '.join(parts)}], axis={axis})"
    if m.chance(0.3):
        parts.append(f"{name}[{', '.join([':'] * axis)}{', ' if axis else ''}1:]")
    return f"{m.fresh()} = schuss.concat([{', '.join(parts)}], axis={axis})"


@step(1)
def laid(m: Any) -> str:
    """Products and running sums side by side, or within something larger."""
    name = m.pick("f", least=2)
    if m.chance(0.3):
        *lead, n = m.env[name].shape[:-1]
        parts = m.random.choice([d for d in range(1, n + 1) if n % d == 0] or [1])
        made = f"schuss.cumulative_sum({name} * 0.5, axis=-2)"
        made = f"{made}.reshape({[*lead, parts, n // parts, m.env[name].shape[-1]]})"
        return f"{m.fresh()} = schuss.pad({made}, {[(0, 1), (m.random.choice([0, 2]), 0), (0, 1)]})"
    k = m.env[name].shape[-1]
    dtype = str(m.env[name].dtype)
    parts = []
    for _ in range(m.random.choice([1, 2, 3])):
        part = f"{name} @ {m.input((k, m.random.choice([1, 3, 16, 17])), dtype)}"
        parts.append(m.random.choice([part, f"({part}).relu()", f"({part} + 1)"]))
    joined = f"schuss.concat([{', '.join(parts)}], axis=-1)" if len(parts) > 1 else parts[0]
    if m.chance(0.5):
        joined = f"schuss.pad({joined}, {[(m.random.choice([0, 1, 3]), 2), (0, 5)]})"
    return f"{m.fresh()} = {joined}"


@step(2)
def rearrange(m: Any) -> str:
    name = m.pick(least=1)
    rank = m.env[name].ndim
    axis = m.random.randrange(rank)
    widths = [(m.random.choice([0, 1, 3]), m.random.choice([0, 2])) for _ in range(rank)]
    text = m.random.choice([
        f"schuss.roll({name}, {m.random.randint(-3, 5)}, axis={axis})",
        f"schuss.repeat({name}, {m.random.choice([1, 2, 3])}, axis={axis})",
        f"schuss.tile({name}, {tuple(m.random.choice([1, 2]) for _ in range(rank))})",
        f"schuss.pad({name}, {widths})",
        f"schuss.expand_dims({name}, axis={axis})",
        f"schuss.squeeze({name})",
        f"schuss.flatten({name})",
        f"schuss.tril({name})",
        f"schuss.triu({name}, k=1)",
        f"schuss.diff({name}, axis={axis})",
        f"schuss.moveaxis({name}, {axis}, {m.random.randrange(rank)})",
    ])  # fmt: skip
    return f"{m.fresh()} = {text}"


# --- in place ---


@step(4)
def assign(m: Any) -> str:
    name = m.random.choice([n for n in m.env if n[0] == "v"] or [m.pick(least=1)])
    value = m.env[name]
    if not value.ndim or m.chance(0.3):
        return f"{name} {m.random.choice(['+=', '-=', '*='])} {m.partner(name)}"
    key = slice_text(m, value.shape)
    if m.chance(0.4):
        return f"{name}[{key}] = {m.number(value.dtype)}"
    if m.chance(0.3):
        return f"{name}[{key}] *= {m.number(value.dtype)}"
    if m.chance(0.3):
        return f"{name}[{key}] = {name}[{key}] + 1"
    part = value[eval(f"np.s_[{key}]", {"np": __import__("numpy")})]
    other = m.input(m.like(part.shape)[-part.ndim :] if part.ndim else (), str(value.dtype))
    return f"{name}[{key}] = {other}"


@step(1)
def assign_where(m: Any) -> str:
    name = m.pick("f", least=1)
    return f"{name}[{name} > {m.number(m.env[name].dtype)}] = {m.number(m.env[name].dtype)}"


@step(1)
def copy(m: Any) -> str:
    name = m.pick()
    return f"{m.fresh()} = {m.random.choice([f'+{name}', f'{name}.detach()', f'{name}'])}"
