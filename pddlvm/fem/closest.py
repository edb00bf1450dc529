"""The point of a triangulated surface that is closest to a point in space."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["closest"]

Array = NDArray[np.float64]


def closest(corners: Array, x: Array) -> tuple[int, Array, float]:
    """Triangle, barycentric coordinates in it and distance of the surface point closest to x.

    The candidates of a triangle are the projection of x, where it falls inside, and the closest
    points of the three edges.

    Args:
        corners: (n_cells, 3, 3), the second axis counts the corners.
        x: (3,).
    """
    candidates = [_projection(corners, x), *(_on_edge(corners, i, x) for i in range(3))]
    weights = np.stack(candidates)
    distances = np.linalg.norm(np.einsum("kci,cid->kcd", weights, corners) - x, axis=-1)
    inside = (weights >= 0).all(axis=-1)
    distances = np.where(inside, distances, np.inf)
    kind, cell = np.unravel_index(int(distances.argmin()), distances.shape)
    return int(cell), weights[kind, cell], float(distances[kind, cell])


def _projection(corners: Array, x: Array) -> Array:
    """Barycentric coordinates of the projection on each plane, (n_cells, 3)."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    d = x - corners[:, 0]
    aa, ab, bb = (np.einsum("cd,cd->c", p, q) for p, q in ((a, a), (a, b), (b, b)))
    ad, bd = np.einsum("cd,cd->c", a, d), np.einsum("cd,cd->c", b, d)
    determinant = aa * bb - ab**2
    second = (bb * ad - ab * bd) / determinant
    third = (aa * bd - ab * ad) / determinant
    return np.stack([1 - second - third, second, third], axis=1)


def _on_edge(corners: Array, i: int, x: Array) -> Array:
    """Barycentric coordinates of the closest point of the edge from corner i, (n_cells, 3)."""
    j = (i + 1) % 3
    along = corners[:, j] - corners[:, i]
    length = np.einsum("cd,cd->c", along, along)
    t = np.clip(np.einsum("cd,cd->c", x - corners[:, i], along) / length, 0.0, 1.0)
    found = np.zeros((len(corners), 3))
    found[:, i], found[:, j] = 1 - t, t
    return found
