"""Kinds of cells: their names in files, their meshes in scikit-fem, the order of their nodes."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import skfem
from numpy.typing import NDArray

from pddlvm.basics.checks import is_integer
from pddlvm.basics.errors import MeshError

__all__ = ["KINDS", "CellKind", "check_cells", "kind_of", "missing_nodes", "straight"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class CellKind:
    """A kind of cells.

    Attributes:
        name: in meshio.
        mesh: in scikit-fem.
        facets: names of the kinds that its facets may have in a file.
        pieces: nodes of the straight cells that it is drawn by; itself, where there are none.
    """

    name: str
    mesh: type[skfem.Mesh]
    facets: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...] = ()

    @property
    def dim(self) -> int:
        """Dimension."""
        return int(self.mesh.elem.refdom.dim())

    @property
    def n_corners(self) -> int:
        """Nodes but those on edges, on facets and inside."""
        return int(self.mesh.elem.refdom.nnodes)

    @property
    def n_facet_corners(self) -> int:
        """The same of a facet."""
        return int(self.mesh.elem.refdom.brefdom.nnodes)

    @cached_property
    def order(self) -> Index:
        """Number in a file of each node of scikit-fem."""
        nodes = self.mesh.elem().doflocs
        if self.mesh.elem.refdom is not skfem.refdom.RefHex:
            return np.arange(len(nodes))
        known = {node: i for i, node in enumerate(_hexahedron())}
        return np.array([known[tuple(node)] for node in nodes])


_MOST_CELLS = 10**6
"""Per side; no memory holds more."""


def check_cells(n: Any) -> None:
    """Raise a MeshError if n is no number of cells along a side."""
    if not (is_integer(n) and 1 <= n <= _MOST_CELLS):
        raise MeshError(
            f"a mesh needs at least one cell per side, at most {_MOST_CELLS}, an integer, "
            f"got n = {n!r}"
        )


def _hexahedron() -> list[tuple[float, ...]]:
    """Places of the 27 nodes of a hexahedron in the order of VTK."""
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    corners = np.array([[*xy, z] for z in (0, 1) for xy in square])
    edges = [(i, (i + 1) % 4) for i in range(4)]
    edges += [(i + 4, j + 4) for i, j in edges] + [(i, i + 4) for i in range(4)]
    middles = [(corners[i] + corners[j]) / 2 for i, j in edges]
    faces = [0.5 + (side - 0.5) * np.eye(3)[axis] for axis, side in product(range(3), (0, 1))]
    return [tuple(map(float, x)) for x in (*corners, *middles, *faces, np.full(3, 0.5))]


def missing_nodes(name: str, nodes: Array) -> Array:
    """Middles of faces and of the cell, where the other nodes have them, (n_cells, 1 or 7, dim).

    The shape functions of a cell without them are -1/4 of corners and 1/2 of edges at the middle
    of a face, -1/4 and 1/4 in the middle of a hexahedron.

    Args:
        name: `quad8` or `hexahedron20`.
        nodes: (n_cells, 8 or 20, dim).
    """
    if name == "quad8":
        return np.asarray(nodes[:, 4:].sum(axis=1) / 2 - nodes[:, :4].sum(axis=1) / 4)[:, None]
    where = np.array(_hexahedron())
    weights = [np.where(np.arange(20) < 8, -0.25, 0.25)]
    for middle in where[20:26]:
        axis = int(np.argmax(middle != 0.5))
        weights.append(2 * weights[0] * (where[:20, axis] == middle[axis]))
        weights[-1][:8] /= 2
    return np.asarray(np.einsum("kn,cnd->ckd", weights[1:] + weights[:1], nodes))


_LINES, _TRIANGLES, _QUADS = (
    ("line", "line3"),
    ("triangle", "triangle6"),
    ("quad", "quad8", "quad9"),
)

KINDS = (
    CellKind("tetra", skfem.MeshTet1, _TRIANGLES),
    CellKind("tetra10", skfem.MeshTet2, _TRIANGLES),
    CellKind("hexahedron", skfem.MeshHex1, _QUADS),
    CellKind("hexahedron27", skfem.MeshHex2, _QUADS),
    CellKind("triangle", skfem.MeshTri1, _LINES),
    CellKind(
        "triangle6", skfem.MeshTri2, _LINES, ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5))
    ),
    CellKind("quad", skfem.MeshQuad1, _LINES),
    CellKind(
        "quad9", skfem.MeshQuad2, _LINES, ((0, 4, 8, 7), (4, 1, 5, 8), (8, 5, 2, 6), (7, 8, 6, 3))
    ),
    CellKind("line", skfem.MeshLine1, ("vertex",)),
)  # fmt: skip
"""Those that carry finite elements."""


def kind_of(mesh: skfem.Mesh) -> CellKind:
    """The kind of the cells of a mesh."""
    of_class = {kind.mesh: kind for kind in KINDS}
    return next(of_class[base] for base in type(mesh).__mro__ if base in of_class)


def straight(mesh: skfem.Mesh) -> tuple[Array, Index, Index]:
    """What a mesh is drawn by: points (dim, n), straight cells (n_corners, m), and whose (m,).

    A curved cell of the plane is drawn by four straight ones, another one by its corners.
    """
    pieces = kind_of(mesh).pieces
    if not pieces:
        return mesh.p, mesh.t, np.arange(mesh.nelements)
    nodes = mesh.dofs.element_dofs
    cells = np.concatenate([nodes[list(piece)] for piece in pieces], axis=1)
    return mesh.p, cells, np.tile(np.arange(mesh.nelements), len(pieces))
