"""Linear regression, twice: by gradient descent and in closed form."""

from __future__ import annotations

import schuss
from schuss import optim
from schuss.data import ArrayDataset, DataLoader
from schuss.recipes.recipe import Target, recipe


@recipe(Target("largest difference of the two solutions", 1e-2, at_least=False))
def linear(
    samples: int = 1000,
    epochs: int = 5,
    batch_size: int = 10,
    lr: float = 0.03,
    noise: float = 0.01,
    seed: int = 0,
) -> float:
    """A line in two variables, y = 2 x1 - 3.4 x2 + 4.2: gradient descent and the closed form.

    Args:
        samples: how many points to draw.
        epochs: how often to go through them.
        batch_size: points in a step.
        lr: the learning rate.
        noise: the standard deviation of the noise on y.
        seed: of the points and the order.
    """
    schuss.manual_seed(seed)
    true_w, true_b = schuss.tensor([2.0, -3.4]), 4.2
    x = schuss.random.normal((samples, 2))
    y = x @ true_w + true_b + noise * schuss.random.normal((samples,))

    w = schuss.zeros(2).requires_grad_()
    b = schuss.zeros(()).requires_grad_()
    optimizer = optim.SGD([w, b], lr=lr)
    loader = DataLoader(ArrayDataset(x, y), batch_size, shuffle=True)
    for epoch in range(epochs):
        for features, values in loader:
            optimizer.zero_grad()
            loss = ((features @ w + b - values) ** 2).mean() / 2
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {float(((x @ w + b - y) ** 2).mean() / 2):.6f}")

    design = schuss.concat([x, schuss.ones(samples, 1)], axis=1).astype(schuss.float64)
    closed = schuss.solve(design.T @ design, design.T @ y.astype(schuss.float64))
    found = schuss.concat([w.detach(), b.detach().reshape(1)])
    print(f"gradient descent: {found.tolist()}")
    print(f"closed form:      {closed.tolist()}")
    return float((found - closed).abs().max())
