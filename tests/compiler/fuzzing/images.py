"""Lines about images and sequences: convolutions, pooling, normalisation over channels."""

from __future__ import annotations

from typing import Any

from .steps import step


def image(m: Any) -> tuple[str, int]:
    """A floating variable (N, C, sizes), one with an image before it if there is one."""
    name = m.pick("f", "V", least=3)
    value = m.env[name]
    if value.ndim > 5 or 0 in value.shape or value.size > 5000:
        n, c = m.random.choice([1, 2, 3, 9]), m.random.choice([1, 2, 3, 6, 8, 17])
        rank = m.random.choice([1, 2, 2, 2, 3])
        sizes = [m.random.choice([1, 3, 4, 5, 7, 8]) for _ in range(rank)]
        name = m.input((n, c, *sizes), m.main)
        value = m.env[name]
    return name, value.ndim - 2


def spans(m: Any, rank: int, sizes: tuple[int, ...], most: int = 3) -> tuple[str, list[int]]:
    """Stride, padding and dilation as arguments, and the kernel."""
    dilation = m.random.choice([1, 1, 1, 2])
    # An infinite weight at the border is left out or makes NaN of a zero: no border, in any
    # direction, where there may be one.
    padding = [0 if m.wild else m.random.choice([0, 0, 1, 1, 2]) for _ in range(rank)]
    kernel = []
    for n, p in zip(sizes, padding, strict=True):
        largest = 1 if m.wild else most
        fitting = [k for k in range(1, largest + 1) if dilation * (k - 1) < n + 2 * p]
        kernel.append(m.random.choice(fitting))
    stride = m.random.choice([1, 1, 2, 3])
    return f"stride={stride}, padding={tuple(padding)}, dilation={dilation}", kernel


@step(1.5)
def convolution(m: Any) -> str | None:
    name, rank = image(m)
    _, c, *sizes = m.env[name].shape
    named, kernel = spans(m, rank, tuple(sizes))
    groups = m.random.choice([g for g in (1, 1, 1, 2, 3, c) if c % g == 0])
    outputs = groups * m.random.choice([1, 2, 5, 16, 17])
    w = m.input((outputs, c // groups, *kernel), str(m.env[name].dtype))
    bias = ""
    if m.chance(0.5):
        bias = f", {m.input((outputs,), str(m.env[name].dtype))}"
    return f"{m.fresh()} = nn.functional.conv{rank}d({name}, {w}{bias}, {named}, groups={groups})"


@step(0.7)
def pooling(m: Any) -> str | None:
    name, rank = image(m)
    if rank > 2:
        return None
    size, stride = m.random.choice([1, 2, 2, 3]), m.random.choice([1, 2, 3])
    kind = m.random.choice(["max", "avg"])
    padding = m.random.randint(0, size // 2)
    return (
        f"{m.fresh()} = nn.functional.{kind}_pool{rank}d({name}, {size}, stride={stride}, "
        f"padding={padding})"
    )


@step(0.7)
def windows_at_edges(m: Any) -> str | None:
    """Largest elements of windows some of which reach beyond the edges."""
    name, rank = image(m)
    dilation, size = m.random.choice([1, 1, 2]), m.random.choice([2, 3, 4])
    padding = m.random.randint(0, size // 2)
    if any(n + 2 * padding <= dilation * (size - 1) for n in m.env[name].shape[2:]):
        return None
    return (
        f"{m.fresh()} = nn.functional.max_pool{rank}d({name}, {size}, padding={padding}, "
        f"stride={m.random.choice([1, 2, 3])}, dilation={dilation}, "
        f"ceil_mode={m.random.choice([True, False])})"
    )


@step(1)
def branches(m: Any) -> str:
    """What convolutions and poolings make of one image, side by side or within something larger."""
    name, rank = image(m)
    c = m.env[name].shape[1]
    parts = []
    for _ in range(m.random.choice([1, 2, 2, 3])):
        size = 1 if m.wild else m.random.choice([1, 1, 3])
        w = m.input((m.random.choice([1, 3, 16, 17]), c, *[size] * rank), str(m.env[name].dtype))
        part = f"nn.functional.conv{rank}d({name}, {w}, padding={size // 2})"
        parts.append(m.random.choice([part, f"{part}.relu()", f"({part} * 2 + 1)"]))
    if m.chance(0.4):
        parts.append(f"nn.functional.max_pool{rank}d({name}, 3, stride=1, padding=1)")
    joined = f"schuss.concat([{', '.join(parts)}], axis=1)" if len(parts) > 1 else parts[0]
    if m.chance(0.3):
        around = [(m.random.choice([0, 1]), m.random.choice([0, 2])) for _ in range(1 + rank)]
        joined = f"schuss.pad({joined}, {around})"
    return f"{m.fresh()} = {joined}"


@step(0.7)
def over_channels(m: Any) -> str:
    """What stands between convolutions: statistics, scales, global means, activations."""
    name, rank = image(m)
    c = m.env[name].shape[1]
    column = (1, c) + (1,) * rank
    axes = (0, *range(2, 2 + rank))
    return m.random.choice([
        f"{m.fresh()} = {name} - {name}.mean(axis={axes}, keepdims=True)",
        f"{m.fresh()} = ({name} * {m.input(column, str(m.env[name].dtype))}).relu()",
        f"{m.fresh()} = {name}.mean(axis={tuple(range(2, 2 + rank))})",
        f"{m.fresh()} = schuss.concat([{name}, {name} * 2], axis=1)",
        f"{m.fresh()} = {name}.reshape({m.env[name].shape[0]}, -1)",
    ])  # fmt: skip


@step(0.7)
def transposed(m: Any) -> str | None:
    """A transposed convolution: what spreads an image out."""
    name, rank = image(m)
    _, c, *sizes = m.env[name].shape
    named, kernel = spans(m, rank, tuple(sizes))
    groups = m.random.choice([g for g in (1, 1, 2, c) if c % g == 0])
    w = m.input((c, m.random.choice([1, 2, 5, 16]), *kernel), str(m.env[name].dtype))
    function = f"nn.functional.conv_transpose{rank}d"
    return f"{m.fresh()} = {function}({name}, {w}, None, {named}, groups={groups})"


@step(0.7)
def normalised(m: Any) -> str:
    """Group and instance norms, enlargements."""
    name, _ = image(m)
    c = m.env[name].shape[1]
    groups = m.random.choice([g for g in (1, 2, 3, c) if c % g == 0])
    return m.random.choice([
        f"{m.fresh()} = nn.functional.group_norm({name}, {groups})",
        f"{m.fresh()} = nn.functional.instance_norm({name})",
        f"{m.fresh()} = nn.functional.interpolate({name}, scale_factor=2)",
    ])  # fmt: skip
