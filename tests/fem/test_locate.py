"""Points of sensors in a mesh, and beside it by rounding or by the chords of a curve."""

import dataclasses
import re
import time

import numpy as np
import pytest
import skfem

import pddlvm
from pddlvm import fem
from pddlvm.fem.locate import Finder

BENT = skfem.MeshQuad2.from_mesh(skfem.MeshQuad().refined(2))
BENT = dataclasses.replace(BENT, doflocs=BENT.doflocs + 0.03 * np.sin(3 * BENT.doflocs[::-1]))
TURNED = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
MESHES = {
    "line": fem.interval(5),
    "triangles": fem.unit_square(6),
    "quadrilaterals": fem.unit_square(5, quadrilaterals=True),
    "tetrahedra": fem.unit_cube(3),
    "hexahedra": fem.unit_cube(2, hexahedra=True),
    "flat triangles": fem.unit_square(6).scaled((1.0, 0.005)),
    "disc": skfem.MeshTri.init_circle(3),
    "ball": skfem.MeshTet.init_ball(2),
    "curved disc": skfem.MeshTri2.init_circle(2),
    "curved ball": skfem.MeshTet2.init_ball(2),
    "bent quadrilaterals": BENT,
    # Its sides are straight, and no table has them.
    "turned": dataclasses.replace(fem.unit_square(6), doflocs=TURNED @ fem.unit_square(6).p),
}
meshes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())


def middles(mesh):
    """Of the outer facets, on the curve where they are curved."""
    rule = mesh.brefdom.p.mean(axis=1, keepdims=True), np.ones(1)
    basis = skfem.FacetBasis(mesh, mesh.elem(), quadrature=rule)
    return np.asarray(basis.global_coordinates())[:, :, 0].T


def x_of(mesh, points, degree=2):
    """Coordinates, as functions of the space that hold them exactly, read at points."""
    space = fem.Space(mesh, degree)
    return space.evaluation(points) @ space.dof_points


@meshes
@pytest.mark.parametrize(
    "changed",
    [lambda x: x, lambda x: x.astype(np.float32).astype(float), lambda x: x * (1 + 1e-10)],
    ids=["as they are", "float32", "1.0000000001"],
)
def test_sensors_on_the_boundary_are_in_the_mesh(mesh, changed):
    points = changed(np.concatenate([middles(mesh), mesh.p[:, mesh.boundary_nodes()].T]))
    # The closest points: as far away as the coordinates have been changed, 6e-8 at most.
    np.testing.assert_allclose(x_of(mesh, points), points, atol=1e-7)


@meshes
def test_points_inside_are_found_where_they_are(mesh):
    space = fem.Space(mesh, quadrature=4)
    points = space.interior().points.x
    # Newton's method in curved cells ends at 1e-8 of their size.
    np.testing.assert_allclose(x_of(mesh, points), points, atol=1e-8)


@meshes
def test_a_table_with_four_digits(mesh):
    points = middles(mesh)
    rounded = np.round(points, 4)
    # The closest point is not further from a rounded one than the point it was.
    moved = np.linalg.norm(x_of(mesh, rounded) - rounded, axis=1)
    assert (moved <= np.linalg.norm(points - rounded, axis=1) + 1e-9).all()


@pytest.mark.parametrize("n", [8, 12, 40])
def test_a_table_of_points_on_a_circle_whose_mesh_has_chords(n):
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles)])
    fan = [[0, i, i % n + 1] for i in range(1, n + 1)]
    mesh = skfem.MeshTri(np.column_stack([np.zeros(2), rim]), np.array(fan).T)
    points = np.round(np.stack([np.cos(angles + 0.3), np.sin(angles + 0.3)], axis=1), 4)
    found = x_of(mesh, points)
    # On the chord, not further away than its sagitta.
    sagitta = 1 - np.cos(np.pi / n)
    assert np.linalg.norm(found - points, axis=1).max() < sagitta + 1e-4


def test_a_table_of_points_on_a_sphere_whose_mesh_has_triangles():
    points = np.random.default_rng(0).normal(size=(500, 3))
    points = np.round(points / np.linalg.norm(points, axis=1, keepdims=True), 4)
    found = x_of(skfem.MeshTet.init_ball(2), points)
    # Edges of 0.6 have circles that lie 0.06 inside.
    assert np.linalg.norm(found - points, axis=1).max() < 0.08


@pytest.mark.parametrize(
    ("mesh", "point", "distance"),
    [
        # Straight sides have no sagitta, and 0.002 is more than the rounding of four digits.
        ("triangles", [1.002, 0.5], "0.002"),
        ("quadrilaterals", [1.3, 1.4], "0.5"),
        ("tetrahedra", [0.5, 0.5, -0.01], "0.01"),
        ("hexahedra", [2.0, 2.0, 2.0], "1.7"),
        ("line", [1.01], "0.01"),
        ("disc", [3.0, 4.0], "4"),
        ("curved disc", [3.0, 4.0], "4"),
    ],
)
def test_the_distance_of_a_point_outside_is_said(mesh, point, distance):
    space = fem.Space(MESHES[mesh])
    words = re.escape(f"point 1, {point}, is outside of the mesh, {distance} away")
    with pytest.raises(pddlvm.InputError, match=words):
        space.evaluation(np.array([np.full(len(point), 0.25), point]))


def test_a_point_in_a_hole_is_outside():
    ring = fem.unit_square(8).remove_elements(
        fem.unit_square(8).elements_satisfying(lambda x: np.abs(x - 0.5).max(axis=0) < 0.25)
    )
    with pytest.raises(pddlvm.InputError, match=r"point 0, \[0.5, 0.5\], .* 0.25 away"):
        fem.Space(ring).evaluation(np.array([[0.5, 0.5]]))


def test_the_closest_point_of_flat_cells():
    mesh = fem.unit_square(6).scaled((1.0, 0.005))
    points = np.array([[0.31, 0.02], [0.52, -0.01], [1.04, 0.002], [1.03, 0.045]])
    cells, local, distance = Finder(mesh).closest(points, np.full(mesh.nelements, 1.0))
    found = mesh.mapping().F(local.T[:, :, None], tind=cells)[:, :, 0].T
    expected = np.clip(points, 0, [1.0, 0.005])
    # Cells of an aspect ratio of 200: round-off.
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(distance, np.linalg.norm(points - expected, axis=1), atol=1e-12)


def test_the_closest_point_of_a_curved_disc():
    mesh = skfem.MeshTri2.init_circle(3)
    points = 1.5 * np.stack([np.cos(np.arange(20.0)), np.sin(np.arange(20.0))], axis=1)
    _, _, distance = Finder(mesh).closest(points, np.full(mesh.nelements, 1.0))
    # Parabolas over 11 degrees follow the circle to 0.2^4 / 100.
    np.testing.assert_allclose(distance, 0.5, atol=2e-5)


@pytest.mark.parametrize("name", ["disc", "ball", "curved disc", "quadrilaterals"])
def test_ten_thousand_sensors_are_found_at_once(name):
    mesh = MESHES[name]
    space = fem.Space(mesh.refined(2) if name == "quadrilaterals" else mesh)
    generator = np.random.default_rng(0)
    points = generator.normal(size=(10_000, space.dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[::2] *= generator.uniform(0, 1, size=(5000, 1))
    if name == "quadrilaterals":
        points = np.clip(0.5 + points, 0, 1)
    start = time.process_time()
    space.evaluation(np.round(points, 4))
    # 0.1 to 0.7 s; it was 25 s.
    assert time.process_time() - start < 7
