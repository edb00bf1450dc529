"""Draws again by importance weights (sampling-importance-resampling: Rubin, 1988).

Where the draws are worth less than a quarter of what is asked for, the weights are flattened, w^t
with t < 1, until they are worth that: the result is then a little too wide, and never a few points
that pass for a distribution.
"""

import torch
from torch import Tensor

from pddlvm.sampling.statistics import worth

__all__ = ["resample"]

_LEAST_WORTH = 0.25
_TINY = 1e-300
_N_BISECTIONS = 30


def resample(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Numbers of n draws by their weights, which are flattened where they are worth little."""
    return _systematic(_tempered(weights, _LEAST_WORTH * n), n, generator)


def _tempered(weights: Tensor, n: float) -> Tensor:
    """w^t, t the largest power up to 1 with which the draws are worth n."""
    low, high = 0.0, 1.0
    if worth(weights) >= n:
        return weights
    logs = weights.clamp(min=_TINY).log()
    for _ in range(_N_BISECTIONS):
        middle = 0.5 * (low + high)
        is_enough = worth((middle * logs).softmax(0)) >= n
        low, high = (middle, high) if is_enough else (low, middle)
    return (low * logs).softmax(0)


def _systematic(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n numbers with these probabilities, in random order: equally spaced quantiles."""
    start = torch.rand((), generator=generator, dtype=weights.dtype)
    at = (torch.arange(n, dtype=weights.dtype) + start) / n
    rows = torch.searchsorted(weights.cumsum(0), at).clamp(max=len(weights) - 1)
    return rows[torch.randperm(n, generator=generator)]
