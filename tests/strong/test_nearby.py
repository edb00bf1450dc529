"""Newton steps of many samples with the factors at a few of them."""

from unittest.mock import patch

import pytest
import torch

import pddlvm
from pddlvm.strong import nearby
from pddlvm.strong.nearby import nearby_error
from pddlvm.strong.newton import SpaceTimeNewton

BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))


def warm(u, u_t, u_x, u_xx, rate):
    return u_t - rate * ((1 + u) * u_xx + u_x**2) - 1


@pytest.fixture(scope="module")
def start():
    """Newton's method, and fields that are a hundredth short of solutions."""
    problem = pddlvm.CollocationProblem(
        "warm",
        BOX,
        warm,
        {"rate": pddlvm.Constant(pddlvm.Uniform(0.1, 1.0))},
        hard=[BOX.start("t"), BOX.start("x")],
        conditions=[pddlvm.Condition(BOX.end("x"), lambda u, u_x: u + u_x)],
        nodes=(12, 9),
    )
    newton = SpaceTimeNewton(problem.form)
    z = problem.prior.sample((24,), seed=0)
    jet = newton.jet(torch.zeros(24, newton.n_nodes, dtype=torch.float64), z)
    e = newton.error(jet, z)
    e = e + newton.error(newton.correct(jet, e, z), z)
    return newton, newton.correct(jet, 0.99 * e, z), z, problem.prior.standardise(z)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_steps_are_those_with_the_own_factors_of_each(start, tolerance):
    newton, jet, z, xi = start
    found = nearby_error(newton, jet, z, xi, n_centres=3, tolerance=tolerance)
    expected = newton.error(jet, z)
    # The second step is a hundredth of the first; the preconditioned norm may hide some tenfold.
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.1 * tolerance


def test_what_does_not_converge_is_solved_by_itself(start):
    newton, jet, z, xi = start
    with patch.object(nearby, "_BUDGET", 1):
        found = nearby_error(newton, jet, z, xi, n_centres=1, tolerance=1e-3)
    expected = newton.error(jet, z)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-4


def test_the_tangent_is_the_derivative_of_the_rows(start):
    newton, jet, z, _ = start
    e = torch.zeros(len(z), newton.n_nodes, dtype=torch.float64)
    e[:, newton.free] = torch.rand(
        len(z), int(newton.free.sum()), generator=torch.Generator().manual_seed(1)
    ).double()
    h = 1e-4  # rows are quadratic in u: the difference is exact but for rounding
    ends = [newton.rows(newton.correct(jet, s * h * e, z), z) for s in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * h)
    torch.testing.assert_close(newton.tangent(jet, z)(e), difference, rtol=1e-6, atol=1e-6)
