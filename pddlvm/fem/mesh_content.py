"""From what a file holds to a mesh: its cells, and groups of them, of their facets and nodes.

A cell may be there several times, once for each group that it is in (MSH 2.2 writes it so): it is
one cell of the mesh.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import meshio
import numpy as np
import skfem
from numpy.typing import NDArray

from pddlvm.basics.errors import MeshError
from pddlvm.fem.cells import KINDS, CellKind, missing_nodes

__all__ = ["mesh_of"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Groups = Mapping[str, Index]

_CONSTANT = 1e-6
"""Coordinates are constant that vary less, relative to the size of the mesh."""

_COMPLETE = {"quad8": "quad9", "hexahedron20": "hexahedron27"}


def mesh_of(raw: meshio.Mesh, name: str) -> skfem.Mesh:
    """The mesh, with names of subdomains and boundaries, and without nodes that no cell has.

    Args:
        raw: what was read.
        name: for messages.
    """
    raw = _completed(raw)
    kind = _kind(raw)
    cells, subdomains = _part(raw, (kind.name,))
    n_corners = kind.n_corners
    distinct, copy_of = _distinct(cells[:, :n_corners])
    if len(distinct) < len(cells):
        _check_copies(copy_of, subdomains, name)
    cells = cells[distinct][:, kind.order]
    used, t = np.unique(cells, return_inverse=True)
    t = np.reshape(t, cells.shape).T
    points = _coordinates(np.asarray(raw.points, dtype=np.float64)[used], kind.dim)
    mesh = kind.mesh(np.ascontiguousarray(points.T), np.ascontiguousarray(t))
    if len(t) > n_corners:
        # Neighbours may have nodes of their own at one place, of which one is left.
        mesh = replace(mesh, doflocs=mesh.p[:, : mesh.dofs.N])
    # Scikit-fem gives vertices the first numbers.
    vertices = used[np.unique(t[:n_corners])]
    number = np.full(len(raw.points), -1)
    number[vertices] = np.arange(len(vertices))
    named = {k: np.unique(copy_of[cells]) for k, cells in subdomains.items()}
    boundaries = _boundaries(raw, kind, mesh, number)
    if len(raw.cells) == 1 and len(distinct) == len(copy_of):
        decoded = mesh._decode_cell_data(raw.cell_data)
        boundaries, named = boundaries | decoded[0], named | decoded[1]
    return replace(mesh, _boundaries=boundaries or None, _subdomains=named or None)


def _completed(raw: meshio.Mesh) -> meshio.Mesh:
    """With the nodes that some kinds of cells of second order lack in the middle of their faces."""
    points, cells = raw.points, []
    for block in raw.cells:
        name, data = block.type, block.data
        if name in _COMPLETE:
            new = missing_nodes(name, points[data])
            numbers = len(points) + np.arange(new.shape[0] * new.shape[1])
            data = np.column_stack([data, numbers.reshape(new.shape[:2])])
            points = np.concatenate([points, new.reshape(-1, new.shape[2])])
        cells.append((_COMPLETE.get(name, name), data))
    return meshio.Mesh(
        points, cells, cell_data=raw.cell_data, cell_sets=raw.cell_sets, point_sets=raw.point_sets
    )


def _kind(raw: meshio.Mesh) -> CellKind:
    """That of the cells of the highest dimension."""
    there = {block.type for block in raw.cells if len(block.data)}
    dim = max((block.dim for block in raw.cells if block.type in there), default=0)
    names = sorted({b.type for b in raw.cells if b.type in there and b.dim == dim})
    if len(names) > 1:
        raise MeshError(f"it mixes {' and '.join(names)} cells, and one kind is expected")
    kind = next((kind for kind in KINDS if [kind.name] == names), None)
    if kind is None:
        raise MeshError(
            f"it has {names[0] if names else 'no'} cells; expected one of "
            f"{', '.join(kind.name for kind in KINDS)}"
        )
    return kind


def _part(raw: meshio.Mesh, types: Sequence[str]) -> tuple[Index, dict[str, Index]]:
    """Cells of some types, their corners at least, one after the other, and groups of them."""
    blocks = [i for i, block in enumerate(raw.cells) if block.type in types]
    if not blocks:
        return np.empty((0, 0), dtype=np.int64), {}
    n = min(raw.cells[i].data.shape[1] for i in blocks)
    cells = np.concatenate([raw.cells[i].data[:, :n].astype(np.int64) for i in blocks])
    starts = np.cumsum([0, *(len(raw.cells[i].data) for i in blocks)])
    groups = {}
    for name, parts in raw.cell_sets.items():
        chosen = [
            np.asarray(parts[i], dtype=np.int64) + s for i, s in zip(blocks, starts, strict=False)
        ]
        if sum(map(len, chosen)):
            groups[name] = np.concatenate(chosen)
    return cells, groups


def _distinct(corners: Index) -> tuple[Index, Index]:
    """The first of all cells that have the same corners, and its number among these, for each."""
    _, first, which = np.unique(
        np.sort(corners, axis=1), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[which.ravel()]


def _check_copies(copy_of: Index, subdomains: Groups, name: str) -> None:
    """Warn of cells that are there twice, and not because they are in two groups."""
    n_groups = np.zeros(len(copy_of), dtype=np.int64)
    surplus = np.zeros(copy_of.max() + 1, dtype=bool)
    for cells in subdomains.values():
        n_groups[cells] += 1
        surplus |= np.bincount(copy_of[cells], minlength=len(surplus)) > 1
    n_copies = np.bincount(copy_of)
    surplus |= (n_copies > 1) & (np.bincount(copy_of, n_groups == 0) > 0)
    if surplus.any():
        warnings.warn(
            f"{name}: {int(surplus.sum())} cells are there more than once, and were merged",
            stacklevel=4,
        )


def _coordinates(points: Array, dim: int) -> Array:
    """Those of the dimension; the others must be constant."""
    if points.shape[1] < dim:
        raise MeshError(f"its points have {points.shape[1]} coordinates and its cells need {dim}")
    if not np.isfinite(points).all():
        # Said elsewhere.
        return points[:, :dim]
    size = np.ptp(points, axis=0).max(initial=0.0)
    if (np.ptp(points[:, dim:], axis=0) <= _CONSTANT * size).all():
        return points[:, :dim]
    what, constant = ("a plane mesh", "z is") if dim == 2 else ("a straight line", "y and z are")
    thickness = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[dim]
    if thickness > _CONSTANT * size * np.sqrt(len(points)):
        raise MeshError(
            f"it is curved in space, and {what} is expected; of a surface fem.read_surface makes a "
            "shell"
        )
    raise MeshError(
        f"it is {what} that is tilted: turn it so that {constant} constant, in the program that "
        "made it or by meshio: read the file, multiply its `points` by a rotation, write it again"
    )


def _boundaries(
    raw: meshio.Mesh, kind: CellKind, mesh: skfem.Mesh, number: Index
) -> dict[str, Index]:
    """Facets of each group of facets, and of each set of nodes.

    Args:
        raw: what was read.
        kind: of the cells.
        mesh: what was made of it.
        number: of each node among the vertices of the mesh, -1 where it is none.
    """
    facets, groups = _part(raw, kind.facets)
    found = {}
    if groups:
        corners = number[facets[:, : kind.n_facet_corners]]
        # Those of the mesh first, and then again those of the file.
        whole = np.concatenate([mesh.facets.T, corners])
        first, copy_of = _distinct(whole)
        where = first[copy_of[mesh.nfacets :]]
        for name, chosen in groups.items():
            there = np.unique(where[chosen])
            there = there[there < mesh.nfacets]
            if there.size:
                found[name] = there
    for name, nodes in raw.point_sets.items():
        inside = np.zeros(mesh.nvertices, dtype=bool)
        vertices = number[np.asarray(nodes, dtype=np.int64)]
        inside[vertices[vertices >= 0]] = True
        outer = mesh.boundary_facets()
        there = outer[inside[mesh.facets[:, outer]].all(axis=0)]
        if there.size and name not in found:
            found[name] = there
    return found
