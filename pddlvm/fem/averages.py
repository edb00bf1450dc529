"""Means of u over patches, int_patch u dx / |patch|, or integrals; means in the cells of a node."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import skfem

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError
from pddlvm.fem.regions import Region
from pddlvm.fem.where import Patch

__all__ = ["at_vertices", "averages"]


def at_vertices(mesh: skfem.Mesh, at_corners: Region) -> sp.csr_matrix:
    """From u to the means of its values in the cells of each node, (n_nodes * c, n_dofs).

    Args:
        mesh: a mesh, maybe of curved cells, some nodes of which may be none of u.
        at_corners: all cells, with their nodes in the place of quadrature points.
    """
    nodes = mesh.dofs.element_dofs.T.ravel()
    places = at_corners.columns()[0]
    values = at_corners.matrix[
        (np.arange(len(nodes))[:, None] * at_corners.shape[2] + np.arange(places.stop)).ravel()
    ]
    rows = (nodes[:, None] * places.stop + np.arange(places.stop)).ravel()
    shares = np.repeat(1.0 / np.bincount(nodes)[nodes], places.stop)
    return sp.csr_matrix((shares, (rows, np.arange(len(rows))))) @ values


def averages(
    interior: Callable[[str | int | None], Region], patches: Sequence[Patch], is_mean: bool
) -> sp.csr_matrix:
    """Rows of means or integrals of u over patches, (n_patches * n_components, n_dofs).

    Args:
        interior: the cells of a named subdomain, or all cells.
        patches: their names, or functions; None for all cells.
        is_mean: divide by the size of the patch.

    Raises:
        InputError: no patch, an unknown name, or a patch without points of the quadrature.
    """
    check_kind(Sequence, patches=patches)
    if not len(patches):
        raise InputError("average_matrix and integral_matrix need at least one patch")
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
        row = sp.csr_matrix(weights / weights.sum() if is_mean else weights)
        found += [
            row @ region.matrix[i :: region.shape[2]] for i in range(region.parts[0].sizes[0])
        ]
    return sp.vstack(found, format="csr")
