"""Points and regions: evaluation operators on a part of the domain or of its boundary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.basics.checks import check_finite, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.fem.where import Patch, Where

__all__ = ["FieldPart", "FunctionSpace", "Points", "Region", "check_points", "turns"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """Points where fields are evaluated: coordinates x (n, dim) and the cell of each (n,)."""

    x: Array
    cells: Index

    def take(self, index: Index) -> "Points":
        """The points of the given indices."""
        return Points(self.x[index], self.cells[index])


def check_points(points: Any, dim: int) -> Array:
    """Return points as an array (n_points, dim), or raise an InputError."""
    found = check_vectors(points, "points", dim, f"have {dim} coordinates on the last axis")
    if found.ndim != 2:
        raise InputError(f"points must have shape (n_points, {dim}), got {tuple(found.shape)}")
    return check_finite(found, "points").detach().cpu().double().numpy()


def turns(shifts: Array, x: Array) -> list[Array]:
    """Infinitesimal rotations of displacements about the origin, (n_dofs,) each.

    Args:
        shifts: along each axis, (n_dofs, dim).
        x: points of the degrees of freedom, (n_dofs, dim).
    """
    pairs = combinations(range(shifts.shape[1]), 2)
    return [shifts[:, j] * x[:, i] - shifts[:, i] * x[:, j] for i, j in pairs]


@dataclass(frozen=True)
class FieldPart:
    """What one of several fields adds to e: its values, then its gradient.

    Attributes:
        name: of the field.
        u_shape, du_shape: shapes of the two.
    """

    name: str
    u_shape: tuple[int, ...]
    du_shape: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of entries of the two."""
        return math.prod(self.u_shape), math.prod(self.du_shape)


@dataclass(frozen=True)
class Region:
    """Quadrature on a part of the domain or of its boundary.

    Attributes:
        local: evaluation matrices B_e, (n_cells, n_quadrature, s, n_local).
        dofs: global numbers of the local degrees of freedom, (n_cells, n_local).
        weights: quadrature weights times Jacobian, (n_cells, n_quadrature).
        points: the quadrature points, cell after cell, n_cells * n_quadrature of them.
        u_shape, du_shape: shapes of the two parts of e that the pointwise physics reads, u and
            its gradient (or what takes its place, a strain); together they have s entries.
        n_dofs: degrees of freedom of the whole space.
        name: for messages.
        parts: of several fields, what each of them adds to e, in its order; u is all of e then.
            Of one field none.
    """

    local: Array
    dofs: Index
    weights: Array
    points: Points
    u_shape: tuple[int, ...]
    du_shape: tuple[int, ...]
    n_dofs: int
    name: str
    parts: tuple[FieldPart, ...] = ()

    def __repr__(self) -> str:
        return f"Region({self.name!r}, {len(self.dofs)} cells)"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n_cells, n_quadrature, s, n_local)."""
        return self.local.shape

    @property
    def size_u(self) -> int:
        """Number of entries of u in e."""
        return math.prod(self.u_shape)

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """B, sparse, (n_cells * n_quadrature * s, n_dofs)."""
        n_cells, n_quadrature, s, n_local = self.shape
        rows = n_cells * n_quadrature * s
        columns = np.broadcast_to(self.dofs[:, None, None, :].astype(np.int32), self.shape)
        pointers = np.arange(rows + 1, dtype=np.int64) * n_local
        matrix = sp.csr_matrix(
            (self.local.flatten(), columns.flatten(), pointers), shape=(rows, self.n_dofs)
        )
        matrix.eliminate_zeros()
        return matrix


class FunctionSpace(Protocol):
    """What a problem needs to know about the space of its solution."""

    @property
    def mesh(self) -> Any:
        """Vertices `p` (dim, n), cells `t` (n_corners, n_cells), `nelements`."""

    @property
    def dim(self) -> int:
        """Dimension of x."""

    @property
    def n_components(self) -> int:
        """Components of u."""

    @property
    def n_dofs(self) -> int:
        """Number of degrees of freedom, boundary included."""

    @property
    def dof_points(self) -> Array:
        """Location of each degree of freedom, (n_dofs, dim)."""

    @property
    def dof_components(self) -> Index:
        """Component of u that each degree of freedom belongs to, (n_dofs,)."""

    @property
    def vertex_dofs(self) -> Index:
        """Degrees of freedom at the mesh vertices, (n_vertices, n_components)."""

    @property
    def centroids(self) -> Points:
        """Cell centroids."""

    @property
    def cell_volumes(self) -> Array:
        """Volume of each cell, (n_cells,)."""

    @property
    def rigid_modes(self) -> Mapping[str, Array]:
        """Motions without strain by name, (n_dofs,) each, that Dirichlet values must exclude."""

    @property
    def near_nullspace(self) -> Array:
        """What an elliptic operator hardly resists, (n_dofs, k).

        The unknowns of a node follow each other, the first of them of component 0.
        """

    def dofs_on(self, where: Where | None = None, component: int | None = None) -> Index:
        """Degrees of freedom of a part of the boundary."""

    def at_nodes(self, u: Array) -> Array:
        """Values of u (n_dofs,) at the nodes of the mesh, (n_nodes, n_components)."""

    def cells(self, subdomain: str | int) -> Index:
        """Cells of a named subdomain."""

    def cells_of_dofs(self, dofs: Index) -> Index:
        """One cell that each degree of freedom belongs to."""

    def evaluation(self, points: Array, *, gradient: bool = False) -> sp.csr_matrix:
        """Matrix from u to its values, or gradients, at points."""

    def averages(self, patches: Sequence[Patch]) -> sp.csr_matrix:
        """Rows that give the mean of u over patches."""

    def gram_matrices(self) -> tuple[sp.csc_matrix, sp.csc_matrix]:
        """Mass and Dirichlet-energy matrices, (n_dofs, n_dofs)."""
