"""Random small training loops: what is updated in place, held, dropped and looked at varies."""

from __future__ import annotations

import random

from .program import Program

_MODELS = {  # name: (lines that make the parameters' inputs, the forward pass)
    "linear": ([("d", "o"), ("o",)], "x @ {0} + {1}"),
    "mlp": ([("d", "h"), ("h",), ("h", "o"), ("o",)], "schuss.tanh(x @ {0} + {1}) @ {2} + {3}"),
    "relu": ([("d", "h"), ("h", "h"), ("h", "o")], "((x @ {0}).relu() @ {1}).relu() @ {2}"),
    "tied": ([("d", "d"), ("d", "o")], "schuss.tanh(x @ {0} @ {0}.mT) @ {1}"),
    "norm": ([("d", "h"), ("h",), ("h",), ("h", "o")],
             "nn.functional.layer_norm(x @ {0}, ({h},), {1}, {2}) @ {3}"),
    "scale": ([("d",), ("d", "o"), ()], "(x * {0}) @ {1} * {2}"),
    "dropout": ([("d", "h"), ("h", "o")], "nn.functional.dropout(x @ {0}, 0.3).relu() @ {1}"),
    "attention": ([("d", "d"), ("d", "d"), ("d", "o")],
                  "nn.functional.scaled_dot_product_attention(x @ {0}, x @ {1}, x) @ {2}"),
    "embedding": ([("v", "d"), ("d", "o")], "nn.functional.embedding(labels, {0}) * x @ {1}"),
}  # fmt: skip

_LOSSES = (
    "((y - target) ** 2).mean()",
    "nn.functional.cross_entropy(y, labels)",
    "nn.functional.huber_loss(y, target)",
    "(y * target).sum() * 0.01 + (y ** 2).mean()",
)

_METHODS = (
    "SGD({p}, lr=0.05)", "SGD({p}, lr=0.05, momentum=0.9)",
    "SGD({p}, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)",
    "Adam({p}, lr=0.01)", "Adam({p}, lr=0.01, amsgrad=True)", "AdamW({p}, lr=0.01)",
    "Adagrad({p}, lr=0.05)", "Adam({p}, lr=0.01, weight_decay=0.1)",
)  # fmt: skip

_LOOKS = {  # what a step may do, before or after optimizer.step()
    "after": (
        "kept.append({q}.detach())", "kept.append({q}.numpy())", "kept.append({q} * 1)",
        "kept.append({q}.grad)", "kept.append({q}.grad.numpy())", "kept.append(loss)",
        "kept.append(loss.item())", "repr(loss)", "total = total + loss.detach()",
        "total += loss.item()", "alias = {q}.detach()", "kept.append(alias)", "del loss",
        "kept.append({q}.reshape(-1)[:2])", "kept.append({q}.T if {q}.ndim == 2 else {q} + 0)",
        "optimizer.zero_grad()", "view = {q}.detach()[:1] if {q}.ndim else {q} * 2",
        "kept.append(view)", "{q}.numpy()", "del y",
        "kept += [v for s in optimizer.state.values() for v in s.values() if "
        "isinstance(v, schuss.Tensor)]",
        "optimizer.param_groups[0]['lr'] *= 0.9", "kept.append(optimizer.state_dict()['state'])",
    ),
    "before": (
        "loss.item()", "print(loss, file=sink)", "kept.append({q}.grad.numpy())",
        "kept.append({q}.grad)", "{q}.grad *= 0.5", "y.numpy()", "kept.append(y.detach())",
        "{q}.grad = {q}.grad + 0.1 * {q}.detach()", "kept.append(x @ {r})",
        "optim.clip_grad_norm({p}, 1.0)", "kept.append({q}.detach() + {q}.grad)",
        "kept.append({q}.numpy())", "{q}.grad = None",
    ),
}  # fmt: skip


def loop(seed: int) -> Program:
    """A training loop of a few steps, which returns what it kept and the parameters."""
    rng = random.Random(seed)
    sizes = {
        "n": rng.choice([1, 2, 5, 16, 33]), "d": rng.choice([1, 3, 8, 17]),
        "h": rng.choice([2, 8, 16, 31]), "o": rng.choice([1, 2, 4, 10]), "v": 0,
    }  # fmt: skip
    sizes["v"] = sizes["o"]
    name = rng.choice(list(_MODELS))
    shapes, forward = _MODELS[name]
    dtype = rng.choice(["float32"] * 5 + ["float64", "bfloat16"])
    params = [f"p{i}" for i in range(len(shapes))]
    made = [tuple(sizes[letter] for letter in shape) for shape in shapes]
    inputs = {
        f"x{i}": f"(rng({i}).standard_normal({shape}) * 0.5).astype(schuss.{dtype})"
        for i, shape in enumerate(made)
    }
    first = len(made)
    steps = rng.randint(2, 5)
    n, d, o = sizes["n"], sizes["d"], sizes["o"]
    batches = rng.random() < 0.5
    count = steps if batches else 1
    inputs[f"x{first}"] = (
        f"rng({first}).standard_normal(({count}, {n}, {d})).astype(schuss.{dtype})"
    )
    inputs[f"x{first + 1}"] = f"rng({first + 1}).standard_normal(({n}, {o})).astype(schuss.{dtype})"
    inputs[f"x{first + 2}"] = f"rng({first + 2}).integers(0, {o}, ({n},))"
    listed = f"[{', '.join(params)}]"
    fill = {"p": listed, "q": rng.choice(params), "r": "p0"}
    lines = [f"{p} = x{i}.detach()" for i, p in enumerate(params)]
    lines += [f"{p}.requires_grad = True" for p in params]
    lines += [
        f"target, labels = x{first + 1}, x{first + 2}",
        "kept, total, sink = [], 0, __import__('io').StringIO()",
        "alias = view = p0.detach()",
        f"optimizer = optim.{rng.choice(_METHODS).format(p=listed)}",
    ]
    if rng.random() < 0.3:
        lines.append(f"kept.append({rng.choice(params)}.detach())")
    lines.append(f"for step in range({steps}):")
    step = [
        f"x = x{first}[{'step' if batches else '0'}]",
        f"y = {forward.format(*params, **sizes)}",
        f"loss = {rng.choice(_LOSSES)}",
    ]
    zero = rng.random() < 0.8
    if zero:
        step.append("optimizer.zero_grad()")
    if rng.random() < 0.1:
        step.append("loss.backward(retain_graph=True)")
    step.append("loss.backward()")
    for look in rng.sample(_LOOKS["before"], rng.choice([0, 0, 1, 2, 3])):
        step.append(look.format(**{**fill, "q": rng.choice(params)}))
    step.append("optimizer.step()")
    for look in rng.sample(_LOOKS["after"], rng.choice([0, 1, 2, 3, 4])):
        text = look.format(**{**fill, "q": rng.choice(params)})
        step.append(f"if step == {rng.randrange(steps)}: {text}" if rng.random() < 0.3 else text)
    lines += [f"    {line}" for line in step]
    return Program(
        inputs,
        tuple(lines),
        ("*kept", *params, "total"),
        together=rng.random() < 0.5,
        tier=rng.choice(["compiled", "compiled", "auto"]),
    )
