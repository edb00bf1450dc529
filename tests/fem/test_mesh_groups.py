"""Groups of mesh files by number or name, sets of nodes, planes that are tilted, other formats."""

import meshio
import numpy as np
import pytest
from msh import LINE, QUAD, TRIANGLE, write_2, write_41

import pddlvm
from pddlvm import fem

# Two squares, the sides of the left one.
BAR = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
SQUARES = [(0, 1, 4, 3), (1, 2, 5, 4)]
LEFT, RIGHT = (3, 0), (2, 5)


def lengths(mesh, *names):
    space = fem.Space(mesh)
    return [space.boundary(name).weights.sum() for name in names]


@pytest.fixture(params=[2, 4.1], scope="module")
def numbered(request, tmp_path_factory):
    """Groups 11 (the left, a line and in 4.1 the right too), 12 (the right), 11 and 13 (cells)."""
    path = tmp_path_factory.mktemp("meshes") / "a.msh"
    if request.param == 2:
        cells = [(QUAD, 11, SQUARES[0]), (QUAD, 13, SQUARES[1])]
        write_2(path, BAR, [(LINE, 11, LEFT), (LINE, 11, RIGHT), (LINE, 12, RIGHT), *cells])
    else:
        cells = [(QUAD, [11], SQUARES[:1]), (QUAD, [13], SQUARES[1:])]
        write_41(path, BAR, [(LINE, [11], [LEFT]), (LINE, [-11, 12], [RIGHT]), *cells])
    return fem.read_mesh(path)


def test_groups_without_names_are_found_by_their_numbers(numbered):
    assert lengths(numbered, 11, "11", 12, "12") == [2.0, 2.0, 1.0, 1.0]
    space = fem.Space(numbered)
    assert space.cells(11).tolist() == [0] and space.cells("13").tolist() == [1]
    assert space.interior(13) is space.interior("13")


def test_a_problem_may_name_its_groups_by_numbers(numbered):
    space = fem.Space(numbered)
    problem = pddlvm.Problem(
        "numbers",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du @ du) - u)],
        {"k": pddlvm.Piecewise.on_subdomains(space, [11, 13], prior=pddlvm.Uniform(1.0, 2.0))},
        [pddlvm.Dirichlet(12)],
    )
    assert problem.fixed_dofs.tolist() == space.dofs_on("12").tolist()
    averages = pddlvm.average_matrix(problem, [11, "13"])
    np.testing.assert_allclose(averages @ space.dof_points[:, 0], [0.5, 1.5])


def test_a_missing_number_is_named(numbered):
    with pytest.raises(pddlvm.MeshError, match=r"no boundary 7; it has \['11', '12'\]"):
        fem.Space(numbered).boundary(7)


def test_entities_without_a_group_are_read_beside_those_with_one(tmp_path):
    # As "save all" of gmsh writes them.
    entities = [(LINE, [1], [LEFT]), (LINE, [], [RIGHT]), (QUAD, [], SQUARES)]
    mesh = fem.read_mesh(write_41(tmp_path / "a.msh", BAR, entities, {(1, 1): "left"}))
    assert mesh.nelements == 2 and set(mesh.boundaries) == {"left"} and mesh.subdomains is None


def test_numbers_survive_the_conversion_to_vtu(tmp_path):
    path = write_2(tmp_path / "a.msh", BAR, [(LINE, 11, LEFT), *((QUAD, 3, n) for n in SQUARES)])
    meshio.read(path).write(tmp_path / "a.vtu")
    mesh = fem.read_mesh(tmp_path / "a.vtu")
    assert lengths(mesh, 11) == [1.0] and fem.Space(mesh).cells(3).tolist() == [0, 1]


def test_numbers_that_became_data_of_gmsh_are_whole(tmp_path):
    points = np.pad(np.array(BAR, dtype=float), ((0, 0), (0, 1)))
    numbers = {"medit:ref": [np.array([7, 8])]}
    raw = meshio.Mesh(points, [("quad", np.array(SQUARES))], cell_data=numbers)
    raw.write(tmp_path / "a.msh", file_format="gmsh")
    assert set(fem.read_mesh(tmp_path / "a.msh").subdomains) == {"7", "8"}


@pytest.mark.parametrize("write", [write_2, write_41])
@pytest.mark.parametrize("section", ["NodeData", "ElementData"])
def test_data_of_some_nodes_or_cells_do_no_harm(write, section, tmp_path):
    cells = [(QUAD, 7, n) for n in SQUARES] if write is write_2 else [(QUAD, [7], SQUARES)]
    path = write(tmp_path / "a.msh", BAR, cells)
    data = f'${section}\n1\n"T"\n1\n0\n3\n0\n1\n1\n2 0.5\n$End{section}\n'
    path.write_text(path.read_text() + data)
    assert fem.read_mesh(path).nelements == 2


@pytest.mark.parametrize("write", [write_2, write_41])
def test_a_node_of_number_zero_is_not_the_last(write, tmp_path):
    # The last node would make a cell that is not flat, folded or over another.
    wrong = [(-1, 1, 4, 3)]
    cells = [(QUAD, 7, n) for n in wrong] if write is write_2 else [(QUAD, [7], wrong)]
    path = write(tmp_path / "a.msh", [BAR[i] for i in (5, 1, 2, 3, 4, 0)], cells)
    with pytest.raises(pddlvm.MeshError, match="nodes it does not have"):
        fem.read_mesh(path)


def test_node_sets_of_abaqus_are_boundaries(tmp_path):
    points = "".join(f"{i + 1}, {x}, {y}, 0\n" for i, (x, y) in enumerate(BAR))
    cells = "".join(f"{i + 1}, {', '.join(str(n + 1) for n in c)}\n" for i, c in enumerate(SQUARES))
    (tmp_path / "a.inp").write_text(
        f"*NODE\n{points}*ELEMENT, TYPE=CPS4, ELSET=bar\n{cells}"
        "*NSET, NSET=left\n1, 4\n*NSET, NSET=bottom, GENERATE\n1, 3, 1\n*NSET, NSET=middle\n2, 5\n"
    )
    mesh = fem.read_mesh(tmp_path / "a.inp")
    assert lengths(mesh, "left", "bottom") == [1.0, 2.0]
    # The facet between the two cells is none of the boundary.
    assert "middle" not in mesh.boundaries and mesh.subdomains["bar"].tolist() == [0, 1]


def write_bulk(path):
    lines = [f"GRID,{i + 1},,{x}.0,{y}.0,0.0" for i, (x, y) in enumerate(BAR)]
    nodes = [",".join(str(n + 1) for n in c) for c in SQUARES]
    lines += [f"CQUAD4,{i + 1},{7 + i},{c}" for i, c in enumerate(nodes)]
    lines += [f"CROD,9,5,{LEFT[0] + 1},{LEFT[1] + 1}"]
    path.write_text("\n".join(["BEGIN BULK", *lines, "ENDDATA", ""]))


def write_med(path):
    mesh = meshio.Mesh(
        np.array(BAR, dtype=float),
        [("line", [LEFT, RIGHT]), ("quad", SQUARES)],
        point_data={"point_tags": np.array([0, 0, 2, 0, 0, 2])},
        cell_data={"cell_tags": [np.array([-5, -6]), np.array([-7, -8])]},
    )
    mesh.cell_tags = {-5: ["5", "ends"], -6: ["ends"], -7: ["7"], -8: ["8"]}
    mesh.point_tags = {2: ["east"]}
    mesh.write(path)


@pytest.mark.parametrize(("name", "write"), [("a.bdf", write_bulk), ("a.med", write_med)])
def test_groups_of_nastran_and_salome(name, write, tmp_path):
    write(tmp_path / name)
    space = fem.Space(fem.read_mesh(tmp_path / name))
    assert space.cells(7).tolist() == [0] and space.cells(8).tolist() == [1]
    assert space.boundary(5).weights.sum() == 1.0
    if name == "a.med":
        assert lengths(space.mesh, "ends", "east") == [2.0, 1.0]


def test_salome_files_that_refer_to_others_are_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.med", "w") as file:
        file["ENS_MAA"] = h5py.ExternalLink("b.med", "/ENS_MAA")
    with pytest.raises(pddlvm.MeshError, match="refer to other files"):
        fem.read_mesh(tmp_path / "a.med")


def test_a_format_that_is_not_read_says_what_to_do(tmp_path):
    (tmp_path / "a.unv").write_text("    -1\n")
    with pytest.raises(pddlvm.MeshError, match="convert it, by gmsh"):
        fem.read_mesh(tmp_path / "a.unv")


@pytest.mark.parametrize("kind", [TRIANGLE, LINE], ids=["plane", "line"])
def test_a_tilted_mesh_is_refused_with_what_to_do(kind, tmp_path):
    points = [[0, 0, 0], [1, 0, 1], [0, 1, 0]]
    path = write_2(tmp_path / "a.msh", points, [(kind, 1, (0, 1, 2)[: kind + 1])])
    with pytest.raises(pddlvm.MeshError, match=r"tilted: turn it so that .* constant"):
        fem.read_mesh(path)


def test_a_plane_that_is_tilted_by_rounding_is_read(tmp_path):
    points = [[0, 0, 3 + 1e-9], [1, 0, 3], [0, 1, 3]]
    mesh = fem.read_mesh(write_2(tmp_path / "a.msh", points, [(TRIANGLE, 1, (0, 1, 2))]))
    assert mesh.p.shape == (2, 3)
