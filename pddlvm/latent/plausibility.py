"""Is a misfit one that true solutions have?

    p = 1 - Phi(s(log misfit)),    s the normal score of log misfit among those of true solutions

between their quantiles linear, and beyond the last one with the slope of the last ones. Of two
misfits the smaller p counts, 1 - (1 - min(p, q))^2.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.special import ndtr

from pddlvm.latent.inverse import Inverse

__all__ = ["Plausibility", "judged", "smaller_of_two"]

_LAST = 2.0
"""Normal score of the last quantile: beyond it a calibration has a handful of solutions."""
_N_QUANTILES = 33
_TINY = 1e-30
_STEP = 1e-6


class Plausibility(nn.Module):
    """Quantiles of the logs of two kinds of misfit, numbered 0 and 1."""

    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.zeros(2, _N_QUANTILES, dtype=torch.float64))

    def fit(self, kind: int, misfits: Tensor) -> None:
        """Take the quantiles from misfits of true solutions, (n,)."""
        scores = _scores(self.quantiles)
        found = misfits.to(self.quantiles).clamp(min=_TINY).log().quantile(ndtr(scores))
        # Strictly increasing, also where misfits are equal.
        self.quantiles[kind] = found + _STEP * torch.arange(_N_QUANTILES).to(found)

    def p_value(self, kind: int, misfit: Tensor) -> Tensor | None:
        """Probability of a larger misfit, of misfits (...,); None until there are quantiles."""
        values, scores = self.quantiles[kind], _scores(self.quantiles)
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

    def p_value_of_both(self, first: Tensor, second: Tensor) -> Tensor | None:
        """Of misfits of kind 0 and 1 together; None until there are quantiles."""
        p, q = self.p_value(0, first), self.p_value(1, second)
        return None if p is None or q is None else smaller_of_two(p, q)


def judged(
    found: Inverse,
    misfit: Tensor,
    p_value: Tensor | None,
    advice: str,
    told: Tensor | None = None,
) -> Inverse:
    """The same with its misfit (n_batch,), and what that and its width say."""
    batch = found.xi_mean.shape[:-1]
    p_value = None if p_value is None else p_value.to(misfit).reshape(batch)
    return replace(found, misfit=misfit.reshape(batch), p_value=p_value, advice=advice, told=told)


def smaller_of_two(p: Tensor, q: Tensor) -> Tensor:
    """Probability that the smaller one of two independent p-values is smaller than theirs."""
    return 1 - (1 - torch.minimum(p, q)).square()


def _scores(like: Tensor) -> Tensor:
    return torch.linspace(-_LAST, _LAST, _N_QUANTILES).to(like)
