"""Gaussians with the mean and the covariance of a density, by weighted draws in a few rounds.

    e ~ (N(0, I) + N(0, 4 I)) / 2,   w = m + L e,    weight  =  p(w)^b q(w)^(1 - b) / proposal(w)

where q = N(m, L L^T) is what the last round found (Cornuet, Marin, Mira and Robert, Scand. J.
Stat. 39, 2012). b is 1 where the draws are then worth enough, and else as large as they are: q
moves towards p as far as it can be seen from where it is. The rounds of the second half are
averaged; where b is hardly ever 1 in these, p was not reached, and nothing is changed.

Of a density that is not normal a Gaussian by the ELBO is the narrowest of all answers: it keeps
away from where the density is small, and covers a piece of a bent ridge.
"""

import math

import torch
from torch import Tensor

from pddlvm.sampling.local import LocalDensity

__all__ = ["matched"]

_N_ROUNDS = 16
_N_DRAWS, _PER_PARAMETER = 1024, 40
_AT_ONCE = 128
"""Draws at which the density is asked for together."""
_CLOSE = 0.95
"""Share of its own draws that a Gaussian is worth that needs nothing."""
_LEAST_WORTH, _LEAST_PER_PARAMETER = 64, 10
"""Draws; at b = 0 they are worth half of what they are. Fewer make a covariance too small."""
_REACHED = 0.25
"""Share of the averaged rounds in which b is to be 1."""
_WIDE = 2.0
_HALVINGS = 20
_LARGE = 1e6
"""Of logarithms: what is less than e^-1e6 is nothing."""


@torch.no_grad()
def matched(
    density: LocalDensity, mean: Tensor, factor: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Means (n_modes, d) and factors (n_modes, d, d) of the Gaussians of these moments.

    Gaussians that are the density, or from which it is not reached, stay as they are. All take the
    same draws: none depends on its neighbours.

    Args:
        density: in coordinates that are about standardised.
        mean: of Gaussians to begin with.
        factor: of these.
        generator: of the draws.
    """
    d = mean.shape[1]
    n = max(_N_DRAWS, _PER_PARAMETER * d)
    e = torch.randn(n, d, generator=generator, dtype=mean.dtype)
    everything = torch.arange(len(mean))
    ratio = _values(density, mean[:, None] + e @ factor.mT, everything) + 0.5 * e.square().sum(-1)
    modes = (~(_worth(ratio.softmax(1)) >= _CLOSE * n)).nonzero()[:, 0]
    if len(modes):
        found = _moved(density, mean[modes], factor[modes], modes, n, generator)
        mean, factor = (
            x.index_copy(0, modes, y) for x, y in zip((mean, factor), found, strict=True)
        )
    return mean, factor


def _moved(
    density: LocalDensity,
    mean: Tensor,
    factor: Tensor,
    modes: Tensor,
    n: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Those of some of the modes, by rounds of n draws."""
    start = mean, factor
    d = mean.shape[1]
    least = max(_LEAST_WORTH, _LEAST_PER_PARAMETER * d)
    scale = torch.where(torch.arange(n) < n // 2, 1.0, _WIDE).to(mean)[:, None]
    means, covariances = torch.zeros_like(mean), torch.zeros_like(factor)
    reached = mean.new_zeros(len(mean))
    for k in range(_N_ROUNDS):
        e = scale * torch.randn(n, d, generator=generator, dtype=mean.dtype)
        w = mean[:, None] + e @ factor.mT
        of_gaussian = -0.5 * e.square().sum(-1)
        of_wide = of_gaussian / _WIDE**2 - d * math.log(_WIDE)
        proposal = torch.logaddexp(of_gaussian, of_wide)
        weights, power = _weights(_values(density, w, modes), of_gaussian, proposal, least)
        mean = (weights[..., None] * w).sum(1)
        change = w - mean[:, None]
        covariance = (weights[..., None] * change).mT @ change
        factor = torch.linalg.cholesky(covariance)
        if 2 * k >= _N_ROUNDS:
            means += mean * 2 / _N_ROUNDS
            covariances += covariance * 2 / _N_ROUNDS
            reached += (power == 1) * 2 / _N_ROUNDS
    is_found = (reached >= _REACHED)[:, None]
    factors = torch.linalg.cholesky(covariances)
    return (
        torch.where(is_found, means, start[0]),
        torch.where(is_found[..., None], factors, start[1]),
    )


def _values(density: LocalDensity, w: Tensor, modes: Tensor) -> Tensor:
    """Log densities at w (n_modes, n, d) in the coordinates of each mode, (n_modes, n)."""
    found = []
    for part in w.split(_AT_ONCE, dim=1):
        mode = modes.repeat_interleave(part.shape[1])
        found.append(density.value(part.flatten(0, 1), mode).unflatten(0, part.shape[:2]))
    values = torch.cat(found, dim=1)
    return torch.where(torch.isfinite(values), values, -torch.finfo(values.dtype).max)


def _worth(weights: Tensor) -> Tensor:
    """How many independent draws those of each mode are worth, (n_modes,)."""
    return 1 / weights.square().sum(1)


def _weights(
    log_target: Tensor, log_gaussian: Tensor, log_proposal: Tensor, least: float
) -> tuple[Tensor, Tensor]:
    """Weights (n_modes, n), and the largest power b up to 1 at which they are worth enough."""
    log_ratio = log_target - log_gaussian
    # Where the density is zero its power 0 is one.
    log_ratio = (log_ratio - log_ratio.amax(1, keepdim=True)).clamp(min=-_LARGE)

    def weights(power: Tensor) -> Tensor:
        return (power * log_ratio + log_gaussian - log_proposal).softmax(1)

    def is_enough(power: Tensor) -> Tensor:
        return (_worth(weights(power)) >= least)[:, None]

    low, high = torch.zeros_like(log_ratio[:, :1]), torch.ones_like(log_ratio[:, :1])
    low = torch.where(is_enough(high), high, low)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = is_enough(middle)
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return weights(low), low[:, 0]
