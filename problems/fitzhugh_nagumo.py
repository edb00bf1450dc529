"""FitzHugh-Nagumo: a pulse of excitation u and the recovery v that follows it, in strong form.

    u_t = D u_xx + k (u (1 - u) (u - a) - v),      v_t = e (u - b v)         (0, 1) x (0, 1)

u = sin(pi x)^3 and v = 0 at the start, both 0 at the ends. The threshold a, the rate e of the
recovery and the diffusion D are uncertain. (R. FitzHugh, Biophys. J. 1, 1961; J. Nagumo et al.,
Proc. IRE 50, 1962.)
"""

import math

import torch
from torch import Tensor

import pddlvm

__all__ = ["make"]

KINETICS, DECAY = 8.0, 1.0
"""k and b."""


def excitation(
    u: Tensor,
    u_t: Tensor,
    u_xx: Tensor,
    v: Tensor,
    v_t: Tensor,
    threshold: Tensor,
    rate: Tensor,
    diffusion: Tensor,
) -> tuple[Tensor, Tensor]:
    """Residuals of both equations."""
    growth = KINETICS * (u * (1 - u) * (u - threshold) - v)
    return u_t - diffusion * u_xx - growth, v_t - rate * (u - DECAY * v)


def _pulse(x: Tensor) -> tuple[Tensor, float]:
    return torch.sin(math.pi * x) ** 3, 0.0


def make(
    grid: tuple[int, int] = (61, 61), nodes: tuple[int, int] = (30, 20)
) -> pddlvm.CollocationProblem:
    """Threshold a U[0.05, 0.25], rate e U[0.2, 0.8] and diffusion D U[0.015, 0.03].

    Args:
        grid: points in x and t on which solutions are compared and inverted.
        nodes: Chebyshev nodes in x and t, also of the reference solutions.
    """
    box = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
    return pddlvm.CollocationProblem(
        "FitzHugh-Nagumo",
        box,
        excitation,
        fields={
            "threshold": pddlvm.Constant(pddlvm.Uniform(0.05, 0.25)),
            "rate": pddlvm.Constant(pddlvm.Uniform(0.2, 0.8)),
            "diffusion": pddlvm.Constant(pddlvm.Uniform(0.015, 0.03)),
        },
        unknowns=("u", "v"),
        lift=_pulse,
        # At the ends v stays zero because u is.
        hard=[box.start("t"), box.start("x"), box.end("x")],
        grid=grid,
        nodes=nodes,
    )
