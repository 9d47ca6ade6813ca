"""LeNet on Fashion-MNIST as the lecture trains it, beside the lecture's figures."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import schuss
from schuss import nn, optim
from schuss.recipes import loops
from schuss.recipes.recipe import Target, recipe, records, run_folder
from schuss.training import Accuracy, Trainer


def lenet() -> nn.Module:
    """LeCun et al., 1998, with plain average pooling: (N, 1, 28, 28) to (N, 10)."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return model


@recipe(Target("accuracy on the test images", 0.78))
def lenet_sigmoid(
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 0.9,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    out: Path = Path("runs/lenet-sigmoid"),
    resume: bool = False,
) -> float:
    """LeNet of sigmoids on Fashion-MNIST, as a lecture trains it: plain gradient descent.

    Setting and published figures: A. Smola and M. Li, "Deep Learning Basics" (d2l.ai), 2019,
    notebook "Convolutional Neural Networks (LeNet)". At this learning rate the accuracy swings by
    some hundredths from epoch to epoch: 0.79 to 0.81 after the last one with seeds 0 to 4.

    Args:
        epochs: how often to go through the training images.
        batch_size: images in a step.
        lr: the learning rate.
        limit: how many training images to use; none for all 60,000.
        seed: of the initial weights and the order.
        root: a folder with the data files; without it they are looked for and downloaded (31 MB).
        out: the folder for checkpoints and history.
        resume: go on with the newest run in that folder.
    """
    schuss.manual_seed(seed)
    network = lenet()
    training, held_out = loops.fashion_loaders(batch_size, limit, root)
    out = run_folder(out, resume)
    trainer = Trainer(
        network,
        nn.CrossEntropyLoss(),
        optim.SGD(network.parameters(), lr=lr),
        metrics={"accuracy": Accuracy()},
        callbacks=records(out),
    )
    folder = out / "checkpoints"
    history = trainer.fit(
        training, epochs=epochs, validation=held_out, checkpoints=folder, resume=resume
    )
    accuracy = trainer.evaluate(held_out)["accuracy"]
    rate = median(each["samples_per_second"] for each in history.times)
    print(
        f"test accuracy {accuracy:.3f}, {rate:,.0f} images a second, reading them included; "
        "the lecture publishes 0.825 and 52,694 on a GPU (2019), reading excluded"
    )
    return accuracy
