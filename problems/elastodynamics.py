"""Waves in an elastic plate that is hit at one end and clamped at the other.

    rho d^2u/dt^2 - div sigma = 0,   sigma = 2 mu eps + lambda tr(eps),   rho = 1
    sigma n = pull(t) e_x on the right,   u = 0 on the left,   at rest at first

in plane strain, with pull(t) = strength sin^2(pi t / duration) for t < duration. Lengths are
heights of the plate, and times those that a wave takes in a bar over one at the median of E.
"""

from functools import partial

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem
from problems.elasticity import moduli

__all__ = ["make"]

_DURATION = 1.0


def stored_energy(nu: float, u: Tensor, du: Tensor, x: Tensor, E: Tensor) -> Tensor:
    """mu |eps|^2 + lambda/2 tr(eps)^2."""
    mu, lame = moduli(E, nu)
    strain = 0.5 * (du + du.T)
    return mu * (strain * strain).sum() + 0.5 * lame * strain.trace() ** 2


def pulse(u: Tensor, du: Tensor, x: Tensor, strength: Tensor, t: Tensor) -> Tensor:
    """-pull(t) u_x."""
    shape = (torch.pi * t / _DURATION).sin() ** 2
    return -strength * torch.where(t < _DURATION, shape, 0.0) * u[0]


def make(
    n: int = 20,
    n_terms: int = 4,
    n_steps: int = 200,
    *,
    length: float = 0.6,
    std: float = 0.15,
    nu: float = 0.3,
) -> pddlvm.TransientProblem:
    """Stiffness field and strength of the pulse: 5 parameters.

    log E is a Karhunen-Loève field of mean zero, strength ~ U[0.5, 1.5]; a plate 2 x 1, to t = 4 by
    Newmark's method: the pulse comes to the clamped end and back. With n = 20 1,722 degrees of
    freedom.

    Args:
        n: cells per height.
        n_terms: terms of the Karhunen-Loève expansion.
        n_steps: steps.
        length: correlation length of log E, in heights.
        std: of log E.
        nu: Poisson's ratio.
    """
    whole, end = fem.unit_square(2 * n).scaled(2.0), 4.0
    mesh = whole.restrict((fem.Space(whole).centroids.x[:, 1] < 1).nonzero()[0])
    mesh = mesh.with_boundaries({"left": lambda x: x[0] < 1e-9, "right": lambda x: x[0] > 2 - 1e-9})
    space = fem.Space(mesh, n_components=2)
    problem = pddlvm.Problem(
        "elastodynamics",
        space,
        terms=[
            pddlvm.Energy(space.interior(), partial(stored_energy, nu)),
            pddlvm.Energy(space.boundary("right"), pulse),
        ],
        fields={
            "E": pddlvm.KarhunenLoeve.on(space, n_terms, length=length, std=std),
            "strength": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "t": pddlvm.Time(end),
        },
        dirichlet=[pddlvm.Dirichlet("left")],
    )
    stepping = pddlvm.Stepping(end, n_steps, pddlvm.Newmark())
    return pddlvm.TransientProblem(problem, stepping=stepping, initial=0.0, velocity=0.0)
