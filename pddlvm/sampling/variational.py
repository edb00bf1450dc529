"""A Gaussian by the ELBO for one data set.

    maximise  E_q [ log p(y | h(w)) + log p(w) ] + H(q),      q(w) = N(m, L L^T)

in the coordinates of the Laplace approximation, where it starts: m = 0, L = I. The draws of a step
come in pairs w = m +- L e whose second moment is exactly the identity: for a Gaussian posterior the
gradient has no noise at all. The second half of a fixed number of steps is averaged, which a
training of networks (`pddlvm.training.fit`) has no use for.
"""

import math

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.sampling.target import Target

__all__ = ["variational"]

_N_STEPS = 400
_N_PAIRS = 32
"""At least; twice as many as there are parameters if those are more."""
_RATE = 0.03


def variational(target: Target, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Mean m (d,) and factor L (d, d) of the best Gaussian, and its ELBO for eta.

    Args:
        target: a density whose coordinates are about standardised.
        generator: of the draws.

    Raises:
        ConvergenceError: the ELBO or its gradient is not finite.
    """
    d = len(target.coordinates.centre)
    mean = torch.zeros(d, dtype=torch.float64, requires_grad=True)
    raw = torch.zeros(d, d, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, raw], lr=_RATE)
    averages = [torch.zeros_like(mean), torch.zeros_like(raw)]
    with torch.enable_grad():
        for k in range(_N_STEPS):
            optimizer.param_groups[0]["lr"] = _RATE * (
                0.01 + math.cos(0.5 * math.pi * k / _N_STEPS)
            )
            e = _draws(d, generator)
            factor = raw.tril(-1) + raw.diagonal().exp().diag()
            w = mean + torch.cat([e, -e]) @ factor.T
            elbo = target.value(w).mean() + raw.diagonal().sum()
            optimizer.zero_grad()
            (-elbo).backward()
            optimizer.step()
            # The last half is averaged: what noise is left in the steps goes.
            if 2 * k >= _N_STEPS:
                for average, value in zip(averages, (mean, raw), strict=True):
                    average += value.detach() * 2 / _N_STEPS
    found, raw_mean = averages
    if not torch.isfinite(found).all() or not torch.isfinite(raw_mean).all():
        raise ConvergenceError(
            "the ELBO is not finite: do the data contradict the model, its noise or its prior?"
        )
    factor = raw_mean.tril(-1) + raw_mean.diagonal().exp().diag()
    e = _draws(d, generator)
    with torch.no_grad():
        mean_value = float(target.value(found + torch.cat([e, -e]) @ factor.T).mean())
    # |L| of the coordinates too: modes are compared in eta.
    size = raw_mean.diagonal().sum() + target.coordinates.factor.diagonal().abs().log().sum()
    return found, factor, mean_value + float(size)


def _draws(d: int, generator: torch.Generator) -> Tensor:
    """Standard normal draws, moved so that e^T e / n = I."""
    n = max(_N_PAIRS, 2 * d)
    e = torch.randn(n, d, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(e.T @ e / n)
    return torch.linalg.solve_triangular(factor, e.T, upper=False).T
