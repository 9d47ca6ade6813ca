"""Random functions under `schuss.jit`, called in a loop while the world around them changes.

The reference tier runs them as they stand, so whatever jit freezes, forgets or repeats shows.
"""

from __future__ import annotations

import random

from .program import Program

_INSIDE = (  # what a recording can hold
    "total[0] = total[0] + loss.detach()", "y = y * scale", "y = y + offset", "y = y * (1 + rate)",
    "table[1] += 1", "table[2] = y.mean().detach()", "y = y + table.sum() * 0.01",
    "y = y + schuss.random.uniform(y.shape).astype(y.dtype)", "y = nn.functional.dropout(y, 0.2)",
    "y = y + state.get('v', 0)", "y = y[:1]", "y = y.reshape(-1)", "y = y + flags[0]",
    "y = helper(y)", "y = schuss.sort(y, axis=-1)", "y = y @ y.mT", "y = y + other",
    "other = y.detach()", "table = table + 1", "y = y[schuss.asarray([0, 0])]", "y = y + k",
    "y += 1", "y[0] = 0.5", "x += 1", "state['v'] = y.detach()", "y = y + 1.5 * other",
    "y = schuss.grad(lambda t: (t * y.detach()).sum())(y.detach())", "y = y + x.sum()",
    "total[0] = loss.detach()", "y = y * flags[1] + len(flags)", "y = y.detach() * p1.mean()",
    "total[0], other = other, total[0]", "optimizer.param_groups[0]['lr'] *= 0.9",
    "y = y + optimizer.param_groups[0]['lr']",
)  # fmt: skip

_ODD = (  # what it cannot, or that steers the function
    "kept.append(loss)", "kept.append(y)", "state['n'] = state.get('n', 0) + 1",
    "y = y * state.get('n', 1)", "y = y * 2 if state.get('n', 0) % 3 == 1 else y",
    "table[k % 3] += 1", "y = y + box.value", "box.value = box.value + 0.5",
    "box.value = loss.detach()", "print(loss.item(), file=sink)", "kept.append(loss.item())",
    "y = -y if float(y.sum()) > 0 else y", "box.count += 1", "y = y * box.count",
    "y = y + flags[k % 2]", "flags.append(1.0) if k == 5 else None", "y = y * (k % 2)",
    "kept.append((y, {'loss': loss}))", "state[k] = y.detach()", "y = y + state.get(k - 1, 0)",
    "y = y + np.float32(0.5)", "y = y + schuss.tensor([scale]).astype(y.dtype)",
    "y = y + np.random.default_rng(k).standard_normal()",
)  # fmt: skip

_LEARNING = (
    "{p}.grad *= 0.5", "optim.clip_grad_norm([p0, p1], 0.5)", "kept.append({p}.grad)",
    "{p}.grad = None", "kept.append({p}.detach())", "y = {p}.grad.sum()",
    "kept.append(p0.numpy())",
)  # fmt: skip

_OUTSIDE = (
    "scale = 0.1 * i", "scale = 1 + i % 2", "offset = x4 * i", "offset = offset + 1",
    "kept.append(p0.numpy())", "kept.append(p1.detach())", "p0.assign(p0.detach() * 0.5)",
    "optimizer.param_groups[0]['lr'] = 0.1 / (i + 1)", "state = {'n': i}", "state['n'] = 0",
    "table = schuss.zeros(3) + i", "table[0] = 7.0", "kept.append(table)", "repr(found)",
    "box.value = i", "box.value = x4 * i", "box.count = i", "flags[0] = 2.0 * i",
    "total = [0.0]", "kept.append(total[0])", "p1.requires_grad = not p1.requires_grad",
    "rate = 0.5 / (i + 1)", "rate = schuss.tensor(0.25 * i).astype(x4.dtype)",
    "other = p1.detach()",
    "x_now = x3[:1] if i == 4 else x3", "x_now = x3 * i", "x_now = x3.astype(schuss.float64)",
    "helper = schuss.tanh if i % 3 else schuss.exp", "optimizer.zero_grad()", "gone = found",
    "p0.grad = None", "schuss.manual_seed(i // 2)", "x_now = p0", "x_now = x_now + 1",
)  # fmt: skip

_STEPS = (
    "optimizer.zero_grad()", "loss.backward()", "optimizer.step()",
)  # fmt: skip


def jit_loop(seed: int) -> Program:
    """A jitted function, ten calls of it, and what it returned and left behind."""
    rng = random.Random(seed)
    n, d, o = rng.choice([2, 3, 5, 17]), rng.choice([1, 3, 8]), rng.choice([1, 2, 4])
    dtype = rng.choice(["float32", "float32", "float32", "float64"])
    inputs = {
        "x0": f"(rng(0).standard_normal(({d}, {o})) * 0.5).astype(schuss.{dtype})",
        "x1": f"(rng(1).standard_normal(({o},)) * 0.5).astype(schuss.{dtype})",
        "x3": f"rng(3).standard_normal(({n}, {d})).astype(schuss.{dtype})",
        "x4": f"rng(4).standard_normal(({o},)).astype(schuss.{dtype})",
    }
    method = rng.choice(["SGD([p0, p1], lr=0.05)", "SGD([p0, p1], lr=0.05, momentum=0.9)",
                         "Adam([p0, p1], lr=0.01)"])  # fmt: skip
    lines = [
        "p0, p1 = x0.detach(), x1.detach()",
        "p0.requires_grad = p1.requires_grad = True",
        f"optimizer = optim.{method}",
        "kept, total, state, flags, sink = [], [0.0], {}, [0.5, 1.5], __import__('io').StringIO()",
        "box = __import__('types').SimpleNamespace(value=x4 * 1, count=1)",
        "table, offset, other, scale, rate = schuss.zeros(3) + 0, x4, x4 * 2, 1.0, 0.1",
        "x_now, helper, found = x3, schuss.tanh, None",
        "@schuss.jit",
        "def step(x, rate, k):",
    ]
    learns = rng.random() < 0.6
    body = [f"y = {rng.choice(['schuss.tanh(x @ p0 + p1)', 'x @ p0 + p1', '(x @ p0) * p1'])}"]
    pool = [*_INSIDE, *_ODD] if rng.random() < 0.3 else list(_INSIDE)
    early = [line for line in pool if "loss" not in line]
    body += rng.sample(early, rng.choice([0, 1, 1, 2, 3, 4]))
    body.append("loss = (y * y).mean()")
    if learns:
        middle = rng.sample(_LEARNING, rng.choice([0, 0, 1, 2]))
        middle = [line.format(p=rng.choice(["p0", "p1"])) for line in middle]
        body += [_STEPS[0], _STEPS[1], *middle, _STEPS[2]]
    body += rng.sample(pool, rng.choice([0, 0, 0, 1, 2]))
    results = ["loss.detach()", "loss.detach()", "(loss.detach(), y.detach())", "[y.detach()]",
               "None", "{'y': y.detach() * 2, 'n': 1}", "(x, p0.detach())", "loss"]  # fmt: skip
    body.append(f"return {rng.choice(results)}")
    rebound = [name for name in ("other", "table") if any(_binds(line, name) for line in body)]
    lines += [f"    nonlocal {', '.join(rebound)}"] if rebound else []
    lines += [f"    {line}" for line in body]
    k = rng.choice(["0", "0", "0", "i", "i % 2"])
    loop = [f"found = step(x_now, {rng.choice(['rate', '0.1', 'scale'])}, {k})"]
    loop.append("kept.append(found)")
    for line in rng.sample(_OUTSIDE, rng.choice([0, 1, 2, 3])):
        when = rng.choice(["", "", "if i % 3 == 2: ", "if i == 6: "])
        loop.insert(rng.choice([0, len(loop)]), when + line)
    lines += [f"for i in range({rng.choice([8, 10, 12])}):", *[f"    {line}" for line in loop]]
    return Program(
        inputs, tuple(lines), ("kept", "p0", "p1", "table", "total"),
        together=rng.random() < 0.5, tier=rng.choice(["compiled", "auto"]),
    )  # fmt: skip


def _binds(line: str, name: str) -> bool:
    return line.startswith(f"{name} = ") or f", {name} = " in line
