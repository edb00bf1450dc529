"""A string that is plucked and struck, in strong form: an equation of second order in time.

u_tt = c^2 u_xx,   u = sin(pi x),   u_t = w sin(2 pi x) at t = 0,   u = 0 at x = 0 and 1
u = sin(pi x) cos(pi c t) + w sin(2 pi x) sin(2 pi c t) / (2 pi c)
"""

import math
from functools import partial

import torch
from torch import Tensor

import pddlvm

__all__ = ["exact", "make"]


def wave(u_tt: Tensor, u_xx: Tensor, speed: Tensor) -> Tensor:
    """Residual of the wave equation."""
    return u_tt - speed**2 * u_xx


def _start(x: Tensor, t: Tensor, strike: Tensor) -> Tensor:
    return torch.sin(math.pi * x) + t * strike * torch.sin(2 * math.pi * x)


def exact(z: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The solution at points (n_points,) of x and t, for z = (c, w), (n, 2) -> (n, n_points)."""
    c, w = z[:, :1], z[:, 1:]
    plucked = torch.sin(math.pi * x) * torch.cos(math.pi * c * t)
    struck = torch.sin(2 * math.pi * x) * torch.sin(2 * math.pi * c * t) / (2 * math.pi * c)
    return plucked + w * struck


def make(
    grid: tuple[int, int] = (61, 61), nodes: tuple[int, int] = (20, 24)
) -> pddlvm.CollocationProblem:
    """Speed c U[0.5, 1.5] and strike w U[-2, 2], for one unit of time.

    Args:
        grid: points in x and t on which solutions are compared and inverted.
        nodes: Chebyshev nodes in x and t.
    """
    box = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
    return pddlvm.CollocationProblem(
        "wave",
        box,
        wave,
        fields={
            "speed": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "strike": pddlvm.Constant(pddlvm.Uniform(-2.0, 2.0)),
        },
        lift=_start,
        hard=[box.start("t", with_slope=True), box.start("x"), box.end("x")],
        grid=grid,
        nodes=nodes,
        reference=partial(_on_grid, grid),
    )


def _on_grid(grid: tuple[int, int], z: Tensor) -> Tensor:
    axes = [torch.linspace(0.0, 1.0, n, dtype=torch.float64) for n in grid]
    x, t = torch.meshgrid(*axes, indexing="ij")
    return exact(z, x.flatten(), t.flatten())
