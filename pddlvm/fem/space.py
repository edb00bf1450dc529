"""A finite element space, seen as evaluation operators.

At a quadrature point x_q the pointwise physics reads e = (u, grad u), a vector of s numbers:

    e(x_q) = sum_i B_e[q, :, i] u_i,      i over the local degrees of freedom of the element,

s = components * (1 + dim). The matrices B_e are extracted once from scikit-fem; stacked over all
points they are one sparse matrix B, and every residual is B^T (w * flux(B u)) (the decomposition
of libCEED). A `Region` holds them for the cells of the domain, or for the facets of a boundary.
"""

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from numbers import Integral

import numpy as np
import scipy.sparse as sp
import skfem
from numpy.typing import NDArray

from pddlvm.basics.checks import check_count, check_flag, check_kind
from pddlvm.basics.errors import InputError, MeshError, ProblemError
from pddlvm.fem.averages import averages
from pddlvm.fem.elements import check_element, default_quadrature, lagrange, quadrature_rules
from pddlvm.fem.locate import Finder, rounding
from pddlvm.fem.mesh_files import check_no_path
from pddlvm.fem.periodic import check_cells_between, check_pairs, identified, partners
from pddlvm.fem.regions import Points, Region, check_points, turns
from pddlvm.fem.where import Facets, Nodes, Patch, Subdomain, Where, satisfying

__all__ = ["Space"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Space:
    """Continuous Lagrange elements on a mesh, scalar or vector valued.

    Args:
        mesh: a scikit-fem mesh of lines, triangles, quadrilaterals, tetrahedra or hexahedra.
        degree: 1 or 2.
        n_components: 1 for a scalar u, else the length of the vector u.
        element: a scikit-fem element to use instead (`degree` then only sets the quadrature).
        quadrature: polynomial degree that is integrated exactly; default 2 degree - 1 on
            simplices and 2 degree + 1 on quadrilaterals and hexahedra, which keeps the order of
            convergence for variable coefficients.
        periodic: pairs of sides of the mesh that are one, {"left": "right"}: the second is the
            first, shifted. Values on them are equal, and what leaves one enters the other.

    Attributes:
        is_lagrange: are its elements those of its degree, and not others that were given?

    Raises:
        MeshError: no element of this degree is known for the mesh, or sides that do not match.
    """

    def __init__(
        self,
        mesh: skfem.Mesh,
        degree: int = 1,
        *,
        n_components: int = 1,
        element: skfem.Element | None = None,
        quadrature: int | None = None,
        periodic: Mapping[str, str] | None = None,
    ) -> None:
        check_count(0, degree=degree)
        check_count(1, n_components=n_components)
        check_no_path(mesh, "fem.read_mesh")
        check_kind(skfem.Mesh, mesh=mesh)
        check_element(element)
        check_count(0, quadrature=0 if quadrature is None else quadrature)
        self.is_lagrange, self.degree = element is None, degree
        if element is not None and periodic is not None:
            raise InputError("periodic sides need Lagrange elements: leave out `element`")
        if element is None:
            element = lagrange(mesh, degree, n_components)
        if quadrature is None:
            quadrature = default_quadrature(mesh, degree)
        # Its own: parts of it are read when a region is asked for.
        mesh = deepcopy(mesh)
        self.mesh = mesh
        self.n_components = n_components
        self._element = element
        self._set_quadrature(quadrature)
        # Of each degree of freedom of the element its number: sides that are one share theirs.
        self._number: Index = np.arange(int(self._basis.N))
        pairs = {} if periodic is None else check_pairs(periodic)
        if pairs:
            self._number = self._identified(pairs)
            check_cells_between(self._number[self._basis.element_dofs].T)
        self._first = np.unique(self._number, return_index=True)[1]

    def _set_quadrature(self, degree: int) -> None:
        self.quadrature = degree
        self._rules = quadrature_rules(self.mesh, degree)
        self._basis = skfem.CellBasis(self.mesh, self._element, quadrature=self._rules[0])
        self._regions: dict[tuple[str, str | None], Region] = {}

    def with_quadrature(self, degree: int) -> "Space":
        """The same degrees of freedom, integrated by a rule that is exact for another degree."""
        other = copy(self)
        other._set_quadrature(degree)
        return other

    @property
    def dim(self) -> int:
        """Dimension of the domain."""
        return int(self.mesh.dim())

    @property
    def n_dofs(self) -> int:
        """Number of degrees of freedom, boundary included."""
        return len(self._first)

    @property
    def dof_points(self) -> Array:
        """Location of each degree of freedom, on the first of two periodic sides, (n_dofs, dim)."""
        return np.ascontiguousarray(self._basis.doflocs.T[self._first])

    @property
    def dof_components(self) -> Index:
        """Component of u that each degree of freedom belongs to, (n_dofs,)."""
        return self._components[self._first]

    @property
    def _components(self) -> Index:
        """The same of each degree of freedom of the element."""
        components = np.zeros(len(self._number), dtype=np.int64)
        n_local = self._basis.element_dofs.shape[0]
        components[self._basis.element_dofs] = (np.arange(n_local) % self.n_components)[:, None]
        return components

    def _identified(self, pairs: Mapping[str | int, str | int]) -> Index:
        """The number of each degree of freedom of the element once pairs of sides are one."""
        found = []
        for names in pairs.items():
            sides = [np.asarray(self._basis.get_dofs(self._facets(n)).all()) for n in names]
            for component in range(self.n_components):
                a, b = (side[self._components[side] == component] for side in sides)
                points = self._basis.doflocs.T
                found.append((a, b[partners(names, (points[a], points[b]))]))
        return identified(found, len(self._number))

    @property
    def centroids(self) -> Points:
        """Cell centroids, (n_cells, dim)."""
        x = self.mesh.p[:, self.mesh.t].mean(axis=1).T
        return Points(np.ascontiguousarray(x), np.arange(len(x)))

    @property
    def cell_volumes(self) -> Array:
        """Volume of each cell, (n_cells,)."""
        return np.asarray(self._basis.dx.sum(axis=1))

    @property
    def vertex_dofs(self) -> Index:
        """Degrees of freedom at the mesh vertices, (n_vertices, n_components)."""
        return self._number[self._basis.nodal_dofs.T]

    @property
    def rigid_modes(self) -> Mapping[str, Array]:
        """None is looked for: what has no strain depends on the physics."""
        return {}

    @property
    def near_nullspace(self) -> Array:
        """Constants of each component; of a vector in space also rotations, (n_dofs, k)."""
        component, c = self.dof_components, self.n_components
        constants = np.eye(c)[component]
        if c == 1 or c != self.dim:
            return constants
        x = self.dof_points - self.dof_points.mean(axis=0)
        return np.column_stack([constants, *turns(constants, x)])

    def interior(self, subdomain: str | int | None = None) -> Region:
        """The cells of a named subdomain, by default all cells; made once."""
        key = ("cells", None if subdomain is None else str(subdomain))
        if key not in self._regions:
            self._regions[key] = self._interior(subdomain)
        return self._regions[key]

    def boundary(self, where: Where | None = None) -> Region:
        """The facets of a part of the boundary, by default the whole boundary.

        Args:
            where: a name or number of the mesh (this region is made once), a function that is true
                for the middle x (dim,) of a facet, `Facets` or `Nodes`.
        """
        if not (where is None or isinstance(where, str | int)):
            return self._boundary(where, "part of the boundary")
        key = ("facets", None if where is None else str(where))
        if key not in self._regions:
            self._regions[key] = self._boundary(where, key[1] or "boundary")
        return self._regions[key]

    def dofs_on(self, where: Where | None = None, component: int | None = None) -> Index:
        """Sorted degrees of freedom on a part of the boundary, by default on all of it.

        Args:
            where: see `boundary`; or a `Subdomain`.
            component: only those of this component of u.
        """
        if isinstance(where, Subdomain):
            dofs = np.unique(self._number[self._basis.element_dofs[:, self.cells(where.name)]])
        else:
            dofs = np.unique(self._number[self._basis.get_dofs(self._facets(where)).all()])
        if isinstance(where, Nodes):
            own = self.vertex_dofs[where.within(len(self.vertex_dofs))]
            dofs = np.union1d(dofs, own)
        if component is None:
            return dofs
        if not (isinstance(component, Integral) and 0 <= component < self.n_components):
            raise ProblemError(
                f"component must be between 0 and {self.n_components - 1}, got {component!r}"
            )
        return dofs[self.dof_components[dofs] == component]

    def cells(self, subdomain: str | int) -> Index:
        """Cells of a named subdomain."""
        return _named(self.mesh.subdomains, subdomain, "subdomain")

    def cells_of_dofs(self, dofs: Index) -> Index:
        """One cell that each degree of freedom belongs to."""
        cell = np.zeros(self.n_dofs, dtype=np.int64)
        cell[self._number[self._basis.element_dofs]] = np.arange(self.mesh.nelements)
        return cell[dofs]

    def evaluation(self, points: Array, *, gradient: bool = False) -> sp.csr_matrix:
        """Matrix from u to its values at points, row after row all components of a point.

        A point that is outside by rounding stands for the closest point of the mesh: by less than
        5e-4 of the diagonal of the mesh (a table with four digits), or on a boundary that may be
        a curve, one that turns by less than 50 degrees from facet to facet, by less than the
        distance between the curve and its chords.

        Args:
            points: (n_points, dim), in the mesh.
            gradient: grad u instead, du_i/dx_j with j running fastest.

        Returns:
            (n_points * n_components, n_dofs), times dim for the gradient.

        Raises:
            InputError: a point is outside of the mesh.
        """
        check_flag(gradient=gradient)
        cells, local = self._located(check_points(points, self.dim))
        return self._evaluation(cells, local, gradient=gradient)

    def averages(self, patches: Sequence[Patch]) -> sp.csr_matrix:
        """Rows of the means of u over patches, (n_patches * n_components, n_dofs)."""
        return averages(self.interior, patches)

    def at_nodes(self, u: Array) -> Array:
        """Values of u (n_dofs,) at the nodes of the mesh, (n_nodes, n_components)."""
        nodes = self.mesh.dofs.element_dofs
        if len(nodes) == len(self.mesh.t):
            return np.asarray(u[self.vertex_dofs])
        # Of curved cells, some nodes of which may be none of u.
        number, first = np.unique(nodes, return_index=True)
        local, cells = np.divmod(first, self.mesh.nelements)
        matrix = self._evaluation(cells, self.mesh.elem().doflocs[local])
        return np.asarray((matrix @ u).reshape(len(number), self.n_components))

    def _evaluation(self, cells: Index, x: Array, *, gradient: bool = False) -> sp.csr_matrix:
        """The same for coordinates x (n_points, dim) in cells (n_points,)."""
        mapping, local = self._basis.mapping, x.T[:, :, None]
        size, n = self.n_components * (self.dim if gradient else 1), len(cells)
        dofs = self._number[self._basis.element_dofs[:, cells]]
        rows = np.arange(n * size).reshape(n, size)
        data, columns = np.empty((len(dofs), n, size)), np.empty((len(dofs), n, size), dtype=int)
        for i in range(len(dofs)):
            field = self._element.gbasis(mapping, local, i, tind=cells)[0]
            values = field.grad if gradient else np.asarray(field)
            data[i] = np.reshape(values, (size, n)).T
            columns[i] = dofs[i][:, None]
        index = (np.broadcast_to(rows, data.shape).ravel(), columns.ravel())
        return sp.csr_matrix((data.ravel(), index), shape=(n * size, self.n_dofs))

    def _located(self, points: Array) -> tuple[Index, Array]:
        """Cell of each point and coordinates in it, (n, dim)."""
        number, cell, x = Finder(self.mesh).containing(points)
        number, first = np.unique(number, return_index=True)
        cells, local = np.full(len(points), -1), np.zeros_like(points)
        cells[number], local[number] = cell[first], x[first]
        beside = np.flatnonzero(cells < 0)
        if len(beside):
            facets = self.mesh.boundary_facets()
            outer, which = np.unique(self.mesh.f2t[0, facets], return_inverse=True)
            slack = np.zeros(len(outer))
            np.maximum.at(slack, which, rounding(self.mesh, facets))
            finder = Finder(self.mesh, outer)
            cells[beside], local[beside], _ = finder.closest(points[beside], slack)
            if (cells < 0).any():
                i = int(np.argmax(cells < 0))
                raise InputError(
                    f"point {i}, {points[i].tolist()}, is outside of the mesh, "
                    f"{finder.distance(points[i]):.2g} away from it"
                )
        return cells, local

    def gram_matrices(self) -> tuple[sp.csc_matrix, sp.csc_matrix]:
        """Mass and Dirichlet-energy matrices (int u v, int grad u : grad v), (n_dofs, n_dofs)."""
        region = self.with_quadrature(2 * int(self._element.maxdeg)).interior()
        weights = np.repeat(region.weights.ravel()[:, None], region.shape[2], axis=1)
        of_u, b = np.arange(region.shape[2]) < self.n_components, region.matrix
        parts = (sp.diags((weights * part).ravel()) for part in (of_u, ~of_u))
        return tuple((b.T @ part @ b).tocsc() for part in parts)

    def _interior(self, subdomain: str | int | None) -> Region:
        if subdomain is None:
            return self._region(self._basis, np.arange(self.mesh.nelements), "interior")
        cells = np.sort(self.cells(subdomain))
        basis = skfem.CellBasis(self.mesh, self._element, quadrature=self._rules[0], elements=cells)
        return self._region(basis, cells, str(subdomain))

    def _boundary(self, where: Where | None, name: str) -> Region:
        facets = self._facets(where)
        if not len(facets):
            raise MeshError("no facet of the boundary has all its vertices among these Nodes")
        basis = self._facet_basis(facets, self._rules[1])
        return self._region(basis, np.asarray(basis.tind), name)

    def _facet_basis(self, facets: Index, rule: tuple[Array, Array]) -> skfem.FacetBasis:
        return skfem.FacetBasis(self.mesh, self._element, quadrature=rule, facets=facets)

    def _facets(self, where: Where | None) -> Index:
        if isinstance(where, str | int):
            if str(where) not in (self.mesh.boundaries or {}) and str(where) in (
                self.mesh.subdomains or {}
            ):
                raise MeshError(
                    f"{where!r} is a subdomain of the mesh and no boundary: values in it are "
                    f"Dirichlet(fem.Subdomain({where!r}), ...), terms on it are on "
                    f"space.interior({where!r})"
                )
            return _named(self.mesh.boundaries, where, "boundary")
        if isinstance(where, Subdomain):
            raise MeshError(
                f"{where!r} is no part of the boundary; terms on its cells are on "
                f"space.interior({where.name!r})"
            )
        if isinstance(where, Facets):
            return where.within(self.mesh.nfacets)
        outer = np.asarray(self.mesh.boundary_facets(), dtype=np.int64)
        if where is None:
            return outer
        if isinstance(where, Nodes):
            is_one = np.zeros(self.mesh.nvertices, dtype=bool)
            is_one[where.within(len(is_one))] = True
            return outer[is_one[self.mesh.facets[:, outer]].all(axis=0)]
        if not callable(where):
            raise MeshError(
                f"a part of the boundary is a name, a number, a function of x, fem.Facets or "
                f"fem.Nodes, got {where!r}"
            )
        middle = self.mesh.brefdom.p.mean(axis=1, keepdims=True)
        basis = self._facet_basis(outer, (middle, np.ones(1)))
        middles = np.asarray(basis.global_coordinates())[:, :, 0].T
        return outer[satisfying(where, np.ascontiguousarray(middles), "facets (their middles)")]

    def _region(self, basis: skfem.AbstractBasis, cells: Index, name: str) -> Region:
        c, dim = self.n_components, self.dim
        n_cells, n_quadrature = basis.dx.shape
        n_local = basis.element_dofs.shape[0]
        local = np.empty((n_cells, n_quadrature, c * (1 + dim), n_local))
        for i in range(n_local):
            field = basis.basis[i][0]
            value = np.reshape(np.asarray(field), (c, n_cells, n_quadrature))
            gradient = np.reshape(field.grad, (c * dim, n_cells, n_quadrature))
            local[..., :c, i] = np.moveaxis(value, 0, -1)
            local[..., c:, i] = np.moveaxis(gradient, 0, -1)
        x = np.moveaxis(np.asarray(basis.global_coordinates()), 0, -1)
        return Region(
            local=local,
            dofs=np.ascontiguousarray(self._number[basis.element_dofs].T),
            weights=np.ascontiguousarray(basis.dx),
            points=Points(np.ascontiguousarray(x.reshape(-1, dim)), np.repeat(cells, n_quadrature)),
            u_shape=() if c == 1 else (c,),
            du_shape=(dim,) if c == 1 else (c, dim),
            n_dofs=self.n_dofs,
            name=name,
        )


def _named(groups: Mapping[str, Index] | None, name: str | int, what: str) -> Index:
    """A group that has a name, or a number only, which is its name then."""
    known = groups or {}
    if str(name) not in known:
        raise MeshError(
            f"the mesh has no {what} {name!r}; it has {sorted(known) or f'none: no named {what}'}"
        )
    return np.asarray(known[str(name)], dtype=np.int64)
