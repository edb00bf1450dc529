"""A bump that is carried along, with little diffusion.

    du/dt + b . grad u - kappa lap u = 0   on the unit square,   u = 0 on its boundary
    b = speed (cos angle, sin angle),   u(0) = height cos^2(pi r / (2 width)) for r < width

r is the distance from (1/4, 1/4). The mesh is fine enough for the bump: nothing is stabilised.
"""

from functools import partial

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem, links

__all__ = ["make"]


def advection_diffusion(
    smallest: float, u: Tensor, du: Tensor, x: Tensor, speed: Tensor, angle: Tensor, kappa: Tensor
) -> tuple[Tensor, Tensor]:
    """(b . grad u, kappa grad u), kappa in units of the smallest."""
    b = speed * torch.stack([angle.cos(), angle.sin()])
    return b @ du, smallest * kappa * du


def bump(width: float, x: Tensor, height: Tensor) -> Tensor:
    """The bump at the start."""
    r = (((x - 0.25) ** 2).sum() + 1e-300).sqrt()
    return torch.where(r < width, height * (torch.pi * r / (2 * width)).cos() ** 2, 0.0)


def make(
    n: int = 72, n_steps: int = 100, *, width: float = 0.16, peclet: float = 4.0
) -> pddlvm.TransientProblem:
    """Speed, angle, diffusion and height of the bump: 4 parameters.

    speed ~ U[0.85, 1.15], angle ~ U[0.55, 1.05], log kappa / kappa_min ~ U[0, 1], height ~ U[0.6,
    1.4]; to t = 0.5 by Crank-Nicolson's method. With n = 72 5,329 degrees of freedom.

    Args:
        n: cells per side.
        n_steps: steps.
        width: of the bump, below 1/4.
        peclet: largest element Péclet number h / (2 kappa) at speed 1; it sets kappa_min.
    """
    if not (isinstance(peclet, float | int) and 0 < peclet < float("inf")):
        raise pddlvm.InputError(f"peclet must be positive and finite, got {peclet!r}")
    if not (isinstance(width, float | int) and 0 < width < 0.25):
        raise pddlvm.InputError(f"width must lie between 0 and 1/4, got {width!r}")
    space, end = fem.Space(fem.unit_square(n)), 0.5
    flux = partial(advection_diffusion, 1.0 / (2 * n * peclet))
    problem = pddlvm.Problem(
        "transport",
        space,
        terms=[pddlvm.Flux(space.interior(), flux)],
        fields={
            "speed": pddlvm.Constant(pddlvm.Uniform(0.85, 1.15)),
            "angle": pddlvm.Constant(pddlvm.Uniform(0.55, 1.05)),
            "kappa": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0), link=links.exp),
            "height": pddlvm.Constant(pddlvm.Uniform(0.6, 1.4)),
            "t": pddlvm.Time(end),
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )
    stepping = pddlvm.Stepping(end, n_steps, pddlvm.CrankNicolson())
    return pddlvm.TransientProblem(problem, stepping=stepping, initial=partial(bump, width))
