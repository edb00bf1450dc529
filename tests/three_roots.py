"""A problem of which three parameters explain the same data."""

from functools import cache

import torch

import pddlvm
from pddlvm import fem

LIMIT = 2.4


@cache
def three_roots() -> pddlvm.Problem:
    """-((3 + g^3/3 - g) u')' = 20, u = 0 at both ends, g ~ U(-2.4, 2.4), on 20 elements."""
    space = fem.Space(fem.interval(20, 0.0, 1.0))
    return pddlvm.Problem(
        "three roots",
        space,
        [
            pddlvm.Energy(
                space.interior(),
                lambda u, du, x, g: 0.5 * (3 + g**3 / 3 - g) * (du * du).sum() - 20 * u,
            )
        ],
        {"g": pddlvm.Constant(pddlvm.Uniform(-LIMIT, LIMIT))},
        [pddlvm.Dirichlet(None, 0.0)],
    )


def true_masses(obs: pddlvm.Observation, y: torch.Tensor) -> torch.Tensor:
    """Posterior probabilities of g < -1, -1 < g < 1 and g > 1, by quadrature, (3,)."""
    g, u = solutions(obs.problem)
    return by_root(g, obs.log_prob(y, u).softmax(0))


@cache
def solutions(problem: pddlvm.Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """g on a fine grid, (n,), and u there."""
    g = torch.linspace(-LIMIT, LIMIT, 4802, dtype=torch.float64)[1:-1, None]
    return g[:, 0], problem.solve(g)


def by_root(g: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Shares of draws g (n,), maybe with weights, (3,)."""
    weights = torch.full_like(g, 1 / len(g)) if weights is None else weights
    return torch.stack([weights[g < -1].sum(), weights[g.abs() <= 1].sum(), weights[g > 1].sum()])
