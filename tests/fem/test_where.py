"""Parts of a boundary by a function of x, by facets and by nodes."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
import skfem
import torch

import pddlvm
from pddlvm import fem, supports

SQUARE = fem.unit_square(4)
CUBE = fem.unit_cube(2)
LEFT = [
    lambda x: x[0] < 1e-9,
    lambda x: abs(float(x[0])) < 1e-9 and 0 <= x[1] <= 1,
    lambda x: torch.isclose(x[0], torch.zeros(()).double()),
    lambda x: np.isclose(x[0], 0),
    fem.Facets(SQUARE.boundaries["left"].tolist()),
    fem.Nodes(np.flatnonzero(SQUARE.p[0] == 0)),
]


@pytest.mark.parametrize("where", LEFT)
@pytest.mark.parametrize("degree", [1, 2])
def test_the_left_side_in_other_words(where, degree):
    space = fem.Space(SQUARE, degree, n_components=2)
    assert space.dofs_on(where).tolist() == space.dofs_on("left").tolist()
    assert space.dofs_on(where, 1).tolist() == space.dofs_on("left", 1).tolist()
    ours, theirs = space.boundary(where), space.boundary("left")
    assert (ours.matrix != theirs.matrix).nnz == 0
    np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_a_problem_takes_them():
    space = fem.Space(SQUARE)

    def problem(left, top):
        return pddlvm.Problem(
            "square",
            space,
            [
                pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du @ du)),
                pddlvm.Energy(space.boundary(top), lambda u, du, x: -u),
            ],
            {"k": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
            [pddlvm.Dirichlet(left)],
        )

    z = torch.ones(1, dtype=torch.float64)
    expected = problem("left", "top").solve(z)
    for left in LEFT:
        assert torch.equal(problem(left, lambda x: x[1] > 1 - 1e-9).solve(z), expected)


def test_a_side_may_be_taken_in_part():
    region = fem.Space(SQUARE).boundary(lambda x: x[0] < 1e-9 and x[1] < 0.5)
    assert region.weights.sum() == 0.5


def test_four_sides_of_a_cube_are_without_corners_of_the_others():
    # The triangle in the corner of the top has all its vertices on these sides.
    region = fem.Space(CUBE).boundary(lambda x: min(x[0], x[1], 1 - x[0], 1 - x[1]) < 1e-9)
    # A sum of a few dozen weights.
    assert region.weights.sum() == pytest.approx(4.0, rel=1e-14)


def test_the_middle_of_a_curved_facet_lies_on_the_curve():
    disc = skfem.MeshTri2.init_circle(2)
    space = fem.Space(disc)
    # The file's nodes are on the circle to round-off; the chords are 0.02 inside.
    found = space.dofs_on(lambda x: abs(math.hypot(*x) - 1) < 1e-9)
    assert found.tolist() == space.dofs_on().tolist()


def test_one_node_may_be_held():
    space = fem.Space(SQUARE, n_components=2)
    (corner,) = np.flatnonzero(SQUARE.p.sum(axis=0) == 0)
    assert space.dofs_on(fem.Nodes([corner])).tolist() == sorted(space.vertex_dofs[corner])
    with pytest.raises(pddlvm.MeshError, match="no facet"):
        space.boundary(fem.Nodes([corner]))


@pytest.mark.parametrize("hexahedra", [False, True])
def test_a_line_of_nodes_holds_what_is_between_them(hexahedra):
    mesh = fem.unit_cube(3, hexahedra=hexahedra)
    space = fem.Space(mesh, degree=2, n_components=3)

    def is_on(x):
        return (np.abs(x[0] - 1) < 1e-9) & (np.abs(x[2] - 1 / 3) < 1e-9)

    found = space.dofs_on(fem.Nodes(np.flatnonzero(is_on(mesh.p))), 2)
    expected = np.flatnonzero(is_on(space.dof_points.T))
    assert found.tolist() == [dof for dof in expected if dof in space.dofs_on("right", 2)]
    assert len(found) == 7


def test_ends_of_a_line():
    space = fem.Space(fem.interval(5))
    for where in (lambda x: x[0] > 0.5, fem.Nodes([5])):
        assert space.dofs_on(where).tolist() == [5]


def test_vertices_of_a_shell():
    space = fem.ShellSpace(fem.hare(1).with_sets(foot=lambda x: x[1] < 0.05))
    expected = space.dofs_on("foot").tolist()
    nodes = fem.Nodes(space.mesh.vertex_sets["foot"])
    for where in (lambda x: x[1] < 0.05, nodes):
        (condition,) = supports.clamped(where)
        assert space.dofs_on(condition.boundary).tolist() == expected


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (lambda x: x[0] > 7, "true for none of its 16 facets"),
        (lambda x: x[5] > 0, r"one point x \(2,\)"),
        (lambda x: x > 0, r"one point x \(2,\)"),
        ([1, 2], "fem.Facets or fem.Nodes"),
    ],
)
def test_what_selects_nothing_is_refused(where, words):
    with pytest.raises(pddlvm.MeshError, match=words):
        pddlvm.Dirichlet(where)
        fem.Space(SQUARE).dofs_on(where)


@pytest.mark.parametrize("numbers", [[], [[1]], [0.5], [True], "left", [-1], [10**6]])
@pytest.mark.parametrize("kind", [fem.Facets, fem.Nodes])
def test_numbers_are_checked(kind, numbers):
    with pytest.raises(pddlvm.MeshError, match=kind.__name__):
        fem.Space(SQUARE).dofs_on(kind(numbers))


def on_the_left(x):
    return x[0] < 1e-9


def heated(u, du, x, k):
    return 0.5 * k * (du @ du) - u


def test_a_problem_with_them_can_be_pickled_or_says_why_not():
    space = fem.Space(SQUARE)
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))}
    terms = [pddlvm.Energy(space.interior(), heated)]
    for where in (on_the_left, fem.Nodes([0, 1])):
        one = pddlvm.Problem("square", space, terms, fields, [pddlvm.Dirichlet(where)])
        assert pickle.loads(pickle.dumps(one)).fixed_dofs.tolist() == one.fixed_dofs.tolist()
    other = pddlvm.Problem("square", space, terms, fields, [pddlvm.Dirichlet(lambda x: x[0] == 0)])
    with pytest.raises(pddlvm.InputError, match="the boundary"):
        pickle.dumps(other)


def test_a_list_that_is_changed_afterwards_changes_nothing():
    numbers = np.array([3, 4])
    facets = fem.Facets(numbers)
    numbers[:] = 0
    assert facets.numbers.tolist() == [3, 4]
    assert dataclasses.replace(facets).numbers.tolist() == [3, 4]


@pytest.mark.parametrize("mesh", [SQUARE, fem.unit_square(4, quadrilaterals=True)])
@pytest.mark.parametrize("degree", [1, 2])
def test_a_subdomain_is_held_everywhere(mesh, degree):
    mesh = mesh.with_subdomains({"block": lambda x: (abs(x - 0.5) < 0.25).all(axis=0)})
    space = fem.Space(mesh, degree, n_components=2)
    inside = (abs(space.dof_points - 0.5) < 0.25 + 1e-9).all(axis=1)
    where = fem.Subdomain("block")
    assert space.dofs_on(where).tolist() == np.flatnonzero(inside).tolist()
    second = inside & (space.dof_components == 1)
    assert space.dofs_on(where, 1).tolist() == np.flatnonzero(second).tolist()


def test_a_subdomain_of_one_of_several_fields_is_held():
    mesh = SQUARE.with_subdomains({"7": lambda x: x[0] < 0.5})
    space = fem.MixedSpace({"a": fem.Space(mesh), "b": fem.Space(mesh, 2)})
    case = pddlvm.Problem(
        "two",
        space,
        [pddlvm.Energy(space.interior(), lambda da, db, a, b, k: k * (da @ da + db @ db) - a - b)],
        {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        [pddlvm.Dirichlet("right", field="a"), pddlvm.Dirichlet(fem.Subdomain(7), 2.0, field="b")],
    )
    dofs, own = space.field("b")
    u = case.solve(torch.ones(1, dtype=torch.float64))[dofs]
    left = own.dof_points[:, 0] < 0.5 + 1e-9
    assert (u[left] == 2.0).all()
    assert (u[~left] > 2.0).all()


def test_a_subdomain_is_no_boundary():
    space = fem.Space(SQUARE.with_subdomains({"low": lambda x: x[1] < 0.5}))
    with pytest.raises(pddlvm.MeshError, match=r"no part of the boundary; .*interior\('low'\)"):
        space.boundary(fem.Subdomain("low"))
    with pytest.raises(pddlvm.MeshError, match=r"'low' is a subdomain .*Subdomain\('low'\)"):
        space.dofs_on("low")
    with pytest.raises(pddlvm.MeshError, match=r"no subdomain 'high'; it has .'low'."):
        space.dofs_on(fem.Subdomain("high"))
    with pytest.raises(pddlvm.MeshError, match="needs the name of a subdomain"):
        fem.Subdomain(None)
    with pytest.raises(pddlvm.MeshError):
        fem.ShellSpace(fem.roof(2)).dofs_on(fem.Subdomain("end"))
