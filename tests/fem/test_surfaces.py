"""Surfaces: what is repaired, what is refused and named, files of many formats, shapes."""

import meshio
import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.fem.surface_shapes import loop_subdivide

TETRAHEDRON = (
    np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]),
)


def volume(mesh):
    return (mesh.area_vectors * mesh.p[:, mesh.t[0]].T).sum() / 3


def test_a_closed_surface_is_turned_outwards():
    points, triangles = TETRAHEDRON
    mesh = fem.surface(points, triangles[:, ::-1])
    assert mesh.is_closed
    assert volume(mesh) == pytest.approx(1 / 6)


def test_a_triangle_of_the_wrong_side_is_turned_with_a_note():
    points, triangles = TETRAHEDRON
    triangles = triangles.copy()
    triangles[2] = triangles[2, ::-1]
    with pytest.warns(UserWarning, match="1 triangles were turned"):
        mesh = fem.surface(points, triangles)
    assert volume(mesh) == pytest.approx(1 / 6)


def test_duplicate_vertices_are_merged_with_a_note():
    points, triangles = TETRAHEDRON
    with pytest.warns(UserWarning, match="8 duplicate vertices"):
        mesh = fem.surface(points[triangles.ravel()], np.arange(12).reshape(4, 3))
    assert mesh.p.shape == (3, 4) and mesh.is_closed


def mobius(n=24):
    """A band with one half turn."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    rows = []
    for side in (-0.3, 0.3):
        r = 1 + side * np.cos(angle / 2)
        rows.append(np.stack([r * np.cos(angle), r * np.sin(angle), side * np.sin(angle / 2)], 1))
    triangles = []
    for i in range(n):
        a, b = (i, i + 1) if i + 1 < n else (i, n)
        c, d = (i + n, i + 1 + n) if i + 1 < n else (i + n, 0)
        triangles += [(a, b, d), (a, d, c)]
    return np.concatenate(rows), np.array(triangles)


def cube_pair():
    """Two tetrahedra that touch at one vertex."""
    points, triangles = TETRAHEDRON
    other = np.where(triangles > 0, triangles + 3, 0)
    return np.concatenate([points, -points[1:]]), np.concatenate([triangles, other])


def faults():
    points, triangles = TETRAHEDRON
    fin = np.concatenate([triangles, [[0, 1, 4]]])
    two = np.concatenate([triangles, triangles + 4])
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [2, 1e-3, 0]])
    return {
        "more than two triangles": (np.vstack([points, [[1, -1, 0]]]), fin),
        "2 parts": (np.vstack([points, points + 5]), two),
        "slivers": (flat, np.array([[0, 1, 2]])),
        "one side": mobius(),
        "single vertices": cube_pair(),
        "not finite": (np.where(points == 1, np.nan, points), triangles),
        "coordinates are larger": (1e200 * points, triangles),
        "do not exist": (points, triangles + 1),
    }


@pytest.mark.filterwarnings("ignore:.*turned around")
@pytest.mark.parametrize("message", faults())
def test_faults_are_named(message):
    with pytest.raises(pddlvm.MeshError, match=message):
        fem.surface(*faults()[message])


def test_an_open_surface_is_refused_where_a_closed_one_is_needed():
    points, triangles = TETRAHEDRON
    with pytest.raises(pddlvm.MeshError, match="open"):
        fem.surface(points, triangles[1:], closed=True)
    assert not fem.surface(points, triangles[1:]).is_closed


@pytest.mark.parametrize("suffix", ["obj", "stl", "ply", "off", "vtu", "msh"])
def test_files_of_many_formats_give_the_same_surface(suffix, tmp_path):
    mesh = fem.sphere(3)
    path = tmp_path / f"sphere.{suffix}"
    meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)]).write(path)
    found = fem.read_surface(path, closed=True)
    assert found.nelements == mesh.nelements
    # Text formats round to single precision.
    assert volume(found) == pytest.approx(volume(mesh), rel=1e-5)


def test_files_that_are_no_surfaces_are_refused(tmp_path):
    with pytest.raises(pddlvm.MeshError, match="does not exist"):
        fem.read_surface(tmp_path / "missing.obj")
    (tmp_path / "text.obj").write_text("not a surface")
    with pytest.raises(pddlvm.MeshError):
        fem.read_surface(tmp_path / "text.obj")


@pytest.mark.parametrize(
    ("make", "area"),
    [
        (lambda n: fem.roof(n), np.radians(40) * 25 * 25),
        (lambda n: fem.cylinder(n), np.pi / 2 * 300 * 300),
        (lambda n: fem.hemisphere(n), np.pi / 2 * 100 * np.cos(np.radians(18))),
        (lambda n: fem.hemisphere(n, hole=0.0), np.pi / 2 * 100),
        (lambda n: fem.sphere(n, perturbation=0.0), 4 * np.pi),
    ],
)
def test_areas_of_shapes_converge_with_second_order(make, area):
    errors = [area - np.linalg.norm(make(n).area_vectors, axis=1).sum() for n in (8, 16)]
    # Facets of a smooth surface lie inside of it.
    assert errors[1] > 0
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_hare_is_closed_has_a_foot_and_no_bad_angles():
    mesh = fem.hare()
    assert mesh.is_closed
    assert volume(mesh) > 0
    assert len(mesh.vertex_sets["foot"]) > 20
    sides = np.stack([mesh.p[:, mesh.t[(i + 1) % 3]] - mesh.p[:, mesh.t[i]] for i in range(3)])
    length = np.linalg.norm(sides, axis=1)
    cosine = (length[0] ** 2 + length[1] ** 2 - length[2] ** 2) / (2 * length[0] * length[1])
    assert np.degrees(np.arccos(cosine.max())) > 15


def test_subdivision_keeps_a_plane_and_quadruples_the_triangles():
    mesh = fem.sphere(2, perturbation=0.0)
    points, triangles = loop_subdivide(mesh.p.T, mesh.t.T)
    assert len(triangles) == 4 * mesh.nelements
    assert fem.surface(points, triangles).is_closed
    # Loop's limit of a constant is the constant.
    same, _ = loop_subdivide(np.ones_like(mesh.p.T), mesh.t.T)
    np.testing.assert_allclose(same, 1)


def test_vertex_sets_by_planes_and_boxes():
    mesh = fem.roof(4).with_sets(
        end_again=fem.plane(1, 25.0, 1e-6), part=fem.box((-1, -1, 0), (30, 12.5, 30))
    )
    assert set(mesh.vertex_sets["end_again"]) == set(mesh.vertex_sets["end"])
    assert (mesh.p[1, mesh.vertex_sets["part"]] <= 12.5).all()
    with pytest.raises(pddlvm.MeshError, match="'none' is empty"):
        mesh.with_sets(none=lambda x: x[0] > 1e9)


def test_surface_field_has_its_variance_and_knows_the_surface():
    mesh = fem.sphere(8, perturbation=0.0)
    field = pddlvm.SurfaceField.on(mesh, 49, length=0.7, std=0.3, link=pddlvm.links.identity)
    shapes = field.shapes(fem.ShellSpace(mesh).centroids)
    areas = torch.from_numpy(np.linalg.norm(mesh.area_vectors, axis=1))
    variance = (shapes.square().sum(1) * areas).sum() / areas.sum()
    # Linear interpolation to the centroids smooths a little.
    assert float(variance.sqrt()) == pytest.approx(0.3, rel=0.03)


def test_eigenvalues_of_a_sphere():
    mesh = fem.sphere(12, perturbation=0.0)
    mass, stiffness = fem.surface_gram_matrices(mesh)
    z = mesh.p[2]
    # z is a spherical harmonic of degree one: eigenvalue 2, up to h^2.
    assert (z @ (stiffness @ z)) / (z @ (mass @ z)) == pytest.approx(2, rel=0.02)
    assert mass.sum() == pytest.approx(4 * np.pi, rel=0.02)


def test_barycentric_coordinates_reproduce_points():
    mesh = fem.roof(3)
    points = fem.ShellSpace(mesh).bending().points
    weights = fem.barycentric(mesh, points)
    x = np.einsum("na,can->nc", weights, mesh.p[:, mesh.t[:, points.cells]])
    np.testing.assert_allclose(x, points.x, atol=1e-12)


@pytest.mark.parametrize("options", [{"length": 0.0}, {"n_terms": 0}, {"smoothness": -1.0}])
def test_surface_fields_out_of_range_are_refused(options):
    arguments = {"n_terms": 3, "length": 1.0, **options}
    with pytest.raises(pddlvm.InputError):
        pddlvm.SurfaceField.on(fem.roof(3), **arguments)


def test_obj_files_with_normals_of_their_own_are_read(tmp_path):
    points, triangles = TETRAHEDRON
    lines = [f"v {x} {y} {z}" for x, y, z in points]
    lines += [f"vn 0 0 {i}" for i in range(1, 13)]
    lines += [
        f"f {a + 1}//{3 * i + 1} {b + 1}//{3 * i + 2} {c + 1}//{3 * i + 3}"
        for i, (a, b, c) in enumerate(triangles)
    ]
    (tmp_path / "normals.obj").write_text("# comment\n" + "\n".join(lines) + "\n")
    mesh = fem.read_surface(tmp_path / "normals.obj", closed=True)
    assert volume(mesh) == pytest.approx(1 / 6)
