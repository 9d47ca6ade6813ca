"""Make src/schuss/data/embedded/digits.npz from scikit-learn's copy of the UCI digits.

    pip install scikit-learn numpy
    python tools/make_digits.py

The same input gives the same bytes (NumPy writes no time of day into the archive).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).parents[1] / "src/schuss/data/embedded/digits.npz"


def main() -> None:
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    assert np.array_equal(images, digits.images)  # nothing is rounded: pixels are 0 to 16
    np.savez_compressed(TARGET, images=images, labels=labels)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, images {images.shape}, labels {labels.shape}")


if __name__ == "__main__":
    main()
