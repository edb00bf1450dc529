"""Is a misfit one that true solutions have?

    p = 1 - Phi(s(log misfit)),    s the normal score of log misfit among those of true solutions

between their quantiles linear, and beyond the last one with the slope of the last ones.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.special import ndtr

from pddlvm.predictions import Inverse

__all__ = ["Plausibility"]

_LAST = 2.0
"""Normal score of the last quantile: beyond it a calibration has a handful of solutions."""
_N_QUANTILES = 33
_TINY = 1e-30
_STEP = 1e-6


class Plausibility(nn.Module):
    """Quantiles of log misfit, at level 0 (a map as it is) and 1 (after corrections)."""

    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.zeros(2, _N_QUANTILES, dtype=torch.float64))

    def fit(self, level: int, misfits: Tensor) -> None:
        """Take the quantiles from misfits of true solutions, (n,)."""
        scores = _scores(self.quantiles)
        found = misfits.to(self.quantiles).clamp(min=_TINY).log().quantile(ndtr(scores))
        # Strictly increasing, also where misfits are equal.
        self.quantiles[level] = found + _STEP * torch.arange(_N_QUANTILES).to(found)

    def p_value(self, level: int, misfit: Tensor) -> Tensor | None:
        """Probability of a larger misfit, of misfits (...,); None until there are quantiles."""
        values, scores = self.quantiles[level], _scores(self.quantiles)
        if not values.any():
            return None
        x = misfit.to(values).clamp(min=_TINY).log()
        k = torch.searchsorted(values, x.contiguous()).clamp(1, _N_QUANTILES - 1)
        share = (x - values[k - 1]) / (values[k] - values[k - 1])
        inside = scores[k - 1] + share * (scores[k] - scores[k - 1])
        half = 3 * _N_QUANTILES // 4
        slope = (scores[-1] - scores[half]) / (values[-1] - values[half])
        beyond = _LAST + slope * (x - values[-1])
        return ndtr(-torch.where(x > values[-1], beyond, inside)).to(misfit)

    def judge(self, found: Inverse, misfit: Tensor, level: int, advice: str) -> Inverse:
        """The same with its misfit (n_batch,), and what that says."""
        batch, p_value = found.xi_mean.shape[:-1], self.p_value(level, misfit)
        p_value = None if p_value is None else p_value.reshape(batch)
        return replace(found, misfit=misfit.reshape(batch), p_value=p_value, advice=advice)


def _scores(like: Tensor) -> Tensor:
    return torch.linspace(-_LAST, _LAST, _N_QUANTILES).to(like)
