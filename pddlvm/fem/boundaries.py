"""Parts of a mesh: facets of a boundary, cells of a subdomain, whatever `Where` says they are."""

from collections.abc import Mapping

import numpy as np
import skfem
from numpy.typing import NDArray

from pddlvm.basics.errors import MeshError
from pddlvm.fem.where import Facets, Nodes, Subdomain, Where, satisfying

__all__ = ["facets_of", "named"]

Index = NDArray[np.int64]


def facets_of(mesh: skfem.Mesh, where: Where | None) -> Index:
    """Facets of a part of the boundary, by default of all of it.

    Raises:
        MeshError: there is no such part.
    """
    if isinstance(where, str | int):
        if str(where) not in (mesh.boundaries or {}) and str(where) in (mesh.subdomains or {}):
            raise MeshError(
                f"{where!r} is a subdomain of the mesh and no boundary: values in it are "
                f"Dirichlet(fem.Subdomain({where!r}), ...), terms on it are on "
                f"space.interior({where!r})"
            )
        return named(mesh.boundaries, where, "boundary")
    if isinstance(where, Subdomain):
        raise MeshError(
            f"{where!r} is no part of the boundary; terms on its cells are on "
            f"space.interior({where.name!r})"
        )
    if isinstance(where, Facets):
        return where.within(mesh.nfacets)
    outer = np.asarray(mesh.boundary_facets(), dtype=np.int64)
    if where is None:
        return outer
    if isinstance(where, Nodes):
        is_one = np.zeros(mesh.nvertices, dtype=bool)
        is_one[where.within(len(is_one))] = True
        return outer[is_one[mesh.facets[:, outer]].all(axis=0)]
    if not callable(where):
        raise MeshError(
            f"a part of the boundary is a name, a number, a function of x, fem.Facets or "
            f"fem.Nodes, got {where!r}"
        )
    middle = mesh.brefdom.p.mean(axis=1, keepdims=True)
    rule = middle, np.ones(1)
    basis = skfem.FacetBasis(mesh, mesh.elem(), quadrature=rule, facets=outer)
    middles = np.asarray(basis.global_coordinates())[:, :, 0].T
    return outer[satisfying(where, np.ascontiguousarray(middles), "facets (their middles)")]


def named(groups: Mapping[str, Index] | None, name: str | int, what: str) -> Index:
    """A group that has a name, or a number only, which is its name then."""
    known = groups or {}
    if str(name) not in known:
        raise MeshError(
            f"the mesh has no {what} {name!r}; it has {sorted(known) or f'none: no named {what}'}"
        )
    return np.asarray(known[str(name)], dtype=np.int64)
