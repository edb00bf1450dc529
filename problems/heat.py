"""Heat in a plate with a hole: one end is cold, and an insert heats.

    du/dt - div(k(x; z) grad u) = source in the insert,   u = 0 on the left,   u(0) = start

The other sides are insulated. From a warm plate beside its cold end a layer grows: steps are short
at first. Lengths are heights of the plate, and times those that heat takes over one at the median
of k.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem

__all__ = ["heated_plate", "make", "plate"]

_LEFT = 1e-9


def conduction(u: Tensor, du: Tensor, x: Tensor, k: Tensor) -> Tensor:
    """1/2 k |grad u|^2."""
    return 0.5 * k * (du @ du)


def heating(u: Tensor, du: Tensor, x: Tensor, source: Tensor) -> Tensor:
    """-source u."""
    return -source * u


def warm(x: Tensor, start: Tensor) -> Tensor:
    """The same temperature everywhere, but on the cold end."""
    return torch.where(x[0] > _LEFT, start, 0.0)


def plate(n: int) -> Any:
    """The mesh of the plate, 2 x 1 with a square hole and a square `insert`, n cells per height."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 10 or n % 10:
        raise pddlvm.InputError(f"n must be a multiple of 10, for hole and insert, got {n}")
    mesh = fem.unit_square(2 * n).scaled(2.0)
    x, y = fem.Space(mesh).centroids.x.T
    is_solid = (abs(x - 0.4) > 0.2) | (abs(y - 0.5) > 0.2)
    mesh = mesh.restrict(((y < 1) & is_solid).nonzero()[0])
    return mesh.with_boundaries({"left": lambda x: x[0] < _LEFT}).with_subdomains(
        {"insert": lambda x: (abs(x[0] - 1.2) < 0.3) & (abs(x[1] - 0.4) < 0.3)}
    )


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
    return heated_plate(
        "heat", partial(pddlvm.Energy, function=conduction), n, n_terms, n_steps, length, std
    )


def heated_plate(
    name: str,
    conducts: Callable[[Any], pddlvm.Term],
    n: int,
    n_terms: int,
    n_steps: int,
    length: float,
    std: float,
) -> pddlvm.TransientProblem:
    """The plate, with a term that conducts heat in a region; see `make` for the rest."""
    space, end = fem.Space(plate(n)), 2.0
    problem = pddlvm.Problem(
        name,
        space,
        terms=[
            conducts(space.interior()),
            pddlvm.Energy(space.interior("insert"), heating),
        ],
        fields={
            "k": pddlvm.KarhunenLoeve.on(space, n_terms, length=length, std=std),
            "source": pddlvm.Constant(pddlvm.Uniform(1.1, 2.9)),
            "start": pddlvm.Constant(pddlvm.Uniform(0.6, 1.4)),
            "t": pddlvm.Time(end),
        },
        dirichlet=[pddlvm.Dirichlet("left")],
    )
    return pddlvm.TransientProblem(
        problem, stepping=pddlvm.Stepping.graded(end, n_steps), initial=warm
    )
