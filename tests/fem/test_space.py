"""Finite element spaces: evaluation matrices, regions and numbering, against scikit-fem."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import skfem
from skfem.helpers import ddot, dot, grad

from pddlvm import fem
from pddlvm.basics.errors import MeshError

SKEW = np.array([[1.0, 0.3, -0.2], [0.1, 0.8, 0.25], [-0.15, 0.2, 1.2]])
"""A linear map, so that no cell is parallel to the axes and every cell stays affine."""


def skewed(mesh):
    dim = mesh.dim()
    return dataclasses.replace(mesh, doflocs=SKEW[:dim, :dim] @ mesh.p)


MESHES = {
    "line": skewed(fem.interval(5)),
    "triangle": skewed(fem.unit_square(3)),
    "quadrilateral": skewed(fem.unit_square(3, quadrilaterals=True)),
    "tetrahedron": skewed(fem.unit_cube(2)),
    "hexahedron": skewed(fem.unit_cube(2, hexahedra=True)),
}
ELEMENTS = {
    ("line", 1): skfem.ElementLineP1(),
    ("line", 2): skfem.ElementLineP2(),
    ("triangle", 1): skfem.ElementTriP1(),
    ("triangle", 2): skfem.ElementTriP2(),
    ("quadrilateral", 1): skfem.ElementQuad1(),
    ("quadrilateral", 2): skfem.ElementQuad2(),
    ("tetrahedron", 1): skfem.ElementTetP1(),
    ("tetrahedron", 2): skfem.ElementTetP2(),
    ("hexahedron", 1): skfem.ElementHex1(),
    ("hexahedron", 2): skfem.ElementHex2(),
}
cells = pytest.mark.parametrize("cell", MESHES)
degrees = pytest.mark.parametrize("degree", [1, 2])
components = pytest.mark.parametrize("n_components", [1, 2, 3])


def polynomial(x, component, degree):
    """A polynomial of each component and its gradient at points x (n, dim)."""
    dim = x.shape[1]
    a = np.cos(1.0 + np.arange(dim) + 3 * component)
    b = np.sin(2.0 + np.arange(dim * dim).reshape(dim, dim) + 5 * component)
    b = (degree - 1) * (b + b.T)
    value = 0.7 + component + x @ a + 0.5 * np.einsum("ni,ij,nj->n", x, b, x)
    return value, a + x @ b


def interpolated(space, degree):
    """Degrees of freedom of that polynomial."""
    x, component = space.dof_points, space.dof_components
    u = np.empty(space.n_dofs)
    for c in range(space.n_components):
        u[component == c] = polynomial(x[component == c], c, degree)[0]
    return u


def assert_evaluates_exactly(region, u, degree):
    """B u is the polynomial and its gradient at the points of the region."""
    c = region.columns()[0].stop
    e = (region.matrix @ u).reshape(len(region.points.x), -1)
    for i in range(c):
        value, gradient = polynomial(region.points.x, i, degree)
        # Sums of at most 27 shape functions, whose gradients are of size 10: round-off.
        np.testing.assert_allclose(e[:, i], value, atol=1e-13)
        np.testing.assert_allclose(e[:, c:].reshape(len(e), c, -1)[:, i], gradient, atol=1e-12)


# Evaluation


@cells
@degrees
@components
def test_polynomials_of_the_degree_are_evaluated_exactly(cell, degree, n_components):
    space = fem.Space(MESHES[cell], degree, n_components=n_components)
    assert_evaluates_exactly(space.interior(), interpolated(space, degree), degree)


@cells
@degrees
@components
def test_polynomials_are_evaluated_exactly_on_the_boundary(cell, degree, n_components):
    space = fem.Space(MESHES[cell], degree, n_components=n_components)
    assert_evaluates_exactly(space.boundary(), interpolated(space, degree), degree)


def assert_evaluates_like(region, basis):
    u = np.cos(np.arange(region.n_dofs))
    e = (region.matrix @ u).reshape(*region.shape[:3])
    field = basis.interpolate(u)
    # The same sums in another order; gradients are of size 10.
    np.testing.assert_allclose(e[..., 0], np.asarray(field), atol=1e-13)
    np.testing.assert_allclose(np.moveaxis(e[..., 1:], -1, 0), field.grad, atol=1e-12)


@cells
@degrees
def test_evaluation_equals_interpolation_by_scikit_fem(cell, degree):
    space = fem.Space(MESHES[cell], degree, quadrature=4)
    basis = skfem.CellBasis(space.mesh, ELEMENTS[cell, degree], intorder=4)
    assert_evaluates_like(space.interior(), basis)


@cells
@degrees
def test_boundary_evaluation_equals_interpolation_by_scikit_fem(cell, degree):
    space = fem.Space(MESHES[cell], degree, quadrature=4)
    basis = skfem.FacetBasis(space.mesh, ELEMENTS[cell, degree], intorder=4)
    assert_evaluates_like(space.boundary(), basis)


@cells
@degrees
def test_sparse_matrix_scatters_the_local_ones(cell, degree):
    region = fem.Space(MESHES[cell], degree, n_components=2).interior()
    u = np.cos(np.arange(region.n_dofs))
    local = np.einsum("cqsi,ci->cqs", region.local, u[region.dofs])
    # The same sums in another order; gradients are of size 10.
    np.testing.assert_allclose(region.matrix @ u, local.ravel(), atol=1e-12)


@cells
def test_custom_element_is_used(cell):
    space = fem.Space(MESHES[cell], element=ELEMENTS[cell, 2])
    assert_evaluates_exactly(space.interior(), interpolated(space, 2), 2)


# Measures


@cells
@degrees
def test_weights_integrate_the_volume(cell, degree):
    space = fem.Space(MESHES[cell], degree)
    volume = abs(np.linalg.det(SKEW[: space.dim, : space.dim]))
    # Round-off of a sum of a few hundred weights.
    assert space.interior().weights.sum() == pytest.approx(volume, rel=1e-13)


def assert_integrates(space, degree):
    """The quadrature of the space is exact for polynomials of this degree."""
    fine = fem.Space(space.mesh, quadrature=degree + 3)
    a = np.array([1.0, -0.4, 0.3])[: space.dim]
    coarse, exact = (
        (r.weights.ravel() * (0.2 + r.points.x @ a) ** degree).sum()
        for r in (space.interior(), fine.interior())
    )
    # Both are exact to round-off (tabulated rules have 15 digits).
    assert coarse == pytest.approx(exact, rel=1e-12)


@cells
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_quadrature_is_exact_for_its_degree(cell, degree):
    assert_integrates(fem.Space(MESHES[cell], quadrature=degree), degree)


@cells
@degrees
def test_default_quadrature_is_exact_for_the_documented_degree(cell, degree):
    tensor_product = cell in ("quadrilateral", "hexahedron")
    assert_integrates(fem.Space(MESHES[cell], degree), 2 * degree + (1 if tensor_product else -1))


@pytest.mark.parametrize(
    ("mesh", "name", "measure"),
    [
        (fem.interval(4, 0.0, 3.0), "left", 1.0),
        (fem.interval(4, 0.0, 3.0), "right", 1.0),
        (fem.unit_square(3).scaled((2.0, 3.0)), "left", 3.0),
        (fem.unit_square(3).scaled((2.0, 3.0)), "top", 2.0),
        (fem.unit_square(3, quadrilaterals=True).scaled((2.0, 3.0)), "right", 3.0),
        (fem.unit_square(3, quadrilaterals=True).scaled((2.0, 3.0)), "bottom", 2.0),
        (fem.unit_cube(2).scaled((2.0, 3.0, 5.0)), "left", 15.0),
        (fem.unit_cube(2, hexahedra=True).scaled((2.0, 3.0, 5.0)), "left", 15.0),
    ],
)
@degrees
def test_integral_of_one_over_a_boundary_is_its_measure(mesh, name, measure, degree):
    weights = fem.Space(mesh, degree).boundary(name).weights
    # Round-off of a sum of a few dozen weights.
    assert weights.sum() == pytest.approx(measure, rel=1e-13)


@pytest.mark.parametrize(
    ("mesh", "measure"),
    [
        (fem.interval(4), 2.0),
        (fem.unit_square(3), 4.0),
        (fem.unit_square(3, quadrilaterals=True), 4.0),
        (fem.unit_cube(2), 6.0),
        (fem.unit_cube(2, hexahedra=True), 6.0),
    ],
    ids=MESHES,
)
def test_boundary_without_a_name_is_all_of_it(mesh, measure):
    # Round-off of a sum of a few dozen weights.
    assert fem.Space(mesh).boundary().weights.sum() == pytest.approx(measure, rel=1e-13)


def test_points_of_a_boundary_lie_on_it():
    points = fem.Space(fem.unit_square(3)).boundary("right").points
    # One affine map of numbers of size one.
    np.testing.assert_allclose(points.x[:, 0], 1.0, atol=1e-15)


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral", "tetrahedron", "hexahedron"])
def test_points_of_a_boundary_know_their_cells(cell):
    space = fem.Space(MESHES[cell])
    region = space.boundary()
    corners = space.mesh.p[:, space.mesh.t[:, region.points.cells]]
    # Points of a facet lie in the bounding box of the cell, up to round-off.
    assert (region.points.x.T >= corners.min(axis=1) - 1e-14).all()
    assert (region.points.x.T <= corners.max(axis=1) + 1e-14).all()


@cells
def test_cell_volumes_are_those_of_the_interior_weights(cell):
    space = fem.Space(MESHES[cell])
    np.testing.assert_array_equal(space.cell_volumes, space.interior().weights.sum(axis=1))


@cells
def test_centroids_are_the_means_of_the_vertices(cell):
    space = fem.Space(MESHES[cell])
    mean = np.mean([space.mesh.p[:, v] for v in space.mesh.t], axis=0).T
    # One sum of eight numbers in another order.
    np.testing.assert_allclose(space.centroids.x, mean, atol=1e-15)


# Subdomains


def with_halves(mesh):
    return mesh.with_subdomains({"low": lambda x: x[0] < 1 / 3, "high": lambda x: x[0] > 1 / 3})


@pytest.mark.parametrize(("name", "volume"), [("low", 1 / 3), ("high", 2 / 3)])
@degrees
def test_subdomain_has_its_volume(name, volume, degree):
    region = fem.Space(with_halves(fem.unit_square(3)), degree).interior(name)
    # Round-off of a sum of a few dozen weights.
    assert region.weights.sum() == pytest.approx(volume, rel=1e-13)


def test_points_of_a_subdomain_know_their_cells():
    space = fem.Space(with_halves(fem.unit_square(3)), 2)
    region = space.interior("high")
    np.testing.assert_array_equal(
        region.points.cells, np.repeat(np.sort(space.cells("high")), region.shape[1])
    )
    assert (region.points.x[:, 0] > 1 / 3).all()


@degrees
def test_subdomain_evaluates_polynomials_exactly(degree):
    space = fem.Space(with_halves(fem.unit_square(3)), degree)
    assert_evaluates_exactly(space.interior("high"), interpolated(space, degree), degree)


# Matrices


def weighted_product(region, components_of_e):
    """B^T w B over some components of e = (u, grad u)."""
    weights = np.zeros((*region.weights.shape, region.shape[2]))
    weights[..., components_of_e] = region.weights[..., None]
    b = region.matrix.toarray()
    return b.T @ (weights.ravel()[:, None] * b)


@skfem.BilinearForm
def mass(u, v, w):
    return dot(u, v) if u.ndim > 2 else u * v


@skfem.BilinearForm
def laplace(u, v, w):
    return ddot(grad(u), grad(v)) if u.ndim > 2 else dot(grad(u), grad(v))


def skfem_matrix(form, space, element):
    # Degree 8 in each direction is exact for the products of all these elements.
    element = element if space.n_components == 1 else skfem.ElementVector(element)
    return form.assemble(skfem.Basis(space.mesh, element, intorder=8)).toarray()


vector_or_scalar = pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])


@pytest.mark.parametrize(("cell", "degree"), ELEMENTS)
@vector_or_scalar
@pytest.mark.parametrize("form", [mass, laplace], ids=["mass", "stiffness"])
def test_weighted_product_equals_assembly_by_scikit_fem(cell, degree, vector, form):
    mesh = MESHES[cell]
    c = mesh.dim() if vector else 1
    space = fem.Space(mesh, degree, n_components=c, quadrature=2 * degree)
    ours = weighted_product(space.interior(), slice(c) if form is mass else slice(c, None))
    theirs = skfem_matrix(form, space, ELEMENTS[cell, degree])
    # Two exact quadratures of the same products (tabulated rules have 15 digits).
    np.testing.assert_allclose(ours, theirs, atol=1e-12 * abs(theirs).max())


@pytest.mark.parametrize(("cell", "degree"), ELEMENTS)
@vector_or_scalar
def test_gram_matrices_equal_assembly_by_scikit_fem(cell, degree, vector):
    mesh = MESHES[cell]
    space = fem.Space(mesh, degree, n_components=mesh.dim() if vector else 1)
    for ours, form in zip(space.gram_matrices(), (mass, laplace), strict=True):
        theirs = skfem_matrix(form, space, ELEMENTS[cell, degree])
        # Two exact quadratures of the same products (tabulated rules have 15 digits).
        np.testing.assert_allclose(ours.toarray(), theirs, atol=1e-12 * abs(theirs).max())


@cells
@degrees
@vector_or_scalar
def test_patch(cell, degree, vector):
    space = fem.Space(MESHES[cell], degree, n_components=MESHES[cell].dim() if vector else 1)
    c, region = space.n_components, space.interior()
    e = (region.matrix @ interpolated(space, 1)).reshape(*region.shape[:3])
    flux = region.weights[..., None] * e
    flux[..., :c] = 0
    r = region.matrix.T @ flux.ravel()
    interior = np.setdiff1d(np.arange(space.n_dofs), space.dofs_on())
    # The divergence theorem holds cell by cell: zero up to round-off.
    np.testing.assert_allclose(r[interior], 0.0, atol=1e-12)


# Numbering


@cells
@degrees
@components
def test_each_component_has_its_own_degrees_of_freedom(cell, degree, n_components):
    scalar = fem.Space(MESHES[cell], degree)
    space = fem.Space(MESHES[cell], degree, n_components=n_components)
    counts = np.bincount(space.dof_components, minlength=n_components)
    np.testing.assert_array_equal(counts, scalar.n_dofs)


@cells
@degrees
@components
def test_vertex_dofs_lie_at_the_vertices(cell, degree, n_components):
    space = fem.Space(MESHES[cell], degree, n_components=n_components)
    for c, dofs in enumerate(space.vertex_dofs.T):
        # One affine map of numbers of size one.
        np.testing.assert_allclose(space.dof_points[dofs], space.mesh.p.T, atol=1e-15)
        np.testing.assert_array_equal(space.dof_components[dofs], c)


@pytest.mark.parametrize(
    "mesh",
    [fem.unit_square(3), fem.unit_square(3, quadrilaterals=True)],
    ids=["triangles", "quadrilaterals"],
)
@degrees
@pytest.mark.parametrize("n_components", [1, 2])
def test_dofs_on_a_boundary_are_all_that_lie_on_it(mesh, degree, n_components):
    space = fem.Space(mesh, degree, n_components=n_components)
    on_it = np.isclose(space.dof_points[:, 0], 1.0)
    np.testing.assert_array_equal(space.dofs_on("right"), np.flatnonzero(on_it))


@degrees
@pytest.mark.parametrize("hexahedra", [False, True])
def test_dofs_on_the_boundary_are_all_that_lie_on_it(degree, hexahedra):
    space = fem.Space(fem.unit_cube(2, hexahedra=hexahedra), degree)
    on_it = np.isclose(abs(space.dof_points - 0.5), 0.5).any(axis=1)
    np.testing.assert_array_equal(space.dofs_on(), np.flatnonzero(on_it))


def test_taking_points_keeps_their_cells():
    points = fem.Space(fem.unit_square(2)).centroids
    some = points.take(np.array([5, 2]))
    np.testing.assert_array_equal(some.x, points.x[[5, 2]])
    np.testing.assert_array_equal(some.cells, [5, 2])


# Errors


@pytest.mark.parametrize("degree", [0, 3])
def test_unknown_degree_is_refused(degree):
    with pytest.raises(MeshError, match=f"no element of degree {degree} for MeshTri1"):
        fem.Space(fem.unit_square(1), degree)


def test_unknown_cell_is_refused():
    with pytest.raises(MeshError, match="MeshWedge1"):
        fem.Space(skfem.MeshWedge1())


@pytest.mark.parametrize("path", ["part.msh", Path("part.msh")])
def test_a_path_in_the_place_of_a_mesh_is_told_how_to_read_it(path):
    with pytest.raises(MeshError, match=r"'part\.msh'; fem\.read_mesh\(path\) reads one"):
        fem.Space(path)
    with pytest.raises(MeshError, match=r"fem\.read_surface\(path\) reads one"):
        fem.ShellSpace(path)
