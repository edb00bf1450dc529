"""Derivatives of the equations of modes are those of the equations."""

from functools import cache

import parabolic
import pytest
import torch

import pddlvm
from pddlvm.linalg.derivatives import linearise, linearise_at_once
from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.reduction import reduce_trajectories
from pddlvm.trajectory.slopes import linearised_modes


def bent_start(x, start):
    return torch.exp(start) * 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1])


@cache
def modes_of(kind: str) -> Modes:
    problem = parabolic.make("heat" if kind == "bent start" else kind)
    if kind == "bent start":
        problem = pddlvm.TransientProblem(
            problem.steady, stepping=problem.stepping, initial=bent_start
        )
    return reduce_trajectories(problem, 8, 12).modes


MOVING = pytest.param("moving", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["heat", MOVING, "advection", "boundary", "wave", "bent start"])
@pytest.mark.slow
def test_slopes_are_differences(kind):
    modes = modes_of(kind)
    prior = modes.steps.problem.prior
    z, d = prior.sample((3,), seed=2), prior.size
    a = torch.randn(3, modes.n, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    at = linearised_modes(modes, z)
    torch.testing.assert_close(at.residual(a), modes.residual(a, z))
    solved, of_solved = at.solve()
    torch.testing.assert_close(solved, modes.solve(z))
    step = 1e-5 * torch.eye(d, dtype=z.dtype)
    for j in range(d):
        pairs = [modes.residual(a, z + s * step[j]) for s in (1, -1)]
        expected = (pairs[0] - pairs[1]) / 2e-5
        torch.testing.assert_close(at.slope(a)[..., j], expected, rtol=1e-5, atol=1e-6)
        pairs = [modes.solve(z + s * step[j]) for s in (1, -1)]
        expected = (pairs[0] - pairs[1]) / 2e-5
        torch.testing.assert_close(of_solved[..., j], expected, rtol=1e-5, atol=1e-6)
    if kind == "boundary":
        assert at.boundary_slope.abs().max() > 0


def test_columns_at_once_are_those_one_by_one():
    x = torch.linspace(0.1, 1.2, 12, dtype=torch.float64).reshape(3, 4)

    def function(at):
        return torch.stack([at.prod(-1), at.sin().sum(-1), at[:, 0]], dim=-1)

    for own, expected in zip(linearise_at_once(function, x), linearise(function, x), strict=True):
        torch.testing.assert_close(own, expected)
