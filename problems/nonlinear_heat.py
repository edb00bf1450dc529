"""Heat in a plate with a hole that conducts better where it is hot.

    du/dt - div((1 + u^2) k(x; z) grad u) = source in the insert,   u = 0 on the left

The plate, the fields, their priors and u(0) = start are those of `problems.heat`.
"""

from functools import partial

from torch import Tensor

import pddlvm
from problems.heat import heated_plate

__all__ = ["make"]


def hot_conduction(u: Tensor, du: Tensor, x: Tensor, k: Tensor) -> tuple[float, Tensor]:
    """(0, (1 + u^2) k grad u)."""
    return 0.0, (1 + u**2) * k * du


def make(
    n: int = 50, n_terms: int = 8, n_steps: int = 100, *, length: float = 0.4, std: float = 0.5
) -> pddlvm.TransientProblem:
    """Conductivity field, source and temperature at the start: 10 parameters.

    log k is a Karhunen-Loève field of mean zero, source ~ U[1.1, 2.9], start ~ U[0.6, 1.4]; to t =
    2 by BDF2, on 5 levels of steps each 2.5 times as long as before. With n = 50 4,790 degrees of
    freedom.

    Args:
        n: cells per height, a multiple of 10.
        n_terms: terms of the Karhunen-Loève expansion.
        n_steps: steps, a multiple of 5.
        length: correlation length of log k, in heights.
        std: of log k.
    """
    conducts = partial(pddlvm.Flux, function=hot_conduction, has_secant=True)
    return heated_plate("nonlinear-heat", conducts, n, n_terms, n_steps, length, std)
