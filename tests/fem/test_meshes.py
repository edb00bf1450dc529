"""Meshes: the generators, the files of the repository, and files that are no meshes."""

from functools import cache
from pathlib import Path

import meshio
import numpy as np
import pytest
import skfem

from pddlvm import fem
from pddlvm.basics.errors import MeshError

MESHES = Path(__file__).parents[2] / "meshes"
TRIANGLE = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
BAR = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0]]


def write(path, points, cells, **sets):
    cells = [(kind, np.array(index)) for kind, index in cells]
    meshio.Mesh(np.array(points, dtype=float), cells, **sets).write(path)
    return path


@cache
def shipped(file):
    """A mesh of the repository: each reading takes a process."""
    return fem.read_mesh(MESHES / file)


def volume(mesh):
    return fem.Space(mesh).cell_volumes.sum()


def facet_centres(mesh, name):
    return mesh.p[:, mesh.facets[:, mesh.boundaries[name]]].mean(axis=1)


# Generators


def test_interval_has_equal_elements():
    mesh = fem.interval(5, -1.0, 2.0)
    # Differences of coordinates of size one: exact to a few units of round-off.
    np.testing.assert_allclose(fem.Space(mesh).cell_volumes, 0.6, rtol=1e-14)


@pytest.mark.parametrize(("name", "end"), [("left", -1.0), ("right", 2.0)])
def test_interval_names_its_ends(name, end):
    mesh = fem.interval(5, -1.0, 2.0)
    assert mesh.p[0, mesh.facets[0, mesh.boundaries[name]]] == end


@pytest.mark.parametrize(
    ("mesh", "kind", "n_cells", "n_vertices"),
    [
        (fem.unit_square(3), skfem.MeshTri, 18, 16),
        (fem.unit_square(3, quadrilaterals=True), skfem.MeshQuad, 9, 16),
        (fem.unit_cube(2), skfem.MeshTet, 48, 27),
        (fem.unit_cube(2, hexahedra=True), skfem.MeshHex, 8, 27),
    ],
    ids=["triangles", "quadrilaterals", "tetrahedra", "hexahedra"],
)
def test_generator_makes_the_cells_asked_for(mesh, kind, n_cells, n_vertices):
    assert isinstance(mesh, kind)
    assert mesh.nelements == n_cells
    assert mesh.nvertices == n_vertices
    # A sum of a few dozen volumes of size one in total.
    assert volume(mesh) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("quadrilaterals", [False, True])
@pytest.mark.parametrize(
    ("name", "axis", "value"),
    [("left", 0, 0.0), ("right", 0, 1.0), ("bottom", 1, 0.0), ("top", 1, 1.0)],
)
def test_unit_square_names_its_sides(quadrilaterals, name, axis, value):
    mesh = fem.unit_square(3, quadrilaterals=quadrilaterals)
    assert len(mesh.boundaries[name]) == 3
    np.testing.assert_array_equal(facet_centres(mesh, name)[axis], value)


@pytest.mark.parametrize("hexahedra", [False, True])
def test_unit_cube_names_six_sides_that_make_its_boundary(hexahedra):
    mesh = fem.unit_cube(2, hexahedra=hexahedra)
    assert len(mesh.boundaries) == 6
    named = np.sort(np.concatenate(list(mesh.boundaries.values())))
    np.testing.assert_array_equal(named, np.sort(mesh.boundary_facets()))


# Files of the repository


@pytest.mark.parametrize(
    ("file", "kind", "n_cells", "n_vertices"),
    [("plate.msh", skfem.MeshTri, 2376, 1268), ("bracket.msh", skfem.MeshTet, 6075, 1758)],
)
def test_file_has_the_documented_size(file, kind, n_cells, n_vertices):
    mesh = shipped(file)
    assert isinstance(mesh, kind)
    assert (mesh.nelements, mesh.nvertices) == (n_cells, n_vertices)


@pytest.mark.parametrize(
    ("file", "subdomains", "boundaries"),
    [
        ("plate.msh", {"base", "insert"}, {"left", "right", "holes", "outer"}),
        ("bracket.msh", {"body"}, {"base", "tip", "holes", "surface"}),
    ],
)
def test_file_has_the_documented_names(file, subdomains, boundaries):
    mesh = shipped(file)
    assert set(mesh.subdomains) == subdomains
    assert set(mesh.boundaries) == boundaries


@pytest.mark.parametrize("file", ["plate.msh", "bracket.msh"])
def test_every_cell_of_a_file_has_one_name(file):
    mesh = shipped(file)
    named = np.sort(np.concatenate(list(mesh.subdomains.values())))
    np.testing.assert_array_equal(named, np.arange(mesh.nelements))


@pytest.mark.parametrize("file", ["plate.msh", "bracket.msh"])
def test_every_boundary_facet_of_a_file_has_one_name(file):
    mesh = shipped(file)
    named = np.sort(np.concatenate(list(mesh.boundaries.values())))
    np.testing.assert_array_equal(named, np.sort(mesh.boundary_facets()))


@pytest.mark.parametrize(
    ("file", "name", "axis", "value"),
    [
        ("plate.msh", "left", 0, 0.0),
        ("plate.msh", "right", 0, 2.0),
        ("bracket.msh", "base", 2, 0.0),
        ("bracket.msh", "tip", 2, 1.0),
    ],
)
def test_named_boundary_of_a_file_lies_where_documented(file, name, axis, value):
    mesh = shipped(file)
    # The file has 16 digits of coordinates of size one.
    np.testing.assert_allclose(facet_centres(mesh, name)[axis], value, atol=1e-14)


def test_plate_has_the_area_of_its_drawing():
    slot = 0.5 * np.pi * 0.09**2 + 2 * 0.09 * (1.0 - 0.78)
    holes = np.pi * (0.08**2 + 0.15**2 + 0.10**2)
    # A polygon of edge h = 0.033 lacks pi h^2 / 6 = 6e-4 of the area of its circle: 3.5 circles.
    assert volume(shipped("plate.msh")) == pytest.approx(2 - slot - holes, abs=2e-3)


# Other files


def test_path_may_be_a_string():
    assert fem.read_mesh(str(MESHES / "plate.msh")).nelements == 2376


def test_vtu_file_is_read(tmp_path):
    mesh = fem.read_mesh(write(tmp_path / "a.vtu", TRIANGLE, [("triangle", [[0, 1, 2]])]))
    np.testing.assert_array_equal(mesh.p.T, np.array(TRIANGLE)[:, :2])


def test_clockwise_cell_has_positive_volume(tmp_path):
    path = write(tmp_path / "a.vtu", TRIANGLE, [("triangle", [[0, 2, 1]])])
    assert volume(fem.read_mesh(path)) == 0.5


def test_hexahedron_keeps_its_volume(tmp_path):
    points = [[*BAR[i][:2], z] for z in (0, 2) for i in range(4)]
    path = write(tmp_path / "a.vtu", points, [("hexahedron", [list(range(8))])])
    # Eight quadrature points of a box: round-off.
    assert volume(fem.read_mesh(path)) == pytest.approx(2.0, rel=1e-14)


def test_names_written_by_scikit_fem_are_read(tmp_path):
    fem.unit_square(2).save(tmp_path / "a.vtu")
    mesh = fem.read_mesh(tmp_path / "a.vtu")
    assert set(mesh.boundaries) == {"left", "right", "bottom", "top"}


@pytest.mark.usefixtures("own_process")
def test_reading_prints_nothing(capfd):
    fem.read_mesh(MESHES / "plate.msh")
    assert capfd.readouterr() == ("", "")


def test_orphan_nodes_are_dropped(tmp_path):
    points = [[9, 9, 0], TRIANGLE[0], TRIANGLE[1], [8, 8, 0], TRIANGLE[2]]
    mesh = fem.read_mesh(write(tmp_path / "a.vtu", points, [("triangle", [[1, 2, 4]])]))
    np.testing.assert_array_equal(mesh.p.T, np.array(TRIANGLE)[:, :2])


def test_names_survive_the_dropping_of_orphans(tmp_path):
    points = [[9, 9, 0], *BAR[:4]]
    cells = [("triangle", [[1, 2, 3], [1, 3, 4]]), ("line", [[2, 3]])]
    none, first = np.array([], dtype=int), np.array([0])
    path = write(
        tmp_path / "a.inp",
        points,
        cells,
        cell_sets={"lower": [first, none], "east": [none, first]},
    )
    mesh = fem.read_mesh(path)
    assert mesh.nvertices == 4
    np.testing.assert_array_equal(facet_centres(mesh, "east").T, [[1.0, 0.5]])
    np.testing.assert_array_equal(mesh.p[:, mesh.t[:, mesh.subdomains["lower"][0]]].max(1), [1, 1])


@pytest.mark.parametrize("missing", ["no.msh", "folder/no.vtu"])
def test_file_that_does_not_exist(tmp_path, missing):
    with pytest.raises(MeshError, match=r"no\.\w+' does not exist"):
        fem.read_mesh(tmp_path / missing)


def test_folder_is_no_mesh(tmp_path):
    with pytest.raises(MeshError, match="does not exist"):
        fem.read_mesh(tmp_path)


@pytest.mark.parametrize("suffix", [".msh", ".vtu", ".vtk", ".xdmf", ".unknown"])
@pytest.mark.parametrize("text", ["a text\nof two lines\n", ""], ids=["text", "empty"])
def test_text_file_is_no_mesh(tmp_path, suffix, text):
    path = tmp_path / f"notes{suffix}"
    path.write_text(text)
    with pytest.raises(MeshError, match="notes"):
        fem.read_mesh(path)


@pytest.mark.usefixtures("own_process")
def test_failed_reading_prints_nothing(tmp_path, capfd):
    (tmp_path / "notes.msh").write_text("a text\n")
    with pytest.raises(MeshError):
        fem.read_mesh(tmp_path / "notes.msh")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "index"),
    [("vertex", [[0], [1]]), ("wedge", [[0, 1, 2, 3, 4, 5]])],
)
def test_cells_without_elements_are_refused(tmp_path, kind, index):
    points = [*TRIANGLE, [0, 0, 1], [1, 0, 1], [0, 1, 1]]
    with pytest.raises(MeshError, match="cannot be read"):
        fem.read_mesh(write(tmp_path / "a.vtu", points, [(kind, index)]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_refused(tmp_path, value):
    points = [*TRIANGLE[:2], [0, value, 0]]
    with pytest.raises(MeshError, match="not finite"):
        fem.read_mesh(write(tmp_path / "a.vtu", points, [("triangle", [[0, 1, 2]])]))


def test_cell_of_no_volume_is_refused_by_its_number(tmp_path):
    path = write(tmp_path / "a.vtu", BAR, [("triangle", [[0, 1, 2], [0, 1, 4]])])
    with pytest.raises(MeshError, match="the first is cell 1"):
        fem.read_mesh(path)


def test_node_number_out_of_range_is_refused(tmp_path):
    path = write(tmp_path / "a.vtu", TRIANGLE, [("triangle", [[0, 1, 7]])])
    with pytest.raises(MeshError):
        fem.read_mesh(path)


def test_mixed_cells_are_refused_and_not_dropped(tmp_path):
    cells = [("quad", [[0, 1, 2, 3]]), ("triangle", [[1, 4, 2]])]
    with pytest.raises(MeshError, match="triangle"):
        fem.read_mesh(write(tmp_path / "a.vtu", BAR, cells))


def test_surface_in_space_is_refused_and_not_flattened(tmp_path):
    points = [*TRIANGLE, [1, 1, 1]]
    path = write(tmp_path / "a.vtu", points, [("triangle", [[0, 1, 2], [1, 3, 2]])])
    with pytest.raises(MeshError):
        fem.read_mesh(path)


def test_quadratic_cells_are_read_with_their_volume(tmp_path):
    points = [*TRIANGLE, [0.5, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0]]
    path = write(tmp_path / "a.vtu", points, [("triangle6", [list(range(6))])])
    # One cell with straight sides: round-off.
    assert volume(fem.read_mesh(path)) == pytest.approx(0.5, rel=1e-14)


# Names that a mesh lacks


@pytest.mark.parametrize("part", [fem.Space.boundary, fem.Space.dofs_on])
def test_missing_boundary_lists_those_that_exist(part):
    space = fem.Space(shipped("plate.msh"))
    with pytest.raises(MeshError, match=r"'rim'.*'holes', 'left', 'outer', 'right'"):
        part(space, "rim")


@pytest.mark.parametrize("part", [fem.Space.interior, fem.Space.cells])
def test_missing_subdomain_lists_those_that_exist(part):
    space = fem.Space(shipped("plate.msh"))
    with pytest.raises(MeshError, match=r"'core'.*'base', 'insert'"):
        part(space, "core")


def test_missing_boundary_of_a_mesh_without_names():
    space = fem.Space(skfem.MeshTri())
    with pytest.raises(MeshError, match="no named boundary"):
        space.boundary("rim")


def test_missing_subdomain_of_a_mesh_without_names():
    space = fem.Space(skfem.MeshTri())
    with pytest.raises(MeshError, match="none"):
        space.interior("core")


@pytest.mark.parametrize(
    "make",
    [
        lambda: fem.interval(0),
        lambda: fem.interval(4, 1.0, 0.0),
        lambda: fem.unit_square(0),
        lambda: fem.unit_cube(-1),
    ],
)
def test_meshes_without_cells_are_refused(make):
    with pytest.raises(MeshError):
        make()
