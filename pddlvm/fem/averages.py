"""Means of u over patches of a mesh: int_patch u dx / |patch|, by the quadrature of a space."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError
from pddlvm.fem.regions import Region
from pddlvm.fem.where import Patch

__all__ = ["averages"]


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
        found += [row @ region.matrix[i :: region.shape[2]] for i in range(region.size_u)]
    return sp.vstack(found, format="csr")
