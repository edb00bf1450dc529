"""What is wrong with a mesh that can be read: flat, folded or overlapping cells, parts apart."""

import warnings

import numpy as np
import skfem
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pddlvm.basics.errors import MeshError
from pddlvm.fem.locate import Finder, facet_normals

__all__ = ["check_mesh"]

Index = NDArray[np.int64]

_COINCIDENT = 1e-9
"""Nodes this close, relative to the size of the mesh, are at one place."""
_MOST_NAMED = 5


def check_mesh(mesh: skfem.Mesh, name: str) -> None:
    """Raise a MeshError, or warn, that names what is wrong.

    Args:
        mesh: what was read.
        name: for messages.

    Raises:
        MeshError: coordinates that are not finite, cells of no volume or folded, cells that
            overlap.
    """
    if not np.isfinite(mesh.p).all():
        raise MeshError(f"{name!r} has coordinates that are not finite")
    _check_volumes(mesh, name)
    _check_overlaps(mesh, name)
    _check_doubled_nodes(mesh, name)


def _check_volumes(mesh: skfem.Mesh, name: str) -> None:
    nodes = np.column_stack([mesh.elem.refdom.p.mean(axis=1), mesh.elem().doflocs.T])
    with np.errstate(all="ignore"):
        volume = np.asarray(mesh.mapping().detDF(nodes)).reshape(mesh.nelements, -1)
    volume *= np.sign(volume[:, :1])
    flat = np.flatnonzero(volume[:, 0] <= 1e-14 * volume.max())
    if flat.size:
        raise MeshError(
            f"{name!r} has {flat.size} cells of no volume, the first is cell {flat[0]}; "
            "repair the mesh (duplicate nodes, slivers) and export it again"
        )
    folded = np.flatnonzero(volume.min(axis=1) < -1e-10 * volume[:, 0])
    if folded.size:
        raise MeshError(
            f"{name!r} has {folded.size} cells that are folded, {_named(folded)}: one that is not "
            "convex, or whose curved side crosses another; make the mesh finer there"
        )


def _check_overlaps(mesh: skfem.Mesh, name: str) -> None:
    crowded = np.flatnonzero(np.bincount(mesh.t2f.ravel()) > 2)
    if crowded.size:
        cells = np.flatnonzero(np.isin(mesh.t2f, crowded).any(axis=0))
        raise MeshError(
            f"{name!r} has more than two cells at one facet: they overlap, {_named(cells)}"
        )
    inner = np.flatnonzero(mesh.f2t[1] >= 0)
    middles = mesh.p[:, mesh.t[:, mesh.f2t[1, inner]]].mean(axis=1)
    from_facet = middles - mesh.p[:, mesh.facets[:, inner]].mean(axis=1)
    same_side = inner[(facet_normals(mesh, inner) * from_facet).sum(axis=0) <= 0]
    # Of parts that do not know of each other one reaches into the other.
    outer = mesh.boundary_facets()
    cells = mesh.f2t[0, outer]
    facets, corners = mesh.facets[:, outer], mesh.t[:, cells]
    inside = 0.75 * mesh.p[:, facets].mean(axis=1) + 0.25 * mesh.p[:, corners].mean(axis=1)
    point, found, _ = Finder(mesh).containing(inside.T)
    pairs = np.stack([found, cells[point]])
    pairs = np.column_stack([mesh.f2t[:, same_side], pairs[:, pairs[0] != pairs[1]]])
    if pairs.size:
        raise MeshError(
            f"{name!r} has cells that overlap: {_named(np.unique(pairs))}; remove what is there "
            "twice, and make one mesh of all parts"
        )


def _check_doubled_nodes(mesh: skfem.Mesh, name: str) -> None:
    """Of a crack, or where parts were meshed apart: nothing goes across."""
    nodes = np.unique(mesh.facets[:, mesh.boundary_facets()])
    size = float(np.ptp(mesh.p, axis=1).max())
    pairs = cKDTree(mesh.p[:, nodes].T).query_pairs(_COINCIDENT * size, output_type="ndarray")
    if len(pairs):
        x = mesh.p[:, nodes[pairs[0, 0]]]
        warnings.warn(
            f"{name}: {len(np.unique(pairs))} nodes lie at the place of another one, such as "
            f"{x.tolist()}: the cells beside them are not connected, and u may jump there. If "
            "that is no crack, merge them in the program that made the mesh (Coherence in gmsh)",
            stacklevel=4,
        )


def _named(cells: Index) -> str:
    more = " ..." if cells.size > _MOST_NAMED else ""
    return f"cell {', '.join(map(str, cells[:_MOST_NAMED]))}{more}"
