"""Means of u: over patches of a mesh, int_patch u dx / |patch|, and over the cells of a node."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import skfem
from numpy.typing import NDArray

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError
from pddlvm.fem.regions import Region
from pddlvm.fem.where import Patch

__all__ = ["at_vertices", "averages"]


Array = NDArray[np.float64]
Index = NDArray[np.int64]


def at_vertices(
    mesh: skfem.Mesh, evaluate: Callable[[Index, Array], sp.csr_matrix], c: int
) -> sp.csr_matrix:
    """From u to the means of its values in the cells of each node, (n_nodes * c, n_dofs).

    Args:
        mesh: a mesh, maybe of curved cells, some nodes of which may be none of u.
        evaluate: from u to its values at coordinates (n, dim) in cells (n,), row after row.
        c: components of u.
    """
    nodes = mesh.dofs.element_dofs
    n_local, n_cells = nodes.shape
    n_nodes = int(nodes.max()) + 1
    cells = np.tile(np.arange(n_cells), n_local)
    values = evaluate(cells, np.repeat(mesh.elem().doflocs, n_cells, axis=0))
    shares = 1.0 / np.bincount(nodes.ravel(), minlength=n_nodes)
    rows = (nodes.ravel()[:, None] * c + np.arange(c)).ravel()
    weights = np.repeat(shares[nodes.ravel()], c)
    mean = sp.csr_matrix((weights, (rows, np.arange(len(rows)))), shape=(n_nodes * c, len(rows)))
    return sp.csr_matrix(mean @ values)


def averages(
    interior: Callable[[str | int | None], Region], patches: Sequence[Patch]
) -> sp.csr_matrix:
    """Rows that give the mean of u over patches, (n_patches * n_components, n_dofs).

    Args:
        interior: the cells of a named subdomain, or all cells.
        patches: their names, or functions.

    Raises:
        InputError: no patch, an unknown name, or a patch without points of the quadrature.
    """
    check_kind(Sequence, patches=patches)
    if not len(patches):
        raise InputError("average_matrix needs at least one patch")
    found = []
    for patch in patches:
        region = interior(None if callable(patch) else patch)
        weights = region.weights.ravel()
        if callable(patch):
            weights = weights * np.asarray(patch(region.points.x), dtype=bool)
        if not weights.any():
            raise InputError(
                "a patch holds no quadrature point; make it larger, or refine the mesh"
            )
        row = sp.csr_matrix(weights / weights.sum())
        found += [
            row @ region.matrix[i :: region.shape[2]] for i in range(region.parts[0].sizes[0])
        ]
    return sp.vstack(found, format="csr")
