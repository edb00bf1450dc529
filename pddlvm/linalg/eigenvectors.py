"""Eigenvectors that are the same ones each time."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["with_signs"]


def with_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns whose sign, which is arbitrary, makes the largest entry positive."""
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
