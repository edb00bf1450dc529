"""The points of a triangulated surface that are closest to points in space.

The surface is no further from a point than its closest vertex: triangles whose middle is that far
away, and the radius of the largest triangle, are looked at. In each the candidates are the
projection of the point, where it falls inside, and the closest points of the three edges.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["closest", "on_triangles"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_CHUNK = 128
"""Points that are looked at together."""


def closest(corners: Array, points: Array) -> tuple[Index, Array, Array]:
    """Triangle (n,), barycentric coordinates in it (n, 3) and distance (n,) of the closest points.

    Args:
        corners: (n_cells, 3, 3), the second axis counts the corners.
        points: (n, 3).
    """
    middles = corners.mean(axis=1)
    radius = float(np.linalg.norm(corners - middles[:, None], axis=-1).max())
    near = np.asarray(cKDTree(corners.reshape(-1, 3)).query(points)[0]) + radius
    tree = cKDTree(middles)
    cells, weights = np.empty(len(points), dtype=np.int64), np.empty((len(points), 3))
    distances = np.empty(len(points))
    for start in range(0, len(points), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        found = tree.query_ball_point(points[chunk], near[chunk] * (1 + 1e-9))
        i = np.repeat(np.arange(start, start + len(found)), [len(f) for f in found])
        cell = np.concatenate([np.asarray(f, dtype=np.int64) for f in found])
        at, distance = on_triangles(corners[cell], points[i])
        order = np.lexsort((distance, i))
        best = order[np.unique(i[order], return_index=True)[1]]
        cells[chunk], weights[chunk], distances[chunk] = cell[best], at[best], distance[best]
    return cells, weights, distances


def on_triangles(corners: Array, x: Array) -> tuple[Array, Array]:
    """Barycentric coordinates and distance of the point of each triangle that is closest to x.

    Args:
        corners: (n, 3, 3).
        x: (n, 3).
    """
    candidates = [_projection(corners, x), *(_on_edge(corners, i, x) for i in range(3))]
    weights = np.stack(candidates)
    distances = np.linalg.norm(np.einsum("kci,cid->kcd", weights, corners) - x, axis=-1)
    distances = np.where((weights >= 0).all(axis=-1), distances, np.inf)
    kind, every = distances.argmin(axis=0), np.arange(len(x))
    return weights[kind, every], distances[kind, every]


def _projection(corners: Array, x: Array) -> Array:
    """Barycentric coordinates of the projection on each plane, (n, 3)."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    d = x - corners[:, 0]
    aa, ab, bb = (np.einsum("cd,cd->c", p, q) for p, q in ((a, a), (a, b), (b, b)))
    ad, bd = np.einsum("cd,cd->c", a, d), np.einsum("cd,cd->c", b, d)
    determinant = aa * bb - ab**2
    second = (bb * ad - ab * bd) / determinant
    third = (aa * bd - ab * ad) / determinant
    return np.stack([1 - second - third, second, third], axis=1)


def _on_edge(corners: Array, i: int, x: Array) -> Array:
    """Barycentric coordinates of the closest point of the edge from corner i, (n, 3)."""
    j = (i + 1) % 3
    along = corners[:, j] - corners[:, i]
    length = np.einsum("cd,cd->c", along, along)
    t = np.clip(np.einsum("cd,cd->c", x - corners[:, i], along) / length, 0.0, 1.0)
    found = np.zeros((len(corners), 3))
    found[:, i], found[:, j] = 1 - t, t
    return found
