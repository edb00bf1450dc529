"""Linear functions on a triangulated surface: mass and stiffness matrices, barycentric points."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.fem.regions import Points
from pddlvm.fem.shell_element import Facets
from pddlvm.fem.surfaces import SurfaceMesh

__all__ = ["barycentric", "surface_gram_matrices"]

Array = NDArray[np.float64]


def surface_gram_matrices(mesh: SurfaceMesh) -> tuple[sp.csc_matrix, sp.csc_matrix]:
    """int phi_i phi_j and int grad phi_i . grad phi_j, (n_vertices, n_vertices) each."""
    facets = Facets.of(mesh.p, mesh.t)
    g, area = facets.gradients, facets.areas[:, None, None]
    stiffness = area * (g @ np.swapaxes(g, 1, 2))
    mass = area / 12 * (np.ones((3, 3)) + np.eye(3))
    corners = mesh.t.T
    rows = np.repeat(corners, 3, axis=1).ravel()
    columns = np.tile(corners, (1, 3)).ravel()
    shape = (mesh.p.shape[1], mesh.p.shape[1])
    m, k = (sp.coo_matrix((e.ravel(), (rows, columns)), shape).tocsc() for e in (mass, stiffness))
    return m, k


def barycentric(mesh: SurfaceMesh, points: Points) -> Array:
    """Barycentric coordinates of points in their triangles, (n_points, 3)."""
    a, b, c = (mesh.p[:, corner].T for corner in mesh.t[:, points.cells])
    edges = np.stack([b - a, c - a], axis=-1)
    gram = np.swapaxes(edges, 1, 2) @ edges
    right = np.swapaxes(edges, 1, 2) @ (points.x - a)[..., None]
    st = np.linalg.solve(gram, right)[..., 0]
    return np.column_stack([1 - st.sum(axis=1), st])
