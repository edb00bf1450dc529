"""Strains of a flat thin-shell triangle: DKT bending and ANDES membrane with drilling rotation.

In the frame of a facet, e1 along its first edge and e3 its normal, a vertex has displacements
(u, v, w) and rotations (tx, ty, tz) with w,x = -ty and w,y = tx.

    membrane strain  (e11, e22, 2 e12)  of (u, v, tz)
    curvature        (k11, k22, 2 k12)  of (w, tx, ty)

Bending: discrete Kirchhoff triangle (Batoz, Bathe and Ho, Int. J. Numer. Meth. Eng. 15, 1980): the
rotations beta = -grad w are quadratic; along an edge they follow a cubic w, across it they are
linear. Membrane: Felippa (Comput. Methods Appl. Mech. Eng. 192, 2003), a constant strain that is
exact for patch tests, and a higher-order part that is energy-orthogonal to it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIDPOINTS", "Facets", "bending", "membrane_basic", "membrane_higher"]

Array = NDArray[np.float64]

MIDPOINTS = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
"""Barycentric coordinates of the midpoints of the edges 12, 23, 31: quadrature of degree 2."""

_EDGES = ((0, 1), (1, 2), (2, 0))
_BETA = np.array([[1.0, 2.0, 1.0], [0.0, 1.0, -1.0], [-1.0, -1.0, -2.0]])
"""Felippa's optimal beta_1 ... beta_9."""


@dataclass(frozen=True)
class Facets:
    """Geometry of the triangles.

    Attributes:
        frames: rows are e1, e2, e3, (n, 3, 3).
        x: corners in the frame, from the centroid, (n, 3, 2).
        areas: (n,).
    """

    frames: Array
    x: Array
    areas: Array

    @classmethod
    def of(cls, p: Array, t: NDArray[np.int64]) -> "Facets":
        """From vertices (3, n_vertices) and triangles (3, n)."""
        corners = np.moveaxis(p[:, t], (0, 1, 2), (2, 1, 0))
        along = corners[:, 1] - corners[:, 0]
        normal = np.cross(along, corners[:, 2] - corners[:, 0])
        twice = np.linalg.norm(normal, axis=1)
        e3 = normal / twice[:, None]
        e1 = along / np.linalg.norm(along, axis=1)[:, None]
        frames = np.stack([e1, np.cross(e3, e1), e3], axis=1)
        centred = corners - corners.mean(axis=1, keepdims=True)
        return cls(frames, np.einsum("nij,nvj->nvi", frames, centred)[..., :2], twice / 2)

    def difference(self, i: int, j: int) -> tuple[Array, Array]:
        """x_ij = x_i - x_j and y_ij, (n,) each; corners count from 1, as in the papers."""
        d = self.x[:, i - 1] - self.x[:, j - 1]
        return d[:, 0], d[:, 1]

    @property
    def gradients(self) -> Array:
        """Gradients of the barycentric coordinates, (n, 3, 2)."""
        g = np.empty_like(self.x)
        for i, j, k in ((1, 2, 3), (2, 3, 1), (3, 1, 2)):
            g[:, i - 1, 0] = self.difference(j, k)[1]
            g[:, i - 1, 1] = self.difference(k, j)[0]
        return g / (2 * self.areas[:, None, None])


def bending(facets: Facets) -> Array:
    """Curvatures at the edge midpoints from (w, tx, ty) of each corner, (n, 3, 3, 9)."""
    n = len(facets.areas)
    # beta at the three corners and the three edge midpoints, linear in the nine unknowns.
    beta = np.zeros((n, 6, 2, 9))
    for a in range(3):
        beta[:, a, 0, 3 * a + 2] = 1.0
        beta[:, a, 1, 3 * a + 1] = -1.0
    for k, (i, j) in enumerate(_EDGES):
        edge = facets.x[:, j] - facets.x[:, i]
        length = np.linalg.norm(edge, axis=1)
        s = edge / length[:, None]
        normal = np.stack([s[:, 1], -s[:, 0]], axis=1)
        both = beta[:, i] + beta[:, j]
        across = 0.5 * np.einsum("nc,ncd->nd", normal, both)
        along = -0.25 * np.einsum("nc,ncd->nd", s, both)
        along[:, 3 * i] += 1.5 / length
        along[:, 3 * j] -= 1.5 / length
        beta[:, 3 + k] = normal[:, :, None] * across[:, None] + s[:, :, None] * along[:, None]
    g = facets.gradients
    curvature = np.empty((n, 3, 3, 9))
    for q, at in enumerate(MIDPOINTS):
        shape = [(4 * at[a] - 1) * g[:, a] for a in range(3)]
        shape += [4 * (at[i] * g[:, j] + at[j] * g[:, i]) for i, j in _EDGES]
        derivative = np.einsum("nad,nacf->ncdf", np.stack(shape, axis=1), beta)
        curvature[:, q, 0] = derivative[:, 0, 0]
        curvature[:, q, 1] = derivative[:, 1, 1]
        curvature[:, q, 2] = derivative[:, 0, 1] + derivative[:, 1, 0]
    return curvature


def membrane_basic(facets: Facets, alpha: float) -> Array:
    """Constant membrane strain from (u, v, tz) of each corner, (n, 1, 3, 9); weight: the area."""
    lumping = np.zeros((len(facets.areas), 3, 9))
    for i, j, k in ((1, 2, 3), (2, 3, 1), (3, 1, 2)):
        x_ki, y_ki = facets.difference(k, i)
        x_ij, y_ij = facets.difference(i, j)
        x_kj, y_kj = facets.difference(k, j)
        y_jk, y_ik, y_ji = -y_kj, -y_ki, -y_ij
        u, v, tz = 3 * (i - 1), 3 * (i - 1) + 1, 3 * (i - 1) + 2
        lumping[:, 0, u] = lumping[:, 2, v] = y_jk
        lumping[:, 2, u] = lumping[:, 1, v] = x_kj
        lumping[:, 0, tz] = alpha / 6 * y_jk * (y_ik - y_ji)
        lumping[:, 1, tz] = alpha / 6 * x_kj * (x_ki - x_ij)
        lumping[:, 2, tz] = alpha / 3 * (x_ki * y_ik - x_ij * y_ji)
    return (lumping / (2 * facets.areas[:, None, None]))[:, None]


def membrane_higher(facets: Facets) -> Array:
    """Higher-order membrane strain at the edge midpoints, (n, 3, 3, 9); weight 3/4 beta0 area."""
    area = facets.areas
    x32, y32 = facets.difference(3, 2)
    x13, y13 = facets.difference(1, 3)
    x21, y21 = facets.difference(2, 1)
    squares = np.stack([x21**2 + y21**2, x32**2 + y32**2, x13**2 + y13**2], axis=1)
    (b1, b2, b3), (b4, b5, b6), (b7, b8, b9) = _BETA
    at_corner = (2 * area / 3)[:, None, None] / squares[:, :, None]
    q1 = at_corner * _BETA
    q2 = at_corner * np.array([[b9, b7, b8], [b3, b1, b2], [b6, b4, b5]])
    q3 = at_corner * np.array([[b5, b6, b4], [b8, b9, b7], [b2, b3, b1]])
    # Natural strains along the edges to Cartesian ones; y_ij = -y_ji.
    rows = [
        [-y32 * y13 * squares[:, 0], -y13 * y21 * squares[:, 1], -y21 * y32 * squares[:, 2]],
        [-x32 * x13 * squares[:, 0], -x13 * x21 * squares[:, 1], -x21 * x32 * squares[:, 2]],
        [
            (y32 * x13 + x32 * y13) * squares[:, 0],
            (y13 * x21 + x13 * y21) * squares[:, 1],
            (y21 * x32 + x21 * y32) * squares[:, 2],
        ],
    ]
    cartesian = np.moveaxis(np.array(rows), 2, 0) / (4 * area[:, None, None] ** 2)
    # Hierarchical corner rotations: tz less the mean rotation of the facet.
    deviation = np.zeros((len(area), 3, 9))
    for r in range(3):
        for a, (dx, dy) in enumerate(((x32, y32), (x13, y13), (x21, y21))):
            deviation[:, r, 3 * a] = dx / (4 * area)
            deviation[:, r, 3 * a + 1] = dy / (4 * area)
        deviation[:, r, 3 * r + 2] = 1.0
    at_midpoints = np.stack([(q1 + q2) / 2, (q2 + q3) / 2, (q3 + q1) / 2], axis=1)
    return np.einsum("nij,nqjk,nkl->nqil", cartesian, at_midpoints, deviation, optimize=True)
