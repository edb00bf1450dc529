"""Degrees of freedom of a boundary by what is given there.

    H(div)               u . n = g            n the outward normal
    H(curl), the plane   u . t = g            t the normal, turned by +90 degrees

The traces of a facet are as many functions as it has degrees of freedom, so g is fitted facet by
facet, by least squares: what the element has is found again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pddlvm.fem.regions import FunctionSpace, Points
from pddlvm.fem.space import Space
from pddlvm.fem.where import Subdomain, Where

__all__ = ["Trace", "trace_of"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """A fit of degrees of freedom to one number at each point of facets.

    Attributes:
        dofs: of the facets, (n_facets, k).
        points: where the number is given, facet after facet.
        direction: n or t at each of them, (n_points, dim).
        fit: (n_facets, k, n_quadrature).
    """

    dofs: Index
    points: Points
    direction: Array
    fit: Array


def trace_of(space: FunctionSpace, where: Where | None) -> Trace | None:
    """The trace of fluxes or circulations; None where degrees of freedom are none of one facet."""
    if not isinstance(space, Space) or isinstance(where, Subdomain):
        return None
    what = space.part.derived[0][0]
    if what == "gradient" or (what == "curl" and space.dim > 2):
        return None
    basis = space.facet_basis(where)
    dofs = basis.dofs.facet_dofs[:, basis.find]
    n = np.asarray(basis.normals)
    direction = n if what == "divergence" else np.stack([-n[1], n[0]])
    place = (basis.element_dofs[None] == dofs[:, None]).argmax(axis=1)
    every = np.stack([(np.asarray(b[0]) * direction).sum(axis=0) for b in basis.basis])
    own = every[place, np.arange(dofs.shape[1])]
    weighted = own * basis.dx
    gram = np.einsum("ifq,jfq->fij", weighted, own)
    x = np.moveaxis(np.asarray(basis.global_coordinates()), 0, -1)
    return Trace(
        dofs=dofs.T.astype(np.int64),
        points=Points(
            np.ascontiguousarray(x.reshape(-1, space.dim)),
            np.repeat(np.asarray(basis.tind), basis.dx.shape[1]),
        ),
        direction=np.moveaxis(direction, 0, -1).reshape(-1, space.dim),
        fit=np.linalg.solve(gram, np.moveaxis(weighted, 0, 1)),
    )
