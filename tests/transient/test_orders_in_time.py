"""Orders of all methods in time, where elements are exact in space; and what needs few factors.

du/dt - d/dx (c du/dx) = f on (0, 1),   u = (1 + x) sin(2 t)
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.linalg import LinearSolver, SuperLU

END = 1.0
METHODS = {
    "Euler": (pddlvm.BackwardEuler(), 1),
    "Crank-Nicolson": (pddlvm.CrankNicolson(), 2),
    "BDF2": (pddlvm.BDF2(), 2),
    "Newmark": (pddlvm.Newmark(), 2),
}


def exact(x, t):
    return (1 + x[0]) * torch.sin(2 * t)


def linear(u, du, x, c, t):
    return (u * 0).reshape(()), c * du


def moving(u, du, x, c, t):
    return (u * 0).reshape(()), (2 + torch.sin(t)) * c * du


def nonlinear(u, du, x, c, t):
    return (u * 0).reshape(()), (1 + u**2) * c * du


def source(law, order, x, t, c):
    """f of u: its derivative in time, and - (c u_x)_x, which is of nonlinear laws alone."""
    rate = 2 * torch.cos(2 * t) if order == 1 else -4 * torch.sin(2 * t)
    s = torch.sin(2 * t)
    left = 2 * c * (1 + x[0]) * s**3 if law is nonlinear else 0.0
    return (1 + x[0]) * rate - left


@dataclass(frozen=True)
class Counting(LinearSolver):
    """SuperLU, and how often it factorised."""

    count: list[int] = field(default_factory=list)

    def factorise(self, matrix, **options):
        self.count.append(matrix.shape[0])
        return SuperLU().factorise(matrix, **options)


def transient(law, stepping, solver=None, c=1.0):
    space = fem.Space(fem.interval(4), quadrature=6)
    order = stepping.method.n_derivatives

    def load(u, du, x, c, t):
        return -source(law, order, x, t, c) * u

    problem = pddlvm.Problem(
        "line",
        space,
        terms=[pddlvm.Flux(space.interior(), law), pddlvm.Energy(space.interior(), load)],
        fields={"c": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)), "t": pddlvm.Time(END)},
        dirichlet=[pddlvm.Dirichlet(None, exact)],
        **({} if solver is None else {"solver": solver}),
    )
    velocity = (lambda x: 2 * (1 + x[0])) if order == 2 else None
    return pddlvm.TransientProblem(problem, stepping=stepping, velocity=velocity)


def errors_of(problem, z):
    """The largest at each time, (n_times,)."""
    u, t = problem.solve(z), torch.from_numpy(problem.times)
    x = torch.from_numpy(problem.space.dof_points)
    expected = (1 + x[:, 0]) * torch.sin(2 * t)[:, None]
    return (u - expected).abs().amax(-1)


ONE = torch.ones(1, dtype=torch.float64)
each_method = pytest.mark.parametrize(("method", "order"), METHODS.values(), ids=METHODS.keys())
each_law = pytest.mark.parametrize(
    "law", [linear, pytest.param(moving, marks=pytest.mark.slow), nonlinear]
)


@each_law
@each_method
@pytest.mark.slow
def test_order_of_equal_steps(method, order, law):
    # That of BDF2 is seen from sixty steps on.
    n = 40 if law is linear else 30 if isinstance(method, pddlvm.BDF2) else 20
    problems = [transient(law, pddlvm.Stepping(END, k, method)) for k in (n, 2 * n)]
    # At the end: the first steps of Crank-Nicolson are of another method.
    errors = [float(errors_of(problem, ONE)[-1]) for problem in problems]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15, errors


@each_method
def test_order_on_graded_levels(method, order):
    steppings = [pddlvm.Stepping.graded(END, n, method, n_levels=4) for n in (40, 80)]
    problems = [transient(linear, stepping) for stepping in steppings]
    # In L2 of time: the last steps alone are too long for an order.
    weights = [torch.from_numpy(problem.scheme.weights) for problem in problems]
    squares = [errors_of(problem, ONE) ** 2 for problem in problems]
    errors = [float((w @ e).sqrt()) for w, e in zip(weights, squares, strict=True)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15, errors


@each_law
@each_method
def test_residuals_of_solutions_vanish(method, order, law):
    problem = transient(law, pddlvm.Stepping.graded(END, 12, method, n_levels=3))
    z = problem.prior.sample((2, 3), seed=0)
    u = problem.solve(z)
    assert u.shape == (2, 3, 12, 5)
    r, size = problem.residual(u, z), problem.residual(0 * u, z).abs().max()
    assert r.shape == (2, 3, 12, 3)
    assert r.abs().max() < 1e-9 * size
    moved = u.clone()
    moved[..., 5, 2] += 1e-3
    changed = (problem.residual(moved, z).abs().amax(-1) > 1e-9 * size)[0, 0]
    # A state is in the step to it, and in the next ones.
    assert not changed[:5].any() and changed[5:7].all() and not changed[8:].any()


def test_residuals_have_the_dtype_of_u():
    problem = transient(linear, pddlvm.Stepping(END, 5))
    z = problem.prior.sample((2,), seed=0)
    u = problem.solve(z).float()
    r = problem.residual(u, z.float())
    assert r.dtype == torch.float32
    assert r.abs().max() < 1e-4 * problem.residual(0 * u, z).abs().max()


def test_a_measured_time_error_is_three_quarters_of_the_error():
    problem = transient(linear, pddlvm.Stepping(END, 40))
    z = problem.prior.sample((4,), seed=3)
    u, t = problem.solve(z), torch.from_numpy(problem.times)
    x = torch.from_numpy(problem.space.dof_points)
    expected = (1 + x[:, 0]) * torch.sin(2 * t)[:, None]
    true = ((u - expected).norm(dim=(1, 2)) / expected.norm()).mean()
    assert abs(problem.time_error(n_samples=4, seed=3) / true - 0.75) < 0.08


# --- factors -------------------------------------------------------------------------------------


def factorisations(law, stepping, z):
    solver = Counting()
    problem = transient(law, stepping, solver)
    solver.count.clear()
    problem.solve(z)
    return len(solver.count)


def test_factors_are_those_of_levels_and_of_different_matrices():
    z = torch.tensor([[1.0], [1.5], [1.0]], dtype=torch.float64)
    assert factorisations(linear, pddlvm.Stepping(END, 12, pddlvm.BackwardEuler()), z[:1]) == 1
    assert factorisations(linear, pddlvm.Stepping(END, 12), z[:1]) == 2
    assert factorisations(linear, pddlvm.Stepping.graded(END, 12, n_levels=3), z[:1]) == 6
    assert factorisations(linear, pddlvm.Stepping(END, 12), z) == 4
    assert factorisations(linear, pddlvm.Stepping(END, 12, pddlvm.Newmark()), z) == 2


def test_nonlinear_steps_keep_their_factors():
    assert factorisations(nonlinear, pddlvm.Stepping(END, 100), ONE) < 20


def robin(u, du, x, h, t):
    """Into a surrounding whose temperature moves: the matrix does not."""
    return 0.5 * h * (u - torch.sin(t)) ** 2


def diffusion(u, du, x):
    return 0.5 * (du @ du)


def test_a_surrounding_that_moves_needs_no_further_factors():
    space, solver = fem.Space(fem.unit_square(3)), Counting()
    steady = pddlvm.Problem(
        "robin",
        space,
        terms=[
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.boundary("left"), robin),
        ],
        fields={"h": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)), "t": pddlvm.Time(END)},
        solver=solver,
    )
    problem = pddlvm.TransientProblem(steady, stepping=pddlvm.Stepping(END, 10))
    solver.count.clear()
    z = problem.prior.sample((1,), seed=0)
    u = problem.solve(z)
    # And one that tells whether it is stable, before the first solution.
    assert len(solver.count) == 3
    assert problem.residual(u, z).abs().max() < 1e-13


def test_batches_answer_as_single_samples():
    for law in (linear, nonlinear):
        problem = transient(law, pddlvm.Stepping(END, 6))
        z = problem.prior.sample((3,), seed=1)
        whole = problem.solve(z)
        for own, u in zip(z, whole, strict=True):
            np.testing.assert_allclose(problem.solve(own), u, rtol=1e-9)
