"""Points of which none is near another: each is the farthest from those before it."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["farthest_points"]

Array = NDArray[np.float64]


def farthest_points(x: Array, n: int, first: int) -> NDArray[np.int64]:
    """Numbers of n of the points.

    Args:
        x: points, (n_points, dim), at least n.
        n: how many.
        first: number of the one to begin with.
    """
    coordinates = np.ascontiguousarray(x.T)

    def squared_distance(k: int) -> Array:
        return sum(((s - s[k]) ** 2 for s in coordinates), np.zeros(len(x)))

    chosen = np.empty(n, dtype=np.int64)
    chosen[0] = first
    nearest = squared_distance(first)
    for k in range(1, n):
        chosen[k] = np.argmax(nearest)
        nearest = np.minimum(nearest, squared_distance(chosen[k]))
    return chosen
