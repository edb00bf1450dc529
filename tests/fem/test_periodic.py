"""Periodic sides: degrees of freedom that are one, and what is refused."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from checks import dot_test, l2_error, orders

import pddlvm
from pddlvm import fem
from pddlvm.linalg.operators import SparseOperator

PI = math.pi
BOTH = {"left": "right", "bottom": "top"}
K = pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mesh", "degree", "components", "periodic", "n"),
    [
        (fem.interval(4), 1, 1, {"left": "right"}, 4),
        (fem.interval(4), 2, 1, {"left": "right"}, 8),
        (fem.unit_square(4), 1, 1, {"left": "right"}, 20),
        (fem.unit_square(4), 1, 1, BOTH, 16),
        (fem.unit_square(4), 2, 2, BOTH, 128),
        (fem.unit_square(4, quadrilaterals=True), 2, 1, BOTH, 64),
        (fem.unit_cube(3), 1, 3, BOTH | {"front": "back"}, 81),
    ],
)
def test_sides_share_their_degrees_of_freedom(mesh, degree, components, periodic, n):
    space = fem.Space(mesh, degree, n_components=components, periodic=periodic)
    assert space.n_dofs == n
    assert space.dof_points.shape == (n, mesh.dim())
    for component in range(components):
        for a, b in periodic.items():
            np.testing.assert_array_equal(space.dofs_on(a, component), space.dofs_on(b, component))
            assert (space.dof_components[space.dofs_on(a, component)] == component).all()
    region = space.interior()
    dot_test(SparseOperator(region.matrix), n, region.matrix.shape[0])


SPACE = fem.Space(fem.unit_square(6), 2, periodic=BOTH)


def test_values_on_both_sides_are_equal():
    u = np.cos(np.arange(SPACE.n_dofs) ** 2)
    s = np.linspace(0.05, 0.95, 7)
    for a, b in ((0 * s, s), (s, 0 * s)):
        one, other = (
            np.column_stack([a, b]),
            np.column_stack([np.where(a == 0, 1, a), np.where(b == 0, 1, b)]),
        )
        left, right = SPACE.evaluation(one) @ u, SPACE.evaluation(other) @ u
        # Cells of both sides have the same shape functions up to rounding.
        np.testing.assert_allclose(left, right, atol=1e-12)
    assert np.ptp(SPACE.at_nodes(u)[[0, 6]]) == 0
    at_corners = np.unique(SPACE.vertex_dofs[np.isin(SPACE.mesh.p, [0, 1]).all(axis=0)])
    assert len(at_corners) == 1


def test_matrices_are_those_of_a_space_times_the_incidence():
    whole = fem.Space(SPACE.mesh, 2)
    at = SPACE.evaluation(whole.dof_points)
    # At the nodes the evaluation is the incidence T, up to rounding.
    incidence = np.rint(at.toarray())
    np.testing.assert_allclose(at.toarray(), incidence, atol=1e-12)
    for own, other in zip(SPACE.gram_matrices(), whole.gram_matrices(), strict=True):
        expected = incidence.T @ other.toarray() @ incidence
        # Sums in another order.
        np.testing.assert_allclose(own.toarray(), expected, atol=1e-13)


def exact(x):
    """Of mean zero."""
    a, b = 2 * PI * x[..., 0], 2 * PI * x[..., 1]
    return a.sin() * b.cos() * b.sin().exp() + a.cos()


def energy(u, du, x, k):
    return k * (0.5 * du @ du - load(x) * u)


def load(x):
    """-Laplacian of the exact solution."""
    a, b = 2 * PI * x[0], 2 * PI * x[1]
    s, c = b.sin(), b.cos()
    second = (c * s.exp()) * (c * c - 3 * s - 1)
    return 4 * PI**2 * (a.sin() * (c * s.exp() - second) + a.cos())


def poisson(n, degree=1, periodic=BOTH, **changes):
    space = fem.Space(fem.unit_square(n), degree, periodic=periodic)
    term = pddlvm.Energy(space.interior(), energy)
    arguments = {"constraints": [pddlvm.MeanValue()]} | changes
    return pddlvm.Problem("periodic", space, [term], {"k": K}, **arguments)


@pytest.mark.parametrize("degree", [1, 2])
def test_orders_of_a_periodic_problem(degree):
    errors = []
    for n in (16, 32):
        case = poisson(n, degree)
        errors.append(l2_error(case.space, case.solve(double([1.3])), exact))
    assert orders(errors)[-1] == pytest.approx(degree + 1, abs=0.15)


def test_gradcheck_and_matrix():
    case = poisson(3)
    u = torch.randn(case.n_dofs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = double([0.9])
    assert torch.autograd.gradcheck(case.residual, (u.requires_grad_(), z.requires_grad_()))


def test_without_a_constraint_nothing_holds_it():
    with pytest.raises(pddlvm.ProblemError, match="or fix its mean"):
        poisson(4, constraints=())


def test_what_leaves_one_side_enters_the_other():
    """Advection around a ring: a solution travels, shifted by its source."""
    space = fem.Space(fem.interval(60), 2, periodic={"left": "right"})

    def ring(u, du, x, k):
        return u + du[0] - torch.cos(2 * PI * x[0]), 1e-3 * k * du

    case = pddlvm.Problem("ring", space, [pddlvm.Flux(space.interior(), ring)], {"k": K})
    u = case.solve(double([1.0]))
    # u + u' = cos(2 pi x) on a ring: (cos + 2 pi sin) / (1 + 4 pi^2); diffusion changes 4 %.
    x = 2 * PI * torch.from_numpy(space.dof_points[:, 0])
    expected = (x.cos() + 2 * PI * x.sin()) / (1 + 4 * PI**2)
    assert (u - expected).norm() < 0.05 * expected.norm()


def test_fields_may_be_periodic():
    mesh = fem.unit_square(4)
    spaces = {
        "u": fem.Space(mesh, 2, n_components=2, periodic={"left": "right"}),
        "p": fem.Space(mesh, periodic={"left": "right"}),
    }
    space = fem.MixedSpace(spaces)

    def stokes(u, du, p, x, nu):
        push = torch.stack([-torch.ones_like(p), torch.zeros_like(p)])
        return {"u": (push, nu * du - p * torch.eye(2, dtype=x.dtype)), "p": (du.trace(), 0.0)}

    case = pddlvm.Problem(
        "pushed",
        space,
        [pddlvm.Flux(space.interior(), stokes)],
        {"nu": K},
        [pddlvm.Dirichlet("top"), pddlvm.Dirichlet("bottom")],
        constraints=[pddlvm.MeanValue("p")],
    )
    u = case.solve(double([0.8]))
    # A parabola of height 1 / (8 nu), which is in the space.
    found = case.evaluation([[0.0, 0.5], [1.0, 0.5], [0.3, 0.25]]) @ u.numpy()
    height = 1 / (8 * 0.8)
    np.testing.assert_allclose(found, [height, 0, height, 0, 0.75 * height, 0], atol=1e-12)


def test_a_model_of_a_periodic_problem():
    space = fem.Space(fem.unit_square(6), periodic=BOTH)

    def held(u, du, x, k):
        return 0.5 * k * du @ du + 0.5 * u * u - (2 * PI * x[0]).cos() * u

    case = pddlvm.Problem("held", space, [pddlvm.Energy(space.interior(), held)], {"k": K})
    model = pddlvm.LatentVariableModel(case, seed=0)
    z = double([[0.9]])
    u = case.solve(z)
    # One parameter: the correction is next to exact.
    assert (model.forward(z, corrections=1).mean - u).norm() < 1e-3 * u.norm()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal(copied):
    case, z = poisson(4), double([[0.8]])
    assert torch.equal(copied(case).solve(z), case.solve(z))
    assert copied(case).fingerprint == case.fingerprint


# --- what is refused -----------------------------------------------------------------------------


def refuses(message, mesh, periodic, error=pddlvm.MeshError, **options):
    with pytest.raises(error, match=message):
        fem.Space(mesh, periodic=periodic, **options)


def test_sides_that_do_not_match_are_told_with_a_point():
    mesh = fem.unit_square(4)
    p = mesh.p.copy()
    i = int(np.flatnonzero((p[0] == 1) & (p[1] == 0.5))[0])
    p[1, i] = 0.55
    moved = dataclasses.replace(mesh, doflocs=p)
    refuses(r"do not match: point \[0.0, 0.5\] of 'left' has no partner on 'right', the next one "
            "is 0.05 away", moved, {"left": "right"})  # fmt: skip


def test_a_side_with_more_points_is_told():
    mesh = fem.unit_square(4)
    facets = mesh.boundaries["left"][:-1]
    refuses("of 'right' has no partner on 'part'|of 'part' has no partner",
            mesh.with_boundaries({"part": facets}), {"part": "right"})  # fmt: skip


@pytest.mark.parametrize(
    ("periodic", "message"),
    [
        ("left", "must be pairs of sides"),
        ({"left": "left"}, "each of them once"),
        ({"left": "right", "right": "left"}, "each of them once"),
        ({"left": lambda x: x[0] > 0.99}, "pairs of names of sides"),
        ({"left": "east"}, "no boundary 'east'"),
    ],
)
def test_pairs_that_cannot_be_are_named(periodic, message):
    refuses(message, fem.unit_square(3), periodic)


def test_meshes_of_one_cell_are_refused():
    refuses("a cell touches both", fem.interval(1), {"left": "right"})


def test_no_pairs_are_no_periodic_sides():
    assert fem.Space(fem.unit_square(2), periodic={}).n_dofs == 9


def test_an_element_of_ones_own_is_refused():
    element = fem.Space(fem.unit_square(2))._element
    refuses("leave out `element`", fem.unit_square(3), BOTH, pddlvm.InputError, element=element)
