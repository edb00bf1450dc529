"""A public benchmark of Bayesian inversion: 64 conductivities from 169 noisy values of u.

    -div(theta(x) grad u) = 10 in (0, 1)^2,   u = 0 on the boundary
    theta = theta_k on the blocks of a grid of 8 x 8;   y_i = u(x_i) + N(0, 0.05^2)

(D. Aristoff, W. Bangerth, A benchmark for the Bayesian inversion of coefficients in partial
differential equations, SIAM Review 65(4), 2023.) The mesh has 32 x 32 bilinear squares. The prior
is given there as a density exp(-sum (log theta_k)^2 / 8) with respect to theta; in x = log theta
the Jacobian adds sum x_k to its exponent, and x_k ~ N(4, 2^2).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem
from problems.poisson import diffusion, load

__all__ = ["Data", "make", "read_data"]

_FILE = Path(__file__).parent / "data" / "bayesian_poisson.json"


@dataclass(frozen=True)
class Data:
    """The published measurements.

    Attributes:
        observation: points and noise.
        y: values, (169,), float64.
    """

    observation: pddlvm.PointObservation
    y: Tensor


def make(n: int = 32) -> pddlvm.Problem:
    """The forward problem; n = 32 squares per side are those of the benchmark.

    Args:
        n: squares per side, a multiple of 8.
    """
    space = fem.Space(fem.unit_square(n, quadrilaterals=True))
    if n % 8:
        raise pddlvm.InputError(f"n must be a multiple of the 8 blocks per side, got {n}")
    theta = pddlvm.Piecewise.on_blocks(space, (8, 8), prior=pddlvm.LogNormal(4.0, 2.0))
    return pddlvm.Problem(
        "Bayesian Poisson benchmark",
        space,
        terms=[
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.interior(), load),
        ],
        fields={"kappa": theta, "f": 10.0},
        dirichlet=[pddlvm.Dirichlet(None, 0.0)],
    )


def read_data(problem: pddlvm.Problem) -> Data:
    """The published measurements, as an observation of a problem made here."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    observation = pddlvm.PointObservation(problem, content["points"], content["noise_std"])
    return Data(observation, torch.tensor(content["values"], dtype=torch.float64))
