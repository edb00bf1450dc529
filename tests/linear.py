"""A linear problem with a Gaussian prior, whose posterior has a closed form."""

import torch

import pddlvm
from pddlvm import fem


def linear_problem():
    """-u'' = z_1 + z_2 x with u = 0 at the ends: u is linear in z."""
    space = fem.Space(fem.interval(16, 0.0, 1.0))
    return pddlvm.Problem(
        "linear",
        space,
        [
            pddlvm.Energy(
                space.interior(), lambda u, du, x, a, b: 0.5 * du[0] ** 2 - (a + b * x[0]) * u
            )
        ],
        {
            "a": pddlvm.Constant(pddlvm.Normal(1.0, 0.5)),
            "b": pddlvm.Constant(pddlvm.Normal(-0.5, 2.0)),
        },
        [pddlvm.Dirichlet("left", 0.0), pddlvm.Dirichlet("right", 0.0)],
    )


def closed_form(problem, obs, y):
    """Posterior of a linear problem with a Gaussian prior."""
    origin = torch.zeros(1, 2, dtype=torch.float64)
    unit = torch.eye(2, dtype=torch.float64)
    h0 = obs.apply(problem.solve(origin))
    h = (obs.apply(problem.solve(unit)) - h0).T
    prior_mean, prior_std = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.5, 2.0]).double()
    precision = h.T @ torch.linalg.solve(obs.noise.covariance(), h) + (prior_std**-2).diag()
    right = (
        h.T @ torch.linalg.solve(obs.noise.covariance(), (y - h0[0])) + prior_mean / prior_std**2
    )
    return torch.linalg.solve(precision, right), torch.linalg.inv(precision)
