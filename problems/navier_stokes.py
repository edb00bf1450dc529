"""Steady flow with inertia in a cavity that is driven by its lid.

    (u . grad) u - div(grad u / Re - p) = 0,   div u = 0

Velocity u of degree 2 and pressure p of degree 1 (Taylor and Hood), a pair that is inf-sup stable.
Lengths are sides of the cavity, velocities those of the lid, p is relative to density times its
square.
"""

import math

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem, links
from problems.stokes import Rows, taylor_hood

__all__ = ["make"]


def navier_stokes(u: Tensor, du: Tensor, p: Tensor, Re: Tensor) -> Rows:
    """(u . grad) u . v + grad u : grad v / Re - p div v, and -q div u."""
    unit = torch.eye(len(u), dtype=u.dtype, device=u.device)
    return {"u": (du @ u, du / Re - p * unit), "p": (-du.trace(), 0.0)}


def lid(x: Tensor, skew: Tensor) -> Tensor:
    """4 x (1 - x) (1 + skew (2 x - 1)) along x: zero at both corners."""
    s = x[0]
    return torch.stack([4 * s * (1 - s) * (1 + skew * (2 * s - 1)), 0 * s])


def make(n: int = 16) -> pddlvm.Problem:
    """The unit square, u = 4 x (1 - x) (1 + skew (2 x - 1)) on its lid and 0 on the other sides.

    Re = exp(z), z ~ U[ln 10, ln 100], and skew ~ U[-0.5, 0.5]; the mean of p is zero. Newton's
    method starts at rest, and needs no continuation up to there. With n = 16 2,467 degrees of
    freedom.

    Args:
        n: cells per side.
    """
    space = taylor_hood(fem.unit_square(n))
    reynolds = pddlvm.Uniform(math.log(10.0), math.log(100.0))
    return pddlvm.Problem(
        "navier-stokes",
        space,
        terms=[pddlvm.Flux(space.interior(), navier_stokes)],
        fields={
            "Re": pddlvm.Constant(reynolds, link=links.exp),
            "skew": pddlvm.Constant(pddlvm.Uniform(-0.5, 0.5)),
        },
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", lid)],
        constraints=[pddlvm.MeanValue("p")],
    )
