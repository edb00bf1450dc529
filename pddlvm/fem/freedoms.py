"""What the degrees of freedom of an element are, and those of given functions.

    u                 the value at a point, of a component of a vector       ""
    u_x, u_xy, u_n    a derivative there, n the normal of a facet            "x", "xy", "n"
    the rest          fluxes and circulations, bubbles                       None

A function that the element has is found again cell by cell, as the least squares of its values at
the quadrature points; so are the motions that an elliptic operator hardly resists.
"""

import re

import numpy as np
import skfem
from numpy.typing import NDArray

from pddlvm.fem.regions import FieldPart, Region, turns

__all__ = ["fitted", "kinds_of", "motions"]

Array = NDArray[np.float64]

_VALUE = re.compile(r"u(\^\d+)?")
_DERIVATIVE = re.compile(r"u_([nxyz]+)")


def kinds_of(basis: skfem.AbstractBasis, part: FieldPart) -> list[str | None]:
    """What each degree of freedom is: see above."""
    names: list[str] = list(basis.elem.dofnames)
    dofs = basis.dofs
    rows = [*dofs.nodal_dofs, *dofs.facet_dofs, *dofs.edge_dofs, *dofs.interior_dofs]
    kinds: list[str | None] = [None] * int(basis.N)
    has_place = np.isfinite(basis.doflocs).all(axis=0)
    for name, row in zip(names, rows, strict=True):
        kind = _kind(name) if part.derived[0][0] == "gradient" else None
        for dof in row:
            kinds[dof] = kind if has_place[dof] else None
    return kinds


def _kind(name: str) -> str | None:
    if _VALUE.fullmatch(name):
        return ""
    found = _DERIVATIVE.fullmatch(name)
    return found[1] if found else None


def fitted(region: Region, values: Array) -> Array:
    """Degrees of freedom of functions by their values at the points of all cells, (n_dofs, k).

    Args:
        region: all cells, with points enough to tell the functions of a cell from each other.
        values: (n_points, size of u, k).
    """
    n_cells, _, _, n_local = region.shape
    local = region.local[:, :, region.columns()[0]].reshape(n_cells, -1, n_local)
    found = np.linalg.pinv(local) @ values.reshape(n_cells, local.shape[1], -1)
    dofs = np.zeros((region.n_dofs, values.shape[-1]))
    dofs[region.dofs] = found
    return dofs


def motions(region: Region) -> Array:
    """Constants of each component; turns of a displacement, tilts of a plate, (n_dofs, k)."""
    part, x = region.parts[0], region.points.x
    n, c = len(x), part.sizes[0]
    x = x - x.mean(axis=0)
    constants = np.broadcast_to(np.eye(c), (n, c, c))
    derived = dict(part.derived)
    if "Hessian" in derived and c == 1:
        constants = np.concatenate([constants, x[:, None]], axis=2)
    elif "gradient" in derived and c == x.shape[1] > 1:
        spins = turns(np.repeat(np.eye(c), n, axis=0), np.tile(x, (c, 1)))
        constants = np.concatenate(
            [constants, np.stack([s.reshape(c, n).T for s in spins], axis=2)], axis=2
        )
    return fitted(region, constants)
