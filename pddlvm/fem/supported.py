"""Degrees of freedom of a plate or a beam that a support holds.

clamped            u = u_n = 0 along an edge: derivatives with at most one by its normal
simply supported   u = 0: those along the edge alone
"""

import numpy as np
from numpy.typing import NDArray

from pddlvm.basics.errors import ProblemError
from pddlvm.fem.boundaries import facets_of
from pddlvm.fem.regions import FunctionSpace
from pddlvm.fem.space import Space
from pddlvm.fem.where import Subdomain, Where

__all__ = ["supported"]

Index = NDArray[np.int64]

_STRAIGHT = 1e-9
"""Of the size of a mesh, by which an edge may leave the direction of an axis."""


def supported(
    space: FunctionSpace, where: Where | None, component: int | None, *, slopes: bool
) -> Index:
    """Degrees of freedom that are held on a part of the boundary; but for plates all there.

    Args:
        space: of the field.
        where: the part.
        component: of a vector.
        slopes: hold these too?

    Raises:
        ProblemError: no slopes that could be free, or an edge that is oblique where derivatives
            along the axes are degrees of freedom.
    """
    dofs = space.dofs_on(where, component)
    if not _has_slopes(space):
        if not slopes:
            raise ProblemError(
                "slopes=False leaves the slopes of a plate or a beam free, and the element of this "
                "field has none among its degrees of freedom; leave it out"
            )
        return dofs
    assert isinstance(space, Space)
    if isinstance(where, Subdomain):
        return dofs
    kinds = {int(dof): space.dof_kinds[dof] or "" for dof in dofs}
    found = {dof for dof, kind in kinds.items() if len(kind) <= int(slopes)}
    if any(kind != "n" for dof, kind in kinds.items() if dof not in found):
        found |= _along_edges(space, where, int(slopes))
    return np.array(sorted(found), dtype=np.int64)


def _has_slopes(space: FunctionSpace) -> bool:
    if not isinstance(space, Space) or space.is_lagrange:
        return False
    return any(space.dof_kinds)


def _along_edges(space: Space, where: Where | None, most: int) -> set[int]:
    """Derivatives at vertices of edges, by their normals at most so often."""
    mesh = space.mesh
    corners = mesh.facets[:, facets_of(mesh, where)]
    is_flat = np.ptp(mesh.p[:, corners], axis=1) <= _STRAIGHT * np.ptp(mesh.p, axis=1).max()
    if not is_flat.any(axis=0).all():
        raise ProblemError(
            "a support of this element needs edges along the axes, since some of its degrees of "
            "freedom are derivatives along these: take skfem.ElementTriMorley() for other shapes"
        )
    found: set[int] = set()
    for axis, flat in zip("xyz", is_flat, strict=False):
        dofs = space.vertex_dofs[np.unique(corners[:, flat])].ravel()
        found |= {int(d) for d in dofs if (space.dof_kinds[d] or "").count(axis) <= most}
    return found
