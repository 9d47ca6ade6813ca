"""Random small networks of layers, trained as users train them.

Modes toggle, layers are shared, steps accumulate gradients, run under autocast or change their
learning rate. What the compiler, the patterns of a loop and the layers make of it together shows.
"""

from __future__ import annotations

import random

from .program import Program

_LOOKS = (
    "kept.append(loss.item())", "kept.append(loss.detach())", "kept.append(y.detach())",
    "net.eval(); kept.append(net(x).detach()); net.train()",
    "net.train(step % 2 == 0)", "del y", "kept += [b.detach() for b in net.buffers()][:2]",
    "kept.append([p.grad for p in net.parameters()][-1])",
    "optimizer.param_groups[0]['lr'] *= 0.5", "total = total + loss.detach()",
    "schuss.evaluate(loss)", "kept.append(y.mean().item() if float(loss) < 1 else 0.0)",
    "optim.clip_grad_norm(net.parameters(), 1.0)", "state = net.state_dict()",
    "net.load_state_dict(state)", "kept.append(list(net.parameters())[0].numpy())",
    "list(net.parameters())[0].requires_grad_(step % 2 == 1)",
    "kept.append((y * y).sum().item())", "kept.append((y * loss).tanh())", "kept.append(y.numpy())",
    "list(net.parameters())[-1].grad = None", "net(x)", "kept.append(net(x).sum().item())",
)  # fmt: skip

_METHODS = (
    "SGD({p}, lr=0.05)", "SGD({p}, lr=0.05, momentum=0.9, weight_decay=0.01)",
    # With a small eps a step is the sign of a gradient, which may be that of a rounding.
    "Adam({p}, lr=0.003, eps=0.01)", "AdamW({p}, lr=0.003, eps=0.01)",
)  # fmt: skip

_SCHEDULES = (
    "", "", "optim.StepLR(optimizer, 2)", "optim.ExponentialLR(optimizer, 0.5)",
    "optim.CosineAnnealingLR(optimizer, 5)",
)  # fmt: skip


def _images(rng: random.Random, c: int, size: int) -> tuple[list[str], int]:
    """Layers from (N, c, size, size) to (N, features)."""
    layers = []
    outputs, kernels = [1, 2, 4, 8, 16, 17], [1, 1, 2, 3, 3]
    if c == 32:  # enough for minimal filtering
        outputs, kernels = [32, 48], [3]
    for _ in range(rng.randint(1, 3)):
        o, k = rng.choice(outputs), rng.choice(kernels)
        groups = rng.choice([g for g in (1, 1, 1, c) if o % g == 0 and c % g == 0])
        stride, padding = rng.choice([1, 1, 2]), rng.randint(0, k // 2)
        after = (size + 2 * padding - k) // stride + 1
        if after < 1:
            break
        more = f"stride={stride}, padding={padding}, groups={groups}, bias={rng.random() < 0.5}"
        layers.append(f"nn.Conv2d({c}, {o}, {k}, {more})")
        c, size = o, after
        if rng.random() < 0.6:
            norms = [f"nn.BatchNorm2d({c})", f"nn.BatchNorm2d({c})", f"nn.GroupNorm(1, {c})"]
            layers.append(rng.choice(norms))
        if rng.random() < 0.8:
            layers.append(f"nn.{rng.choice(['ReLU', 'GELU', 'SiLU', 'Tanh'])}()")
        if rng.random() < 0.3 and size > 1:
            layers.append(f"nn.{rng.choice(['MaxPool2d', 'AvgPool2d'])}(2)")
            size //= 2
        if rng.random() < 0.2:
            inner = f"Residual(nn.Conv2d({c}, {c}, 3, padding=1), nn.BatchNorm2d({c}))"
            layers += [inner, "nn.ReLU()"]
    if rng.random() < 0.4:
        return [*layers, "nn.AdaptiveAvgPool2d(1)", "nn.Flatten()"], c
    return [*layers, "nn.Flatten()"], c * size * size


def _features(rng: random.Random, d: int) -> tuple[list[str], int]:
    """Layers from (N, d) to (N, features)."""
    layers = []
    for _ in range(rng.randint(0, 2)):
        h = rng.choice([2, 8, 16, 31])
        layers.append(f"nn.Linear({d}, {h})")
        d = h
        if rng.random() < 0.3:
            layers.append(rng.choice([f"nn.LayerNorm({d})", f"nn.BatchNorm1d({d})"]))
        layers.append(f"nn.{rng.choice(['ReLU', 'GELU', 'Sigmoid', 'Tanh', 'Dropout'])}()")
        if rng.random() < 0.3:
            layers += [f"Residual(nn.Linear({d}, {d}))", "shared"]
    return layers, d


def _sequence(rng: random.Random, d: int) -> tuple[list[str], int]:
    """Layers from (N, T, d) to (N, features)."""
    h = rng.choice([2, 4, 9])
    kind = rng.choice(["RNN", "LSTM", "GRU"])
    more = f"num_layers={rng.choice([1, 1, 2])}, bidirectional={rng.random() < 0.3}"
    return [f"Last(nn.{kind}({d}, {h}, batch_first=True, {more}))"], 2 * h if "True" in more else h


_HELPERS = (
    "class Residual(nn.Module):",
    "    def __init__(self, *layers):",
    "        super().__init__()",
    "        self.inner = nn.Sequential(*layers)",
    "    def forward(self, x):",
    "        return x + self.inner(x)",
    "class Last(nn.Module):",
    "    def __init__(self, layer):",
    "        super().__init__()",
    "        self.layer = layer",
    "    def forward(self, x):",
    "        return self.layer(x)[0][:, -1]",
)


def network(seed: int) -> Program:
    """A network, trained for some steps; returns what was kept, the parameters and the buffers."""
    rng = random.Random(seed)
    n, o = rng.choice([2, 3, 5, 16]), rng.choice([1, 2, 4, 10])
    kind = rng.choice(["image", "image", "image", "features", "sequence"])
    if kind == "image":
        c, size = rng.choice([1, 3, 4, 16, 32]), rng.choice([4, 5, 8])
        shape: tuple[int, ...] = (c, size, size)
        layers, d = _images(rng, c, size)
    elif kind == "sequence":
        shape = (rng.choice([1, 3, 8]), rng.choice([1, 4, 8]))
        layers, d = _sequence(rng, shape[1])
    else:
        shape = (rng.choice([1, 3, 8, 17]),)
        layers, d = [], shape[0]
    more, d = _features(rng, d)
    layers += [*more, f"nn.Linear({d}, {o})"]
    steps = rng.randint(2, 5)
    if kind == "features" and rng.random() < 0.5:
        steps = 9  # layers become patterns after some
    inputs = {
        "x0": f"rng(0).standard_normal(({steps}, {n}, {', '.join(map(str, shape))}, ))"
              ".astype(schuss.float32)",
        "x1": f"rng(1).standard_normal(({n}, {o})).astype(schuss.float32)",
        "x2": f"rng(2).integers(0, {o}, ({n},))",
    }  # fmt: skip
    method, half = rng.choice(_METHODS), rng.random() < 0.2
    lines = [
        *_HELPERS,
        "kept, total = [], 0",
        "shared = nn.Tanh()",
        f"net = nn.Sequential({', '.join(layers)})",
        f"optimizer = optim.{method.format(p='net.parameters()')}",
        "state = net.state_dict()",
    ]
    schedule = rng.choice(_SCHEDULES)
    if schedule:
        lines.append(f"schedule = {schedule}")
    accumulate = rng.choice([1, 1, 1, 2])
    step = ["x = x0[step]"]
    if half:
        step.append("with schuss.autocast(schuss.bfloat16): y = net(x)")
        step.append("y = y.astype(schuss.float32)")
    else:
        step.append("y = net(x)")
    losses = ["((y - x1) ** 2).mean()", "nn.functional.cross_entropy(y, x2)",
              "nn.functional.huber_loss(y, x1)"]  # fmt: skip
    step.append(f"loss = {rng.choice(losses)}")
    looks = rng.sample(_LOOKS, rng.choice([0, 1, 2, 3]))
    at = rng.choice([0, 1]) * len(looks) // 2
    every = f"if step % {accumulate} == {accumulate - 1}: " if accumulate > 1 else ""
    first = "" if accumulate == 1 else f"if step % {accumulate} == 0: "
    step += [f"{first}optimizer.zero_grad()", "loss.backward()"]
    step += [look for look in looks[:at] if "del y" not in look]
    step.append(f"{every}optimizer.step()")
    if schedule:
        step.append("schedule.step()")
    step += sorted(looks[at:], key=lambda look: "del y" in look)
    lines += [f"for step in range({steps}):", *[f"    {line}" for line in step]]
    return Program(
        inputs, tuple(lines), ("*kept", "*net.parameters()", "*net.buffers()", "total"),
        together=rng.random() < 0.5, tier=rng.choice(["compiled", "compiled", "auto"]),
    )  # fmt: skip
