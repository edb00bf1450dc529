"""Boxes of three coordinates: the linearised problem is solved without factors of it."""

import math
from unittest.mock import patch

import pytest
import torch

import pddlvm
from pddlvm.strong import newton as newton_module
from pddlvm.strong.nearby import nearby_error
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.preconditioned import Preconditioned

BOX = pddlvm.Box(x=(0.0, 1.0), y=(-1.0, 1.0), t=(0.0, 1.0))
EDGES = [side(c) for c in ("x", "y") for side in (BOX.start, BOX.end)]
HARD = [BOX.start("t"), *EDGES]
RATE = {"rate": pddlvm.Constant(pddlvm.Uniform(0.1, 1.0))}


def make(residual, **changes):
    arguments = {
        "lift": lambda x, y: torch.sin(math.pi * x) * torch.cos(math.pi * y / 2),
        "hard": HARD,
        "grid": (6, 5, 4),
        "nodes": (8, 7, 6),
    }
    return pddlvm.CollocationProblem("box", BOX, residual, RATE, **(arguments | changes))


def heat(u_t, u_x, u_xx, u_yy, rate):
    return u_t + u_x - rate * (u_xx + 2 * u_yy)


def rough(u, u_t, u_x, u_xx, u_xy, u_yy, x, y, rate):
    """Coefficients vary, derivatives are mixed, the equation is not linear."""
    return u_t + 3 * u * u_x - (rate + 0.2 * x * y + 0.1 * u**2) * (u_xx + u_yy) + 0.1 * u_xy - u**3


def coupled(u, u_t, u_xx, u_yy, v, v_t, v_xx, v_yy, rate):
    return u_t - rate * (u_xx + u_yy) - 2 * u * v, v_t - (v_xx + v_yy) + u**2


def both(x, y):
    return torch.sin(math.pi * x) * torch.cos(math.pi * y / 2), 0.0


PROBLEMS = {
    "rough": lambda: make(rough),
    "stretched": lambda: make(rough, stretch={"t": pddlvm.Graded(), "x": pddlvm.Graded(1.0)}),
    "periodic": lambda: make(
        heat,
        hard=[BOX.start("t"), *EDGES[:2]],
        periodic=["y"],
        lift=lambda x, y: torch.sin(math.pi * x) * torch.cos(math.pi * y),
    ),
    "steady": lambda: make(
        lambda u, u_xx, u_yy, u_tt, rate: u_xx + u_yy + rate * u_tt - u**3 + 1,
        hard=[*HARD, BOX.end("t")],
        lift=None,
    ),
    "coupled": lambda: make(coupled, unknowns=("u", "v"), lift=both),
}


def start(problem, n_samples=1):
    """Newton's method and a jet that is no solution."""
    newton = SpaceTimeNewton(problem.form)
    z = problem.prior.sample((n_samples,), seed=0)
    n = torch.zeros(n_samples, newton.n_values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    n[:, newton.free] = 0.1 * torch.randn(
        n_samples, int(newton.free.sum()), generator=generator, dtype=torch.float64
    )
    return newton, newton.jet(n, z), z


@pytest.mark.parametrize("name", PROBLEMS)
def test_solutions_are_those_by_factors(name):
    newton, jet, z = start(PROBLEMS[name]())
    assert newton.is_separable
    rows = newton.rows(jet, z)
    expected = newton.factorise(jet, z)(rows)
    with patch.object(newton_module, "_MOST_FACTORISED", 0):
        found = newton.solver(jet, z)(rows)
    # To the tolerance of the iteration, times what the preconditioned norm hides.
    assert (found - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("stretch", [{}, {"t": pddlvm.Graded(), "x": pddlvm.Graded(1.0)}])
def test_where_each_coordinate_has_its_coefficients_nothing_is_left(stretch):
    newton, jet, z = start(make(heat, stretch=stretch), n_samples=3)
    rows = newton.rows(jet, z)
    e = newton.separable(jet, z)(rows)
    left = (newton.tangent(jet, z)(e) + rows).norm() / rows.norm()
    assert left < 1e-12


def test_a_preconditioner_is_that_of_each_sample():
    newton, jet, z = start(make(rough), n_samples=3)
    rows = newton.rows(jet, z)
    together = newton.separable(jet, z)(rows)
    for i in range(3):
        own = {k: u[i : i + 1] for k, u in jet.items()}
        alone = newton.separable(own, z[i : i + 1])(rows[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_few_iterations_are_needed():
    newton, jet, z = start(make(rough, nodes=(14, 13, 9)))
    system = Preconditioned(newton.tangent(jet, z), newton.separable(jet, z))
    _, is_found = system.error(newton.rows(jet, z), 1e-6, 12)
    # Measured: 10 at most, of 20 nodes along x and y too.
    assert is_found.all()


@pytest.mark.parametrize("name", ["rough", "coupled"])
def test_errors_of_many_are_those_of_each(name):
    newton, jet, z = start(PROBLEMS[name](), n_samples=5)
    xi = z - z.mean()
    found = nearby_error(newton, jet, z, xi, n_centres=2, tolerance=1e-4)
    expected = newton.error(jet, z)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-3


def test_an_equation_that_misses_its_unknown_is_factorised():
    problem = make(
        lambda u, v, x, rate: (v - rate * x, u - v - 1),
        unknowns=("u", "v"),
        lift=None,
        hard=(),
    )
    z, x = problem.prior.sample((1,), seed=0), problem.grid_points[:, 0]
    u, v = problem.solve(z).chunk(2, dim=1)
    torch.testing.assert_close(v, z * x)
    torch.testing.assert_close(u, z * x + 1)


def test_what_cannot_be_solved_is_said():
    newton, jet, z = start(make(rough))
    with (
        patch.multiple(newton_module, _MOST_FACTORISED=0, _BUDGET=2),
        pytest.raises(pddlvm.ConvergenceError, match="vary too much for an iteration"),
    ):
        newton.solver(jet, z)(newton.rows(jet, z))


def test_conditions_are_factorised():
    soft = [pddlvm.Condition(BOX.end("x"), lambda u_x: u_x)]
    problem = make(heat, hard=[BOX.start("t"), EDGES[0], *EDGES[2:]], conditions=soft)
    assert not SpaceTimeNewton(problem.form).is_separable
