"""Prediction in Schuss: the model in evaluation mode, and compiled for inference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import schuss
from common.pictures import Picture, weights
from schuss import models


def unavailable(variant: str) -> str | None:
    """Why this side cannot be measured, if so."""
    return None


def make(picture: Picture, variant: str, images: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that predicts logits (N, 1000) for the images.

    Args:
        variant: "plain" or "compiled".
    """
    model = getattr(models, picture.network)().eval()
    shapes = {name: each.shape for name, each in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    x = schuss.tensor(images)
    predict = model.compile_for_inference(x) if variant == "compiled" else model

    def run() -> np.ndarray:
        with schuss.no_grad():
            return predict(x).numpy()

    return run


def describe() -> str:
    """What computed."""
    return str(schuss.last_run()).replace("\n", "; ")
