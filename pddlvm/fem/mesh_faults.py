"""What is wrong with a mesh that can be read: flat, folded or overlapping cells, parts apart."""

import warnings

import numpy as np
import skfem
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pddlvm.basics.errors import MeshError
from pddlvm.fem.locate import Finder, facet_normals, sagitta

__all__ = ["check_mesh"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_SMALLEST, _LARGEST = 1e-50, 1e50
"""Of the size of a mesh and of its coordinates: products of others leave the range of float64."""
_DEPTH, _MOST_DEPTH = 1e-3, 0.25
"""How far from a facet to the middle of its cell another cell may reach, and be rounded."""
_COINCIDENT = 1e-9
"""Nodes this close, relative to the size of the mesh, are at one place."""
_MOST_NAMED = 5


def check_mesh(mesh: skfem.Mesh, name: str) -> None:
    """Raise a MeshError, or warn, that names what is wrong.

    Args:
        mesh: what was read.
        name: for messages.

    Raises:
        MeshError: coordinates that are not finite, too large or too small, cells of no volume or
            folded, cells that overlap.
    """
    if not np.isfinite(mesh.p).all():
        raise MeshError(f"{name!r} has coordinates that are not finite")
    largest, size = float(np.abs(mesh.p).max()), float(np.ptp(mesh.p, axis=1).max())
    if largest > _LARGEST or size < _SMALLEST:
        raise MeshError(
            f"{name!r} has a size of {size:g} and coordinates up to {largest:g}; expected at least "
            f"{_SMALLEST:g} and at most {_LARGEST:g}: choose other units"
        )
    _check_volumes(mesh, name)
    _check_overlaps(mesh, name)
    _check_doubled_nodes(mesh, name)


def _check_volumes(mesh: skfem.Mesh, name: str) -> None:
    nodes = np.column_stack([mesh.elem.refdom.p.mean(axis=1), mesh.elem().doflocs.T])
    jacobian = np.moveaxis(np.asarray(mesh.mapping().DF(nodes)), (0, 1), (-2, -1))
    # Numbers so small that their inverses overflow make a volume of zero.
    with np.errstate(all="ignore"):
        volume = np.linalg.det(jacobian)
    volume *= np.sign(volume[:, :1])
    flat = np.flatnonzero(volume[:, 0] <= 1e-14 * volume.max())
    if flat.size:
        raise MeshError(
            f"{name!r} has {flat.size} cells of no volume, the first is cell {flat[0]}; "
            "repair the mesh (duplicate nodes, slivers) and export it again"
        )
    collapsed = np.flatnonzero((np.diff(np.sort(mesh.t, axis=0), axis=0) == 0).any(axis=0))
    if collapsed.size:
        raise MeshError(
            f"{name!r} has cells with one node at two corners, {_named(collapsed)}; make them "
            "triangles or tetrahedra, and all others too"
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
    finder = Finder(mesh)
    cells, local = _inside(mesh)
    point, found, _ = finder.containing(finder.at(cells, local))
    pairs = np.stack([found, cells[point]])
    pairs = np.column_stack([mesh.f2t[:, same_side], pairs[:, pairs[0] != pairs[1]]])
    if pairs.size:
        raise MeshError(
            f"{name!r} has cells that overlap: {_named(np.unique(pairs))}; remove what is there "
            "twice, and make one mesh of all parts"
        )


def _inside(mesh: skfem.Mesh) -> tuple[Index, Array]:
    """Cells and coordinates in them just inside of each outer facet and each of its corners.

    Where the boundary is a curve they are as far inside as its chords may leave another mesh of it.
    """
    outer = mesh.boundary_facets()
    cells = mesh.f2t[0, outer]
    sides = np.array(mesh.refdom.facets)[(mesh.t2f[:, cells] == outer).argmax(axis=0)]
    middles = mesh.p[:, mesh.facets[:, outer]].mean(axis=1)
    height = np.linalg.norm(mesh.p[:, mesh.t[:, cells]].mean(axis=1) - middles, axis=0)
    depth = np.minimum(_MOST_DEPTH, _DEPTH + sagitta(mesh, outer) / height)
    corners = np.moveaxis(mesh.refdom.p[:, sides], 0, -1)
    # Each vertex once.
    _, once = np.unique(mesh.t[sides, cells[:, None]], return_index=True)
    facet = np.concatenate([np.arange(len(outer)), once // sides.shape[1]])
    on = np.concatenate([corners.mean(axis=1), corners.reshape(-1, mesh.dim())[once]])
    return cells[facet], on + depth[facet, None] * (mesh.refdom.p.mean(axis=1) - on)


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
