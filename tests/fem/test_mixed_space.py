"""Spaces of several fields: degrees of freedom, regions and values of each."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from checks import dot_test, refuses
from flows import MESH, PRESSURE, SPACE, VELOCITY, P, U, draw

import pddlvm
from pddlvm import fem
from pddlvm.linalg.operators import SparseOperator


def test_degrees_of_freedom_are_those_of_the_fields_one_after_the_other():
    assert SPACE.n_dofs == VELOCITY.n_dofs + PRESSURE.n_dofs
    assert (U, P) == (slice(0, VELOCITY.n_dofs), slice(VELOCITY.n_dofs, SPACE.n_dofs))
    assert SPACE.field_names == ("u", "p")
    np.testing.assert_array_equal(SPACE.dof_points[P], PRESSURE.dof_points)
    np.testing.assert_array_equal(SPACE.dof_components[U], VELOCITY.dof_components)
    assert set(SPACE.dof_components[P]) == {2}


def test_all_fields_share_the_finest_quadrature():
    # Degree 2 integrates up to degree 3, degree 1 alone takes one point.
    assert SPACE.field("p")[1].interior().weights.shape == VELOCITY.interior().weights.shape
    assert PRESSURE.interior().weights.shape[1] == 1


@pytest.mark.parametrize(
    ("region", "own"),
    [
        (SPACE.interior(), VELOCITY.interior()),
        (SPACE.interior("low"), VELOCITY.interior("low")),
        (SPACE.boundary("left"), VELOCITY.boundary("left")),
        (SPACE.boundary(lambda x: x[0] < 1e-9), VELOCITY.boundary("left")),
    ],
)
def test_a_region_evaluates_each_field(region, own):
    dot_test(SparseOperator(region.matrix), SPACE.n_dofs, region.matrix.shape[0])
    u = draw(SPACE.n_dofs).numpy()
    e = (region.matrix @ u).reshape(-1, 9)
    # Sums in another order.
    np.testing.assert_allclose(e[:, :6].ravel(), own.matrix @ u[U], atol=1e-13)
    pressure = SPACE.field("p")[1].evaluation(region.points.x)
    # Points of the quadrature are found again up to rounding.
    np.testing.assert_allclose(e[:, 6], pressure @ u[P], atol=1e-12)
    np.testing.assert_array_equal(region.weights, own.weights)


def test_regions_that_have_a_name_are_made_once():
    assert SPACE.interior() is SPACE.interior()
    assert SPACE.boundary("left") is SPACE.boundary("left")


def test_evaluation_has_all_fields_of_a_point():
    points, u = np.array([[0.2, 0.3], [0.7, 0.1]]), draw(SPACE.n_dofs).numpy()
    found = (SPACE.evaluation(points) @ u).reshape(2, 3)
    np.testing.assert_array_equal(found[:, :2].ravel(), VELOCITY.evaluation(points) @ u[U])
    np.testing.assert_array_equal(found[:, 2], PRESSURE.evaluation(points) @ u[P])
    slopes = (SPACE.evaluation(points, gradient=True) @ u).reshape(2, 6)
    expected = PRESSURE.evaluation(points, gradient=True) @ u[P]
    np.testing.assert_array_equal(slopes[:, 4:].ravel(), expected)
    means = SPACE.averages(["low"]) @ u
    # Other rules of quadrature for the same polynomial.
    np.testing.assert_allclose(means[2], PRESSURE.averages(["low"])[0] @ u[P], rtol=1e-12)


def test_values_at_nodes_and_vertices_are_those_of_the_fields():
    u = draw(SPACE.n_dofs).numpy()
    expected = np.hstack([VELOCITY.at_nodes(u[U]), PRESSURE.at_nodes(u[P])])
    np.testing.assert_array_equal(SPACE.at_nodes(u), expected)
    np.testing.assert_array_equal(u[SPACE.vertex_dofs], expected)


def test_cells_and_sides_are_those_of_the_mesh():
    np.testing.assert_array_equal(SPACE.cells("low"), PRESSURE.cells("low"))
    # Rules of quadrature that differ: round-off.
    np.testing.assert_allclose(SPACE.cell_volumes, PRESSURE.cell_volumes, rtol=1e-14)
    np.testing.assert_array_equal(SPACE.centroids.x, PRESSURE.centroids.x)
    assert set(SPACE.dofs_on("left", component=2)) == set(P.start + PRESSURE.dofs_on("left"))
    cells = SPACE.cells_of_dofs(np.array([P.start + 5]))
    assert 5 in PRESSURE.interior().dofs[cells[0]]


def test_gram_matrices_are_blocks():
    for found, u, p in zip(
        SPACE.gram_matrices(), VELOCITY.gram_matrices(), PRESSURE.gram_matrices(), strict=True
    ):
        assert abs(found - sp.block_diag([u, p])).max() == 0


OTHER = fem.Space(fem.unit_square(2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "dictionary of names and spaces"),
        ([VELOCITY], "dictionary of names and spaces"),
        ({"u": MESH}, "field 'u' needs a fem.Space"),
        ({"1": PRESSURE}, "cannot be the name of an argument"),
        ({"lambda": PRESSURE}, "cannot be the name of an argument"),
        ({"x": PRESSURE}, "would both be the argument 'x'"),
        ({"u": PRESSURE, "du": PRESSURE}, "would both be the argument 'du'"),
    ],
)
def test_fields_that_cannot_be_are_named(fields, message):
    refuses(message, fem.MixedSpace, fields)


def test_fields_on_meshes_that_differ_are_named():
    refuses("'p' is on another mesh than 'u'", fem.MixedSpace, {"u": VELOCITY, "p": OTHER},
            error=pddlvm.MeshError)  # fmt: skip
    renamed = fem.Space(MESH.with_boundaries({"left": lambda x: x[1] < 1e-9}))
    refuses("sides are named differently", fem.MixedSpace, {"u": VELOCITY, "p": renamed},
            error=pddlvm.MeshError)  # fmt: skip


def test_an_unknown_component_is_named():
    refuses("component must be between 0 and 2, got 3", SPACE.dofs_on, "left", 3)


def test_an_unknown_field_is_named():
    refuses(r"no field 'q'; there are \['u', 'p'\]", SPACE.field, "q")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal(copied):
    other = copied(SPACE)
    assert abs(other.interior().matrix - SPACE.interior().matrix).max() == 0
