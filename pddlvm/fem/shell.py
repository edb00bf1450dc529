"""Thin shells on triangulated surfaces: strains of six degrees of freedom per vertex.

    u = (displacement, rotation) at each vertex, in global axes
    Pi = sum_regions int psi(strain),   strain = B_e u of the facet

Three regions carry physics: `membrane()` and `bending()`, where the pointwise functions read a
strain (3,) in the place of the gradient, and `faces()`, where they read the displacement (3,) and
its component along the outer normal, for loads. See `shell_element` for the sources.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.basics.checks import check_flag, check_kind, check_real
from pddlvm.basics.errors import InputError, MeshError, ProblemError
from pddlvm.fem.closest import closest
from pddlvm.fem.mesh_files import check_no_path
from pddlvm.fem.regions import FieldPart, Points, Region, check_points
from pddlvm.fem.shell_element import (
    MIDPOINTS,
    Facets,
    bending,
    membrane_basic,
    membrane_higher,
)
from pddlvm.fem.surfaces import SurfaceMesh
from pddlvm.fem.where import Nodes, Patch, Where, satisfying

__all__ = ["ShellSpace"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_CENTROID = np.full((1, 3), 1 / 3)
_CORNERS = np.eye(3)
_AXES = ("x", "y", "z")


class ShellSpace:
    """Displacements (components 0, 1, 2) and rotations (3, 4, 5, in radians) of a shell.

    Args:
        mesh: the surface.
        alpha: weight of the drilling rotations in the constant membrane strain.
        beta: weight of the higher-order membrane strain. Felippa's optimum for plane problems is
            alpha = 1.5, beta = (1 - 4 nu^2) / 2; the default locks far less on coarse, doubly
            curved surfaces.
    """

    def __init__(self, mesh: SurfaceMesh, *, alpha: float = 1.0, beta: float = 0.01) -> None:
        check_no_path(mesh, "fem.read_surface")
        check_kind(SurfaceMesh, mesh=mesh)
        check_real(0, alpha=alpha, beta=beta)
        self.mesh = mesh
        self._alpha, self._beta = alpha, beta
        self._facets = Facets.of(mesh.p, mesh.t)
        corners = mesh.t.T
        self._dofs = (6 * corners[:, :, None] + np.arange(6)).reshape(len(corners), 18)

    @property
    def dim(self) -> int:
        """Dimension of x."""
        return 3

    @property
    def n_components(self) -> int:
        """Three displacements and three rotations."""
        return 6

    @property
    def n_dofs(self) -> int:
        """Six per vertex."""
        return 6 * self.mesh.p.shape[1]

    @property
    def dof_points(self) -> Array:
        """Vertex of each degree of freedom, (n_dofs, 3)."""
        return np.repeat(self.mesh.p.T, 6, axis=0)

    @property
    def dof_components(self) -> Index:
        """Component of each degree of freedom, (n_dofs,)."""
        return np.tile(np.arange(6), self.mesh.p.shape[1])

    @property
    def is_value(self) -> NDArray[np.bool_]:
        """All are values at vertices, (n_dofs,)."""
        return np.ones(self.n_dofs, dtype=bool)

    @property
    def vertex_dofs(self) -> Index:
        """Degrees of freedom of each vertex, (n_vertices, 6)."""
        return np.arange(self.n_dofs).reshape(-1, 6)

    def at_nodes(self, u: Array) -> Array:
        """Unknowns u (n_dofs,) of the vertices, (n_vertices, 6)."""
        return np.asarray(u[self.vertex_dofs])

    @property
    def centroids(self) -> Points:
        """Centroids of the triangles."""
        return self._points(_CENTROID)

    @property
    def cell_volumes(self) -> Array:
        """Areas of the triangles, (n_triangles,)."""
        return self._facets.areas

    @property
    def frames(self) -> Array:
        """Axes e1, e2, e3 (rows) of each triangle, in which its strains are given, (n, 3, 3)."""
        return self._facets.frames

    @cached_property
    def rigid_modes(self) -> Mapping[str, Array]:
        """The six motions without strain, about the middle of the surface, (n_dofs,) each."""
        x = self.mesh.p.T - self.mesh.p.mean(axis=1)
        modes = {}
        for axis, name in enumerate(_AXES):
            unit = np.eye(3)[axis]
            still = np.zeros_like(x)
            modes[f"translation along {name}"] = np.hstack([still + unit, still]).ravel()
            modes[f"rotation about {name}"] = np.hstack([np.cross(unit, x), still + unit]).ravel()
        return modes

    @property
    def near_nullspace(self) -> Array:
        """The rigid motions, (n_dofs, 6)."""
        return np.column_stack(list(self.rigid_modes.values()))

    def membrane(self) -> Region:
        """Membrane strains (e11, e22, 2 e12) in the frame of each triangle, as `du` (3,)."""
        basic = membrane_basic(self._facets, self._alpha)
        local = np.concatenate([basic, membrane_higher(self._facets)], axis=1)
        shares = np.array([1.0] + 3 * [0.75 * self._beta])
        return self._strains(
            local, [(0, 0), (0, 1), (3, 2)], shares, np.vstack([_CENTROID, MIDPOINTS]), "membrane"
        )

    def bending(self) -> Region:
        """Curvatures (k11, k22, 2 k12) in the frame of each triangle, as `du` (3,)."""
        shares = np.full(3, 1 / 3)
        unknowns = [(0, 2), (3, 0), (3, 1)]
        return self._strains(bending(self._facets), unknowns, shares, MIDPOINTS, "bending")

    def faces(self) -> Region:
        """Displacement `u` (3,) and its outward normal part `du` (a number), lumped at corners."""
        n = self.mesh.nelements
        local = np.zeros((n, 3, 4, 18))
        for a in range(3):
            local[:, a, :3, 6 * a : 6 * a + 3] = np.eye(3)
            local[:, a, 3, 6 * a : 6 * a + 3] = self._facets.frames[:, 2]
        return Region(
            local=local,
            dofs=self._dofs,
            weights=np.repeat(self._facets.areas[:, None] / 3, 3, axis=1),
            points=self._points(_CORNERS),
            parts=(FieldPart("u", (3,), (("normal part", ()),)),),
            n_dofs=self.n_dofs,
            name="faces",
        )

    def vertices(self, name: str) -> Region:
        """Displacement `u` (3,) at each vertex of a set, with weight one: for point loads."""
        chosen = self._vertices(name)
        return Region(
            local=np.broadcast_to(np.eye(3), (len(chosen), 1, 3, 3)).copy(),
            dofs=self.vertex_dofs[chosen][:, :3],
            weights=np.ones((len(chosen), 1)),
            points=Points(self.mesh.p.T[chosen], self._cell_of_vertex[chosen]),
            parts=(FieldPart("u", (3,), (("gradient", (0,)),)),),
            n_dofs=self.n_dofs,
            name=name,
        )

    def dofs_on(self, where: Where | None = None, component: int | None = None) -> Index:
        """Degrees of freedom of a set of vertices: all six, or one component.

        Args:
            where: a name, a function of the place x (3,) of a vertex, or `Nodes`.
            component: only those of this one.

        Raises:
            MeshError: no such set, or none: a shell has no boundary of its own.
            ProblemError: the component is not one of 0 ... 5.
        """
        dofs = self.vertex_dofs[self._vertices(where)]
        if component is None:
            return dofs.ravel()
        if not 0 <= component < 6:
            raise ProblemError(f"component must be between 0 and 5, got {component}")
        return dofs[:, component]

    def cells(self, subdomain: str | int) -> Index:
        """Triangles of which all three vertices are in a named set."""
        inside = np.zeros(self.mesh.p.shape[1], dtype=bool)
        inside[self._vertices(subdomain)] = True
        return np.flatnonzero(inside[self.mesh.t].all(axis=0))

    def cells_of_dofs(self, dofs: Index) -> Index:
        """One triangle that each degree of freedom belongs to."""
        return self._cell_of_vertex[dofs // 6]

    def evaluation(self, points: Array, *, gradient: bool = False) -> sp.csr_matrix:
        """Matrix from u to the displacements at the points of the surface next to some points.

        Displacements are taken linear between the vertices.

        Args:
            points: (n_points, 3).
            gradient: not offered for shells; strains come from `membrane` and `bending`.

        Returns:
            (3 n_points, n_dofs), the three components of a point after each other.

        Raises:
            InputError: a point is further from the surface than the longest edge, or a gradient.
        """
        check_flag(gradient=gradient)
        if gradient:
            raise InputError("a shell has no gradient of u at points; see membrane() and bending()")
        points = check_points(points, 3)
        corners = self.mesh.p.T[self.mesh.t.T]
        longest = float(np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max())
        cells, weights, distances = closest(corners, points)
        far = np.flatnonzero(distances > longest)
        if far.size:
            i = far[0]
            raise InputError(
                f"point {i}, {points[i].tolist()}, is {distances[i]:.3g} away from the surface, "
                f"which is more than its longest edge, {longest:.3g}"
            )
        rows = 3 * np.arange(len(points))[:, None, None] + np.zeros((3, 1), int) + np.arange(3)
        columns = 6 * self.mesh.t.T[cells][:, :, None] + np.arange(3)
        data = np.repeat(weights.ravel(), 3)
        shape = (3 * len(points), self.n_dofs)
        return sp.csr_matrix((data, (rows.ravel(), columns.ravel())), shape=shape)

    def averages(self, patches: Sequence[Patch], is_mean: bool = True) -> sp.csr_matrix:
        """Not offered for shells."""
        raise InputError(
            "average_matrix needs Lagrange elements; for a shell give the weights of your mean to "
            "LinearObservation"
        )

    def gram_matrices(self) -> tuple[sp.csc_matrix, sp.csc_matrix]:
        """Lumped mass (displacements; rotations times the squared facet size) and unit stiffness.

        The stiffness is that of membrane and curvature strains with unit moduli.
        """
        mass = np.zeros(self.n_dofs)
        inertia = np.ones((self.mesh.nelements, 18))
        inertia.reshape(-1, 3, 6)[:, :, 3:] = self._facets.areas[:, None, None]
        np.add.at(mass, self._dofs, self._facets.areas[:, None] / 3 * inertia)
        stiffness = sp.csc_matrix((self.n_dofs, self.n_dofs))
        for region in (self.membrane(), self.bending()):
            weights = np.repeat(region.weights.ravel(), 3)
            stiffness = stiffness + region.matrix.T @ sp.diags(weights) @ region.matrix
        return sp.diags(mass).tocsc(), stiffness.tocsc()

    @cached_property
    def _cell_of_vertex(self) -> Index:
        cell = np.zeros(self.mesh.p.shape[1], dtype=np.int64)
        cell[self.mesh.t] = np.arange(self.mesh.nelements)
        return cell

    def _vertices(self, where: Where | None) -> Index:
        if isinstance(where, Nodes):
            return where.within(self.mesh.p.shape[1])
        if callable(where):
            return satisfying(where, np.ascontiguousarray(self.mesh.p.T), "vertices")
        known = self.mesh.vertex_sets
        if str(where) not in known:
            raise MeshError(
                f"the surface has no vertex set {where!r}; it has {sorted(known) or 'none'}: make "
                "one with mesh.with_sets(name=lambda x: ...)"
            )
        return known[str(where)]

    def _points(self, barycentric: Array) -> Points:
        corners = self.mesh.p[:, self.mesh.t]
        x = np.einsum("qa,can->nqc", barycentric, corners).reshape(-1, 3)
        return Points(x, np.repeat(np.arange(self.mesh.nelements), len(barycentric)))

    def _strains(
        self,
        local: Array,
        unknowns: Sequence[tuple[int, int]],
        shares: Array,
        barycentric: Array,
        name: str,
    ) -> Region:
        """A region of strains of unknowns in facet axes: (0 or 3 for rotations, axis) each."""
        n, n_quadrature = local.shape[:2]
        turned = np.zeros((n, n_quadrature, 3, 18))
        for a in range(3):
            for k, (first, axis) in enumerate(unknowns):
                block = local[..., len(unknowns) * a + k, None]
                start = 6 * a + first
                turned[..., start : start + 3] += block * self.frames[:, None, None, axis]
        return Region(
            local=turned,
            dofs=self._dofs,
            weights=self._facets.areas[:, None] * shares,
            points=self._points(barycentric),
            parts=(FieldPart("u", (0,), (("strain", (3,)),)),),
            n_dofs=self.n_dofs,
            name=name,
        )
