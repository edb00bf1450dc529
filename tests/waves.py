"""Waves above their first resonance, as several test files have them."""

import torch

import pddlvm
from pddlvm import fem


def helmholtz(low=25.0, high=44.0, n=6):
    """-div grad u - k^2 u = f, f a bump at a random place; resonances at 19.7 and 49.3."""
    space = fem.Space(fem.unit_square(n), degree=2)

    def density(u, du, x, square, place):
        load = 10 * torch.exp(-10 * ((x[0] - place) ** 2 + (x[1] - 0.4) ** 2))
        return 0.5 * du @ du - 0.5 * square * u**2 - load * u

    return pddlvm.Problem(
        "waves",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {
            "square": pddlvm.Constant(pddlvm.Uniform(low, high)),
            "place": pddlvm.Constant(pddlvm.Uniform(0.3, 0.7)),
        },
        [pddlvm.Dirichlet(None)],
    )
