"""Gaussians by the ELBO, one at each mode, that are then given the moments of the posterior.

    maximise  E_q [ log p(y | h(w)) + log p(w) ] + H(q),      q(w) = N(m, L L^T)

in the coordinates of the Laplace approximation, where it starts: m = 0, L = I. The draws of a step
come in pairs w = m +- L e whose second moment is exactly the identity: for a Gaussian posterior the
gradient has no noise at all. The second half of a fixed number of steps is averaged, which a
training of networks (`pddlvm.training.fit`) has no use for. What is best by the ELBO is narrower
than a posterior that is not normal: mean and covariance come from weighted draws (`moments`).
"""

import math

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.sampling.local import LocalDensity
from pddlvm.sampling.moments import matched

__all__ = ["variational"]

_N_STEPS = 400
_N_PAIRS = 32
"""At least; twice as many as there are parameters if those are more."""
_RATE = 0.03


def variational(density: LocalDensity, generator: torch.Generator) -> list[Tensor]:
    """Means m (n_modes, d) and factors L (n_modes, d, d) of Gaussians, and ELBOs (n_modes,).

    The ELBO is that of eta, of the Gaussians before they are given moments. All take the same
    draws: none depends on its neighbours.

    Args:
        density: in coordinates that are about standardised.
        generator: of the draws.

    Raises:
        ConvergenceError: an ELBO or its gradient is not finite.
    """
    n, d = density.coordinates.centre.shape
    mean = torch.zeros(n, d, dtype=torch.float64, requires_grad=True)
    raw = torch.zeros(n, d, d, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, raw], lr=_RATE)
    averages = [torch.zeros_like(mean), torch.zeros_like(raw)]

    def mean_value(mean: Tensor, factor: Tensor) -> Tensor:
        e = _draws(d, generator)
        w = mean[:, None] + torch.cat([e, -e]) @ factor.mT
        mode = torch.arange(n).repeat_interleave(w.shape[1])
        return density.value(w.flatten(0, 1), mode).unflatten(0, (n, -1)).mean(1)

    with torch.enable_grad():
        for k in range(_N_STEPS):
            optimizer.param_groups[0]["lr"] = _RATE * (
                0.01 + math.cos(0.5 * math.pi * k / _N_STEPS)
            )
            elbo = mean_value(mean, _factor(raw)) + _log_size(raw)
            optimizer.zero_grad()
            (-elbo.sum()).backward()
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
    factor = _factor(raw_mean)
    with torch.no_grad():
        value = mean_value(found, factor)
    # |L| of the coordinates too: modes are compared in eta.
    own = density.coordinates.factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return [*matched(density, found, factor, generator), value + _log_size(raw_mean) + own]


def _factor(raw: Tensor) -> Tensor:
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def _log_size(raw: Tensor) -> Tensor:
    return raw.diagonal(dim1=-2, dim2=-1).sum(-1)


def _draws(d: int, generator: torch.Generator) -> Tensor:
    """Standard normal draws, moved so that e^T e / n = I."""
    n = max(_N_PAIRS, 2 * d)
    e = torch.randn(n, d, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(e.T @ e / n)
    return torch.linalg.solve_triangular(factor, e.T, upper=False).T
