"""How far draws and densities can be trusted: R-hat, effective sample sizes, k-hat.

By ArviZ, which is imported where it is needed: it draws, and brings its libraries with it.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["bulk_size", "khat", "rhat", "smoothed_weights", "tail_size", "worth"]

_LEAST_SIZE = 2.0
_LEAST_LOG = 700.0
_SAME = 0.99


def rhat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat of draws (n_chains, n_draws, d), (d,) (Vehtari et al., 2021).

    Infinite where the chains never moved.
    """
    stuck = (draws == draws[:, :1]).all(1).all(0)
    return torch.where(stuck, torch.inf, _each("rhat", draws))


def bulk_size(draws: Tensor) -> Tensor:
    """Bulk effective sample size of draws (n_chains, n_draws, d), (d,)."""
    return _each("ess", draws)


def tail_size(draws: Tensor) -> Tensor:
    """Effective sample size for 90 % intervals of draws (n_chains, n_draws, d), (d,)."""
    return _each("ess", draws, method="tail", prob=0.9)


def khat(log_ratios: Tensor) -> float:
    """Shape of the tail of importance ratios (n,), by Pareto smoothing (Vehtari et al., 2024).

    Below 0.7 the proposal is close enough to the target to be corrected by weights. Where these
    hardly differ (99 of 100 draws are left) it is 0: their shape then says nothing.
    """
    return _smoothed(log_ratios)[1]


def smoothed_weights(log_ratios: Tensor) -> Tensor:
    """Weights (n,) that sum to one, the largest of them by a fitted Pareto tail."""
    return _smoothed(log_ratios)[0]


def worth(weights: Tensor) -> float:
    """The number of independent draws that draws with these weights (n,) are worth."""
    return 1 / float(weights.square().sum())


def _smoothed(log_ratios: Tensor) -> tuple[Tensor, float]:
    from arviz_stats.base.array import array_stats

    ratios = torch.where(torch.isnan(log_ratios), -torch.inf, log_ratios).double()
    best = float(ratios.max())
    if not math.isfinite(best):
        return torch.full_like(ratios, 1 / len(ratios)), math.inf
    # A draw without a density counts as next to nothing.
    finite = ratios.clamp(min=best - _LEAST_LOG)
    plain = finite.softmax(0)
    # Ratios that hardly differ: whatever their tail is, it does not matter.
    if worth(plain) > _SAME * len(plain):
        return plain, 0.0
    # One draw outweighs all others: there is no tail to fit.
    if not worth(plain) > _LEAST_SIZE:
        return plain, math.inf
    try:
        # ArviZ has leave-one-out in mind and takes the negative logarithm.
        with np.errstate(all="ignore"):
            log_weights, shape = array_stats.psislw((best - finite).numpy())
    except ValueError:
        # Too few draws, or a tail of equal ones.
        return plain, math.inf
    weights = torch.as_tensor(log_weights, dtype=torch.float64).softmax(0)
    # Nor is there one where but a few draws have any weight.
    if not (torch.isfinite(weights).all() and math.isfinite(shape)):
        return plain, math.inf
    return weights, float(shape)


def _each(name: str, draws: Tensor, **options: Any) -> Tensor:
    from arviz_stats.base.array import array_stats

    function = getattr(array_stats, name)
    # Chains that never moved have no variance to divide by.
    with np.errstate(all="ignore"):
        found = function(draws.double().numpy(), chain_axis=0, draw_axis=1, **options)
    return torch.as_tensor(np.asarray(found), dtype=torch.float64)
