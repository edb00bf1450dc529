"""Problems of which workers solve a few samples each, and whose functions can be pickled."""

import os
from functools import partial

import torch

import pddlvm
from pddlvm import fem


def linear(u, du, x, a, b):
    return 0.5 * du[0] ** 2 - (a + b * x[0]) * u


def nonlinear(u, du, x, a, b):
    return 0.5 * (1 + a**2 * u**2) * du[0] ** 2 - 5 * b * u


def singular(u, du, x, a, b):
    """Without a derivative by u where a is 3."""
    return torch.where(a == 3, 0.0, 0.5) * du[0] ** 2 - b * u


def rounded(u, du, x, a, b):
    """With a constant that is not the same in float32."""
    return 0.5 * torch.tensor(1.1) * du[0] ** 2 - (a + b * x[0]) * u


def deadly(home, u, du, x, a, b):
    """The end of every process but one."""
    if os.getpid() != home:
        os._exit(1)
    return linear(u, du, x, a, b)


def problem_of(density):
    space = fem.Space(fem.interval(8, 0.0, 1.0))
    return pddlvm.Problem(
        "side by side",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {
            "a": pddlvm.Constant(pddlvm.Normal(1.0, 0.5)),
            "b": pddlvm.Constant(pddlvm.Normal(-0.5, 2.0)),
        },
        [pddlvm.Dirichlet(None, 0.0)],
    )


def deadly_problem():
    return problem_of(partial(deadly, os.getpid()))
