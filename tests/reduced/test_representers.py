"""Test functions for residuals that the basis cannot test, and least squares with them."""

import flows
import numpy as np
import pytest
import torch
import waves

import pddlvm
from pddlvm import fem
from pddlvm.linalg.newton import least_squares, least_squares_step
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.reference import Reference
from pddlvm.reduced.representers import representers

CASES = {
    "waves": lambda: waves.helmholtz(),
    "channel": lambda: flows.channel(n=3, function=flows.stokes),
    "random channel": flows.random_channel,
    "cavity": lambda: flows.channel(
        n=3,
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", flows.lid)],
        constraints=[pddlvm.MeanValue("p")],
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Problem, its Galerkin solver, a basis and test functions."""
    problem = CASES[request.param]()
    galerkin = Galerkin(problem, Reference.of(problem))
    generator = torch.Generator().manual_seed(0)
    v = pddlvm.ResidualEnriched(6).build(galerkin, generator)
    return problem, galerkin, v, representers(galerkin, v, generator)


def test_they_are_orthonormal_in_the_norm(case):
    _, galerkin, v, w = case
    x = galerkin.reference.matrix
    assert galerkin.reference.is_dual
    for columns in (v, w):
        gram = columns.T @ (x @ columns)
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-10)


def test_they_see_the_whole_dual_norm_of_residuals(case):
    """|W^T r| = |r|_X' where u is in the basis; of all representers the leading ones suffice."""
    problem, galerkin, v, w = case
    z = problem.prior.sample((5,), seed=3)
    c = torch.randn(5, v.shape[1], generator=torch.Generator().manual_seed(1)).double()
    u = galerkin.lift(z).index_add(1, galerkin.operators.free, c @ torch.from_numpy(v).T)
    r = galerkin.residual(u, z)
    dual = (r * galerkin.reference.solve(r)).sum(1).sqrt()
    seen = (r @ torch.from_numpy(w)).norm(dim=1)
    assert (seen <= dual * (1 + 1e-9)).all()
    assert (seen >= 0.99 * dual).all()


def test_least_squares_with_them_are_next_to_the_best(case):
    """With one test function for each mode they may be many times off."""
    problem, galerkin, v, w = case
    z = problem.prior.sample((20,), seed=5)
    x, free = galerkin.reference.matrix, problem.free_dofs
    u = (problem.solve(z) - galerkin.lift(z)).numpy()[:, free]
    tests, r = torch.from_numpy(w), galerkin.residual(galerkin.lift(z), z)
    matrices = [problem.solver.matrix(galerkin.lift(one[None])[0], one) @ v for one in z]
    k = torch.stack([tests.T @ torch.from_numpy(matrix) for matrix in matrices])
    c = -least_squares_step(k, r @ tests).numpy()

    def size(e):
        return np.sqrt((e * (x @ e.T).T).sum(1))

    best, found = size(u - (u @ (x @ v)) @ v.T), size(u - c @ v.T)
    assert (found <= 2 * best + 1e-9 * size(u)).all()


def test_they_do_not_see_an_imbalance(case):
    problem, _, _, w = case
    if problem.form.constraints is None:
        return
    border = torch.from_numpy(problem.form.constraints.border[problem.free_dofs])
    assert float((torch.from_numpy(w).T @ border).abs().max()) < 1e-12


def test_centres_make_the_best_in_the_dual_norm(case):
    """At a centre itself the Petrov-Galerkin solution minimises |r|_X'."""
    problem, galerkin, v, _ = case
    v = v[:, :2]
    z = problem.prior.unstandardise(galerkin.reference.xi[:1])
    c, r = galerkin.solve(v, z)
    x_inverse = galerkin.reference.solve

    def dual(r):
        return float((r * x_inverse(r)).sum())

    for step in (1e-3, -1e-3):
        for j in range(v.shape[1]):
            moved = torch.from_numpy(c).clone()
            moved[0, j] += step * np.abs(c).max()
            lifted = galerkin.lift(z).index_add(
                1, galerkin.operators.free, moved @ torch.from_numpy(v).T
            )
            assert dual(galerkin.residual(lifted, z)) > dual(r)


def test_linear_problems_are_told_from_others():
    assert waves.helmholtz().is_linear
    assert flows.channel(n=3).is_linear
    assert not flows.channel(n=3, function=flows.navier_stokes).is_linear


def test_a_positive_operator_keeps_its_own_norm():
    space = fem.Space(fem.unit_square(3))
    energy = pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * du @ du - u)
    fields = {"k": pddlvm.Constant(pddlvm.LogNormal(0.0, 0.3))}
    problem = pddlvm.Problem("plain", space, [energy], fields, [pddlvm.Dirichlet(None)])
    reference = Reference.of(problem)
    assert not reference.is_dual and not reference.centres
    assert pddlvm.reduce(problem).w is None


def test_least_squares_are_those_of_lapack():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 7, 3, generator=generator).double()
    b = torch.randn(4, 7, generator=generator).double()
    expected = torch.linalg.lstsq(matrix, b[..., None]).solution[..., 0]
    torch.testing.assert_close(least_squares_step(matrix, b), expected)


@pytest.mark.parametrize("curvature", [0.0, 0.3])
def test_least_squares_of_curved_residuals(curvature):
    """The gradient J^T r vanishes at the minimum; with matrices kept, next to it."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(5, 8, 3, generator=generator).double()
    goal = torch.randn(5, 3, generator=generator).double()

    def residual(rows, c):
        bent = c - goal[rows] + curvature * (c - goal[rows]) ** 2
        return (matrix[rows] @ bent[..., None])[..., 0]

    def jacobian(rows, c):
        return matrix[rows] * (1 + 2 * curvature * (c - goal[rows]))[:, None]

    found = least_squares(residual, jacobian, goal + 0.2, 1e-12)
    torch.testing.assert_close(found, goal, rtol=0, atol=1e-10)
