"""A finite element space, seen as evaluation operators.

At a quadrature point x_q the pointwise physics reads e = (u, grad u), a vector of s numbers, or
what else the element has (`pddlvm.fem.evaluated`: a divergence, a curl, a Hessian):

    e(x_q) = sum_i B_e[q, :, i] u_i,      i over the local degrees of freedom of the element

The matrices B_e are extracted once from scikit-fem; stacked over all points they are one sparse
matrix B, and every residual is B^T (w * flux(B u)) (the decomposition of libCEED). A `Region` holds
them for the cells of the domain, or for the facets of a boundary.
"""

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from functools import cached_property, reduce
from numbers import Integral

import numpy as np
import scipy.sparse as sp
import skfem
from numpy.typing import NDArray

from pddlvm.basics.checks import check_count, check_flag, check_kind
from pddlvm.basics.errors import InputError, MeshError, ProblemError
from pddlvm.fem.averages import at_vertices, averages
from pddlvm.fem.boundaries import facets_of, named
from pddlvm.fem.elements import default_quadrature, lagrange, own_element, quadrature_rules
from pddlvm.fem.evaluated import check_n_components, part_of
from pddlvm.fem.freedoms import kinds_of, motions
from pddlvm.fem.locate import located
from pddlvm.fem.mesh_files import check_no_path
from pddlvm.fem.periodic import check_cells_between, check_pairs, identified, partners
from pddlvm.fem.regions import Points, Region, check_points, turns
from pddlvm.fem.where import Nodes, Patch, Subdomain, Where

__all__ = ["Space"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Space:
    """Finite elements on a mesh: by default continuous ones of Lagrange, scalar or vector valued.

    Args:
        mesh: a scikit-fem mesh of lines, triangles, quadrilaterals, tetrahedra or hexahedra.
        degree: 1 or 2.
        n_components: 1 for a scalar u, else the length of the vector u.
        element: one of scikit-fem to use instead: bubbles, discontinuous ones, Raviart-Thomas,
            Nedelec, Morley, ...; a vector is what it makes. `degree` can only add to its
            quadrature.
        quadrature: polynomial degree that is integrated exactly; default 2 degree - 1 on
            simplices and 2 degree + 1 on quadrilaterals and hexahedra, which keeps the order of
            convergence for variable coefficients; of an element that is given twice its own.
        periodic: pairs of sides of the mesh that are one, {"left": "right"}: the second is the
            first, shifted. Values on them are equal, and what leaves one enters the other.

    Attributes:
        is_lagrange: are its elements those of its degree, and not others that were given?
        part: what its element evaluates at a point: u, du and maybe ddu, with their shapes.

    Raises:
        MeshError: no element of this degree is known for the mesh, an element that does not suit
            it, or sides that do not match.
        InputError: an element that has another number of components.
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
        check_kind(skfem.Element | None, element=element)
        check_count(0, quadrature=0 if quadrature is None else quadrature)
        self.is_lagrange = element is None
        if element is not None and periodic is not None:
            raise InputError("periodic sides need Lagrange elements: leave out `element`")
        # Its own: parts of it are read when a region is asked for.
        mesh = deepcopy(mesh)
        self.mesh = mesh
        if element is None:
            self._element = lagrange(mesh, degree, n_components)
            default = default_quadrature(mesh, degree)
        else:
            self._element = own_element(element, mesh)
            degree = max(degree, int(element.maxdeg))
            default = max(default_quadrature(mesh, 1), 2 * degree)
        self.degree = degree
        self.part = part_of(self._element, mesh)
        check_n_components(self.part, n_components, type(element).__name__)
        self.n_components = self.part.sizes[0]
        self._set_quadrature(default if quadrature is None else quadrature)
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
        """Location of each degree of freedom, on the first of two periodic sides, (n_dofs, dim).

        That of a polynomial of an element which has no point is the middle of a cell.
        """
        x = self._basis.doflocs.T
        missing = np.isnan(x).any(axis=1)
        if missing.any():
            own = self._basis.element_dofs
            x = x.copy()
            x[own] = np.where(missing[own][..., None], self.centroids.x, x[own])
        return np.ascontiguousarray(x[self._first])

    @property
    def dof_components(self) -> Index:
        """Component of u that each degree of freedom belongs to, (n_dofs,)."""
        return self._components[self._first]

    @property
    def _components(self) -> Index:
        """The same of each degree of freedom of the element."""
        components = np.zeros(len(self._number), dtype=np.int64)
        if self.part.derived[0][0] != "gradient":
            # A flux through a facet, or along an edge, is of no component.
            return components
        n_local = self._basis.element_dofs.shape[0]
        components[self._basis.element_dofs] = (np.arange(n_local) % self.n_components)[:, None]
        return components

    @cached_property
    def dof_kinds(self) -> tuple[str | None, ...]:
        """What each one is: "" a value, "x" or "n" a derivative, None neither, (n_dofs,)."""
        kinds = kinds_of(self._basis, self.part)
        return tuple(kinds[dof] for dof in self._first)

    @property
    def is_value(self) -> Mask:
        """Is each degree of freedom the value of its component at its point? (n_dofs,)."""
        if self.is_lagrange:
            return np.ones(self.n_dofs, dtype=bool)
        return np.array([kind == "" for kind in self.dof_kinds])

    def _identified(self, pairs: Mapping[str | int, str | int]) -> Index:
        """The number of each degree of freedom of the element once pairs of sides are one."""
        found = []
        for names in pairs.items():
            sides = [np.asarray(self._basis.get_dofs(facets_of(self.mesh, n)).all()) for n in names]
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
        """Degrees of freedom at the mesh vertices, (n_vertices, n_components) of Lagrange elements.

        Others have none there, or derivatives besides.
        """
        return self._number[self._basis.nodal_dofs.T]

    @property
    def rigid_modes(self) -> Mapping[str, Array]:
        """None is looked for: what has no strain depends on the physics."""
        return {}

    @cached_property
    def near_nullspace(self) -> Array:
        """What an elliptic operator hardly resists, (n_dofs, k).

        Constants of each component; of a displacement also rotations, of a plate its tilts.
        """
        if not self.is_lagrange:
            region = self.with_quadrature(2 * int(self._element.maxdeg)).interior()
            return motions(region)
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

        Raises:
            MeshError, ProblemError: no such part, or no such component.
        """
        if isinstance(where, Subdomain):
            dofs = np.unique(self._number[self._basis.element_dofs[:, self.cells(where.name)]])
        else:
            dofs = np.unique(self._number[self._basis.get_dofs(facets_of(self.mesh, where)).all()])
        if isinstance(where, Nodes):
            nodes = where.within(len(self.vertex_dofs))
            dofs = reduce(np.union1d, [dofs, self.vertex_dofs[nodes], self._on_edges(nodes)])
        if component is None:
            return dofs
        if self.part.derived[0][0] != "gradient":
            raise ProblemError(
                f"degrees of freedom of {type(self._element).__name__} are fluxes through facets "
                "or along edges, of no component of u; leave component out"
            )
        if not (isinstance(component, Integral) and 0 <= component < self.n_components):
            raise ProblemError(
                f"component must be between 0 and {self.n_components - 1}, got {component!r}"
            )
        return dofs[self.dof_components[dofs] == component]

    def cells(self, subdomain: str | int) -> Index:
        """Cells of a named subdomain."""
        return named(self.mesh.subdomains, subdomain, "subdomain")

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
            gradient: du instead, the gradient du_i/dx_j with j running fastest, or the divergence
                or the curl that the element has in its place.

        Returns:
            (n_points * n_components, n_dofs), or as many rows for a point as du has entries.

        Raises:
            InputError: a point is outside of the mesh.
        """
        check_flag(gradient=gradient)
        cells, local = located(self.mesh, check_points(points, self.dim))
        return self._evaluation(cells, local, int(gradient))

    def averages(self, patches: Sequence[Patch], is_mean: bool = True) -> sp.csr_matrix:
        """Rows of means or integrals of u over patches, (n_patches * n_components, n_dofs)."""
        return averages(self.interior, patches, is_mean)

    def at_nodes(self, u: Array) -> Array:
        """Values of u (n_dofs,) at the nodes of the mesh, (n_nodes, n_components).

        Where the cells of a node have different ones, their mean.
        """
        if self.is_lagrange and len(self.mesh.dofs.element_dofs) == len(self.mesh.t):
            return np.asarray(u[self.vertex_dofs])
        return np.asarray((self._to_nodes @ u).reshape(-1, self.n_components))

    @cached_property
    def _to_nodes(self) -> sp.csr_matrix:
        nodes = self.mesh.elem().doflocs
        rule = nodes.T, np.ones(len(nodes))
        basis = skfem.CellBasis(self.mesh, self._element, quadrature=rule)
        return at_vertices(self.mesh, self._region(basis, np.arange(self.mesh.nelements), "nodes"))

    def _evaluation(self, cells: Index, x: Array, order: int = 0) -> sp.csr_matrix:
        """From u to u (order 0) or du at coordinates x (n_points, dim) in cells (n_points,)."""
        mapping, local = self._basis.mapping, x.T[:, :, None]
        size, n = self.part.sizes[order], len(cells)
        dofs = self._number[self._basis.element_dofs[:, cells]]
        rows = np.arange(n * size).reshape(n, size)
        data, columns = np.empty((len(dofs), n, size)), np.empty((len(dofs), n, size), dtype=int)
        for i in range(len(dofs)):
            try:
                field = self._element.gbasis(mapping, local, i, tind=cells)[0]
            except ValueError as error:
                name = type(self._element).__name__
                raise InputError(
                    f"{name} of scikit-fem cannot be evaluated at given points; average_matrix "
                    "observes means over patches"
                ) from error
            data[i] = self.part.entries(field, order)[..., 0].T
            columns[i] = dofs[i][:, None]
        index = (np.broadcast_to(rows, data.shape).ravel(), columns.ravel())
        return sp.csr_matrix((data.ravel(), index), shape=(n * size, self.n_dofs))

    def gram_matrices(self) -> tuple[sp.csc_matrix, sp.csc_matrix]:
        """Mass and energy matrices (int u v, int grad u : grad v), (n_dofs, n_dofs).

        The energy is that of all that the element derives: div u div v; grad u . grad v and
        Hessians.
        """
        region = self.with_quadrature(2 * int(self._element.maxdeg)).interior()
        weights = np.repeat(region.weights.ravel()[:, None], region.shape[2], axis=1)
        of_u, b = np.arange(region.shape[2]) < self.n_components, region.matrix
        parts = (sp.diags((weights * part).ravel()) for part in (of_u, ~of_u))
        return tuple((b.T @ part @ b).tocsc() for part in parts)

    def _interior(self, subdomain: str | int | None) -> Region:
        cells = np.arange(self.mesh.nelements)
        if subdomain is None:
            return self._region(self._basis, cells, "interior")
        cells = np.sort(self.cells(subdomain))
        basis = skfem.CellBasis(self.mesh, self._element, quadrature=self._rules[0], elements=cells)
        return self._region(basis, cells, str(subdomain))

    def _on_edges(self, nodes: Index) -> Index:
        """Degrees of freedom on outer edges of solids that lie between some vertices."""
        own = self._basis.dofs.edge_dofs
        if self.mesh.dim() < 3 or not len(own):
            return np.zeros(0, dtype=np.int64)
        edges = np.asarray(self.mesh.boundary_edges(), dtype=np.int64)
        between = edges[np.isin(self.mesh.edges[:, edges], nodes).all(axis=0)]
        return np.asarray(self._number[own[:, between]].ravel(), dtype=np.int64)

    def _boundary(self, where: Where | None, name: str) -> Region:
        basis = self.facet_basis(where)
        return self._region(basis, np.asarray(basis.tind), name)

    def facet_basis(self, where: Where | None) -> skfem.FacetBasis:
        """Basis functions on the facets of a part of the boundary, as scikit-fem has them."""
        facets = facets_of(self.mesh, where)
        if not len(facets):
            raise MeshError("no facet of the boundary has all its vertices among these Nodes")
        rule = self._rules[1]
        return skfem.FacetBasis(self.mesh, self._element, quadrature=rule, facets=facets)

    def _region(self, basis: skfem.AbstractBasis, cells: Index, name: str) -> Region:
        return self.part.region(basis, self._number, self.n_dofs, cells, name)
