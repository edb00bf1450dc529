"""Meshes that can be read and are not what was meant: double cells and nodes, overlaps, parts."""

import dataclasses
import re

import numpy as np
import pytest
import skfem
import torch
from msh import LINE, QUAD, write_2, write_41

import pddlvm
from pddlvm import fem
from pddlvm.fem.mesh_faults import check_mesh

# A bar of two squares, held on the left and pulled on the right.
BAR = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
SQUARES = [(0, 1, 4, 3), (1, 2, 5, 4)]
ENDS = [(3, 0), (2, 5)]
NAMES = {(1, 1): "held", (1, 2): "pulled", (2, 3): "bar", (2, 4): "steel"}


def stretched(mesh):
    """The largest displacement of a bar of stiffness 1 under a unit load at its end."""
    space = fem.Space(mesh)
    problem = pddlvm.Problem(
        "bar",
        space,
        [
            pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du @ du)),
            pddlvm.Energy(space.boundary("pulled"), lambda u, du, x: -u),
        ],
        {"k": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
        [pddlvm.Dirichlet("held")],
    )
    return float(problem.solve(torch.ones(1, dtype=torch.float64)).max())


def bar(path, version):
    if version == 2:
        elements = [(LINE, i + 1, nodes) for i, nodes in enumerate(ENDS)]
        elements += [(QUAD, group, nodes) for group in (3, 4) for nodes in SQUARES]
        return write_2(path, BAR, elements, NAMES)
    entities = [(LINE, [i + 1], [nodes]) for i, nodes in enumerate(ENDS)]
    return write_41(path, BAR, [*entities, (QUAD, [3, 4], SQUARES)], NAMES)


@pytest.mark.parametrize("version", [2, 4.1])
def test_a_cell_of_two_groups_is_one_cell_of_both(version, tmp_path):
    mesh = fem.read_mesh(bar(tmp_path / "bar.msh", version))
    assert mesh.nelements == 2
    assert {k: v.tolist() for k, v in mesh.subdomains.items()} == {"bar": [0, 1], "steel": [0, 1]}
    # Linear in x: exact but for round-off.
    assert stretched(mesh) == pytest.approx(2.0, rel=1e-12)


def test_a_facet_of_two_groups_is_one_facet_of_both(tmp_path):
    elements = [(LINE, 1, ENDS[0]), (LINE, 2, ENDS[0]), *((QUAD, 3, n) for n in SQUARES)]
    mesh = fem.read_mesh(write_2(tmp_path / "bar.msh", BAR, elements, NAMES))
    assert len(mesh.boundaries["held"]) == 1
    assert mesh.boundaries["held"] == mesh.boundaries["pulled"]


@pytest.mark.parametrize("group", [0, 3])
def test_cells_that_are_there_twice_for_no_reason_are_merged_with_a_warning(group, tmp_path):
    elements = [(QUAD, group, n) for n in (*SQUARES, (4, 5, 2, 1))]
    with pytest.warns(UserWarning, match="1 cells are there more than once"):
        mesh = fem.read_mesh(write_2(tmp_path / "bar.msh", BAR, elements))
    assert mesh.nelements == 2


@pytest.mark.parametrize(
    ("points", "triangles"),
    [
        # Two cells on one side of their facet, ...
        ([[0, 0], [1, 0], [0.5, 1], [0.4, 0.5]], [[0, 1, 2], [0, 1, 3]]),
        # ... parts that know nothing of each other, ...
        ([[0, 0], [1, 0], [0, 1], [0.1, 0.1], [2, 0.1], [0.1, 2]], [[0, 1, 2], [3, 4, 5]]),
        # ... one of them in the other, ...
        ([[0, 0], [9, 0], [0, 9], [1, 1], [2, 1], [1, 2]], [[0, 1, 2], [3, 4, 5]]),
        # ... and three cells at one facet.
        ([[0, 0], [1, 0], [0.5, 1], [0.4, -1], [0.6, 2]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]]),
    ],
    ids=["folded", "crossing", "inside", "three at a facet"],
)
def test_cells_that_overlap_are_refused(points, triangles):
    mesh = skfem.MeshTri(np.array(points, dtype=float).T, np.array(triangles).T)
    with pytest.raises(pddlvm.MeshError, match=r"'a' .*overlap.*cell 0, 1"):
        check_mesh(mesh, "a")


PARTS = [
    fem.interval(2),
    fem.unit_square(2),
    fem.unit_square(2, quadrilaterals=True),
    fem.unit_cube(1),
    fem.unit_cube(1, hexahedra=True),
]


@pytest.mark.parametrize("overlap", [2e-3, 0.05])
@pytest.mark.parametrize("part", PARTS, ids=lambda mesh: type(mesh).__name__)
def test_parts_that_overlap_by_a_part_of_a_cell_are_refused(part, overlap):
    along = np.eye(part.dim())
    for aside in (0.0, 0.3 * along[-1] * (part.dim() > 1)):
        both = part + part.translated((1 - overlap) * along[0] + aside)
        with pytest.raises(pddlvm.MeshError, match="overlap"):
            check_mesh(both, "a")
        if type(part) is skfem.MeshTri1:
            with pytest.raises(pddlvm.MeshError, match="overlap"):
                check_mesh(skfem.MeshTri2.from_mesh(both), "a")


@pytest.mark.parametrize("n", [33, 100])
def test_parts_on_both_sides_of_a_circle_may_have_other_chords(n):
    disc = skfem.MeshTri.init_circle(3)
    ring = skfem.MeshTri.init_tensor([1.0, 1.5], np.linspace(0.01, 6.28, n))
    radius, angle = ring.p
    at = radius * np.stack([np.cos(angle), np.sin(angle)])
    check_mesh(disc + dataclasses.replace(ring, doflocs=at), "a")


def test_a_part_that_is_there_twice_is_refused(tmp_path):
    elements = [(QUAD, 3, n) for n in SQUARES] + [(QUAD, 4, [i + 6 for i in n]) for n in SQUARES]
    with pytest.raises(pddlvm.MeshError, match="overlap"):
        fem.read_mesh(write_2(tmp_path / "a.msh", BAR + BAR, elements))


def test_a_quadrilateral_that_is_not_convex_is_refused():
    points = np.array([[0, 0], [1, 0], [0.2, 0.2], [0, 1]])
    with pytest.raises(pddlvm.MeshError, match="folded, cell 0"):
        check_mesh(skfem.MeshQuad(points.T, np.arange(4)[:, None]), "a")


@pytest.mark.parametrize(
    "mesh",
    [
        fem.unit_square(1, quadrilaterals=True),
        skfem.MeshTri2.from_mesh(fem.unit_square(1)),
        fem.unit_cube(1, hexahedra=True),
    ],
    ids=lambda mesh: type(mesh).__name__,
)
def test_cells_of_no_volume_are_refused(mesh):
    flat = mesh.p * (np.arange(mesh.dim()) > 0)[:, None]
    with pytest.raises(pddlvm.MeshError, match="cells of no volume"):
        check_mesh(dataclasses.replace(mesh, doflocs=flat), "a")


def test_a_quadrilateral_with_one_node_at_two_corners_is_refused(tmp_path):
    elements = [(QUAD, 3, (0, 1, 4, 4)), (QUAD, 3, SQUARES[1])]
    with pytest.raises(pddlvm.MeshError, match="one node at two corners, cell 0"):
        fem.read_mesh(write_2(tmp_path / "a.msh", BAR, elements))


@pytest.mark.parametrize("scale", [1e-100, 1e200])
def test_a_mesh_whose_volume_no_number_holds_is_refused(scale):
    with pytest.raises(pddlvm.MeshError, match="other units"):
        check_mesh(fem.unit_cube(1).scaled(scale), "a")


def test_a_triangle_whose_curved_side_crosses_another_is_refused():
    mesh = skfem.MeshTri2.from_mesh(skfem.MeshTri())
    (middle,) = np.flatnonzero((mesh.p == [[0.5], [0.0]]).all(axis=0))
    bent = mesh.p.copy()
    bent[1, middle] = 0.6
    with pytest.raises(pddlvm.MeshError, match="folded, cell 0"):
        check_mesh(dataclasses.replace(mesh, doflocs=bent), "a")


# Two squares side by side that have no node in common.
APART = [[0, 0], [1, 0], [1, 1], [0, 1], [1, 0], [2, 0], [2, 1], [1, 1]]
SIDES = [(LINE, 1, (3, 0)), (LINE, 2, (5, 6))]
TWO = [(QUAD, 3, (0, 1, 2, 3)), (QUAD, 3, (4, 5, 6, 7))]


def test_doubled_nodes_of_an_interface_are_named(tmp_path):
    path = write_2(tmp_path / "a.msh", APART, [*SIDES, *TWO], NAMES)
    with pytest.warns(UserWarning, match=re.escape("4 nodes lie at the place of another one")):
        mesh = fem.read_mesh(path)
    with pytest.raises(pddlvm.ProblemError, match=r"nothing holds a part between \[1.0, 0.0"):
        stretched(mesh)


def two_bars(dirichlet, *more):
    one, two = skfem.MeshTri().refined(1), skfem.MeshTri().refined(1).translated((2.0, 0.0))
    sides = {"left": lambda x: x[0] < 1e-9, "right": lambda x: x[0] > 3 - 1e-9}
    space = fem.Space((one + two).with_boundaries(sides))
    return pddlvm.Problem(
        "two bars",
        space,
        [
            pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du @ du) - u),
            *(pddlvm.Energy(space.boundary("right"), energy) for energy in more),
        ],
        {"k": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
        dirichlet,
    )


def test_two_parts_that_are_both_held_are_legal():
    problem = two_bars([pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", 1.0)])
    u = problem.solve(torch.ones(1, dtype=torch.float64))
    x = torch.from_numpy(problem.space.dof_points[:, 0])
    # u = x - x^2 / 2 on the one, and its mirror image plus 1 on the other; h = 1/2.
    expected = torch.where(x < 1.5, x - x**2 / 2, 1 + (3 - x) - (3 - x) ** 2 / 2)
    torch.testing.assert_close(u, expected, rtol=0, atol=0.5**2 / 8)


def test_a_part_that_a_spring_holds_is_legal():
    problem = two_bars([pddlvm.Dirichlet("left")], lambda u, du, x: 0.5 * u**2)
    assert problem.solve(torch.ones(1, dtype=torch.float64)).isfinite().all()


def test_a_part_that_radiation_holds_is_legal():
    # Its tangent is zero at u = 0.
    assert two_bars([pddlvm.Dirichlet("left")], lambda u, du, x: u**5 / 5).n_free == 15


def test_a_part_that_nothing_holds_is_refused():
    with pytest.raises(pddlvm.ProblemError, match=r"between \[2.0, 0.0\] and \[3.0, 1.0\]"):
        two_bars([pddlvm.Dirichlet("left")])


def strain_energy(u, du, x, k):
    strain = (du + du.T) / 2
    return 0.5 * k * (strain**2).sum()


@pytest.mark.parametrize("mesh", [fem.unit_square(2), fem.unit_cube(1)], ids=["plane", "space"])
@pytest.mark.parametrize("degree", [1, 2])
def test_a_part_that_may_turn_about_what_holds_it_is_refused(mesh, degree):
    space = fem.Space(mesh, degree, n_components=mesh.dim())
    corner, other = fem.Nodes([0]), fem.Nodes([int(np.argmax(mesh.p.sum(axis=0)))])

    def problem(*dirichlet, energy=strain_energy):
        terms = [pddlvm.Energy(space.interior(), energy)]
        fields = {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
        return pddlvm.Problem("turning", space, terms, fields, dirichlet)

    for held in ([corner], [corner, other] if mesh.dim() == 3 else [other]):
        with pytest.raises(pddlvm.ProblemError, match="keep it from turning"):
            problem(*(pddlvm.Dirichlet(one) for one in held))
    assert problem(pddlvm.Dirichlet("left")).n_free > 0
    # A Laplacian resists a turn.
    assert problem(pddlvm.Dirichlet(corner), energy=lambda u, du, x, k: k * (du**2).sum()).n_free


def test_a_plate_on_rollers_may_not_slide():
    space = fem.Space(fem.unit_square(2), n_components=2)
    terms = [pddlvm.Energy(space.interior(), strain_energy)]
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
    left = pddlvm.Dirichlet("left", component=0)
    with pytest.raises(pddlvm.ProblemError, match="nothing holds a part"):
        pddlvm.Problem("rollers", space, terms, fields, [left])
    point = pddlvm.Dirichlet(fem.Nodes([0]), component=1)
    assert pddlvm.Problem("rollers", space, terms, fields, [left, point]).n_free == 14
