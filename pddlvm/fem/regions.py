"""Points and regions: evaluation operators on a part of the domain or of its boundary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.basics.checks import check_finite, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.fem.where import Patch, Where

__all__ = ["FieldPart", "FunctionSpace", "Points", "Region", "check_points", "constants", "turns"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


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


def constants(space: "FunctionSpace") -> Array:
    """Constant functions, one for each component, (n_dofs, n_components)."""
    if space.is_value.all():
        return np.eye(space.n_components)[space.dof_components]
    return space.near_nullspace[:, : space.n_components]


@dataclass(frozen=True)
class FieldPart:
    """What a field adds to e: its values u, and what is derived from them, du and maybe ddu.

    Attributes:
        name: of the field; those of what is derived begin with one d more each.
        u_shape: of the values.
        derived: what each is and its shape: (("gradient", (2,)), ("Hessian", (2, 2))).
    """

    name: str
    u_shape: tuple[int, ...]
    derived: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the names that point functions read: u, du, ddu."""
        shapes = (self.u_shape, *(shape for _, shape in self.derived))
        return {"d" * order + self.name: shape for order, shape in enumerate(shapes)}

    @property
    def meanings(self) -> dict[str, str]:
        """What each name is but the first."""
        return {"d" * (1 + order) + self.name: what for order, (what, _) in enumerate(self.derived)}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of entries."""
        return tuple(math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class Region:
    """Quadrature on a part of the domain or of its boundary.

    Attributes:
        local: evaluation matrices B_e, (n_cells, n_quadrature, s, n_local).
        dofs: global numbers of the local degrees of freedom, (n_cells, n_local).
        weights: quadrature weights times Jacobian, (n_cells, n_quadrature).
        points: the quadrature points, cell after cell, n_cells * n_quadrature of them.
        parts: what each field adds to e, in its order; together they have s entries.
        n_dofs: degrees of freedom of the whole space.
        name: for messages.
        is_mixed: are its fields those of a `MixedSpace`, which have names?
    """

    local: Array
    dofs: Index
    weights: Array
    points: Points
    parts: tuple[FieldPart, ...]
    n_dofs: int
    name: str
    is_mixed: bool = False

    def __repr__(self) -> str:
        return f"Region({self.name!r}, {len(self.dofs)} cells)"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n_cells, n_quadrature, s, n_local)."""
        return self.local.shape

    def columns(self, field: int = 0) -> tuple[slice, ...]:
        """Which entries of e are the values of a field, and which are each of its derivatives."""
        start = sum(sum(part.sizes) for part in self.parts[:field])
        ends = start + np.cumsum([0, *self.parts[field].sizes])
        return tuple(slice(*pair) for pair in pairwise(ends.tolist()))

    @cached_property
    def arguments(self) -> tuple[tuple[str, slice | int, tuple[int, ...]], ...]:
        """What point functions read of e: name, place and shape of each; a number has an index."""
        found: list[tuple[str, slice | int, tuple[int, ...]]] = []
        for number, part in enumerate(self.parts):
            for (name, shape), place in zip(part.shapes.items(), self.columns(number), strict=True):
                found.append((name, place if shape else place.start, shape))
        return tuple(found)

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
    def is_value(self) -> Mask:
        """Is each degree of freedom the value of its component at its point? (n_dofs,)."""

    @property
    def vertex_dofs(self) -> Index:
        """Degrees of freedom at the mesh vertices, (n_vertices, n_components) where all values."""

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

    def averages(self, patches: Sequence[Patch], is_mean: bool = True) -> sp.csr_matrix:
        """Rows of means or integrals of u over patches."""

    def gram_matrices(self) -> tuple[sp.csc_matrix, sp.csc_matrix]:
        """Mass and Dirichlet-energy matrices, (n_dofs, n_dofs)."""
