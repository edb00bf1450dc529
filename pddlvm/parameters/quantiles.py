"""Quantiles at normal scores, and back, with as many digits in both tails.

    y(x) = F^{-1}(Phi(x)),   dy/dx = phi(x) / p(y)
    x(y) = Phi^{-1}(F(y)),   dx/dy = p(y) / phi(x)

F is SciPy's, which has the upper tail by 1 - F; the derivatives are those of the density, which
torch differentiates again. All is computed in float64 on the CPU, and returned as what came in.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

__all__ = ["Univariate"]

_FARTHEST = 37.0
"""Standard deviations beyond which a normal tail is no float64 number."""
_LEAST = 1e-300
"""Distance to a bound at zero that densities are still numbers at."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Univariate:
    """A continuous distribution of a number, or of several independent ones.

    Attributes:
        quantiles: a frozen distribution of SciPy.
        density: the same of torch, float64 on the CPU.
    """

    quantiles: Any
    density: torch.distributions.Distribution

    def of_score(self, x: Tensor) -> Tensor:
        """y(x)."""
        found: Tensor = _Quantile.apply(x, self)
        return found

    def score(self, y: Tensor) -> Tensor:
        """x(y)."""
        found: Tensor = _Score.apply(y, self)
        return found

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density inside of the support, of the nearest y there outside."""
        inside = self.inside(y.to("cpu", torch.float64))
        return self.density.log_prob(inside).to(y)

    def contains(self, y: Tensor) -> Tensor:
        """Is y in the support, up to one part in a million of where it has two ends?"""
        low, high = (torch.from_numpy(x).to(y.device) for x in self._ends)
        slack = 1e-6 * torch.where(torch.isfinite(high - low), high - low, 0.0)
        return (y >= low - slack) & (y <= high + slack) & torch.isfinite(y)

    def inside(self, y: Tensor) -> Tensor:
        """Y moved off the ends of the support, where densities are zero or infinite."""
        low, high = (torch.from_numpy(x) for x in self._ends)
        above = torch.where(low == 0, _LEAST, low.nextafter(high))
        below = torch.where(high == 0, -_LEAST, high.nextafter(low))
        return y.clamp(above, below)

    @property
    def _ends(self) -> tuple[Array, Array]:
        low, high = self.quantiles.support()
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


class _Quantile(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, of: Univariate) -> Tensor:
        scores = x.detach().to("cpu", torch.float64).clamp(-_FARTHEST, _FARTHEST).numpy()
        tail = ndtr(-np.abs(scores))
        found = np.where(scores < 0, of.quantiles.ppf(tail), of.quantiles.isf(tail))
        return of.inside(torch.from_numpy(found)).to(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Univariate], output: Tensor) -> None:
        _keep(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Quantile.jvp(ctx, gradient), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, of: None = None) -> Tensor:
        x, y = ctx.saved_tensors
        return tangent * (_log_normal(x) - ctx.of.log_prob(y)).exp()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, of: Univariate) -> Any:
        return of.of_score(x.movedim(in_dims[0], 0)), 0


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, of: Univariate) -> Tensor:
        at = of.inside(y.detach().to("cpu", torch.float64)).numpy()
        below, above = of.quantiles.cdf(at), of.quantiles.sf(at)
        found = np.where(below < above, ndtri(below), -ndtri(above))
        return torch.from_numpy(found.clip(-_FARTHEST, _FARTHEST)).to(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Univariate], output: Tensor) -> None:
        _keep(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Score.jvp(ctx, gradient), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, of: None = None) -> Tensor:
        y, x = ctx.saved_tensors
        return tangent * (ctx.of.log_prob(y) - _log_normal(x)).exp()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], y: Tensor, of: Univariate) -> Any:
        return of.score(y.movedim(in_dims[0], 0)), 0


def _keep(ctx: Any, given: Tensor, of: Univariate, found: Tensor) -> None:
    ctx.of = of
    ctx.save_for_backward(given, found)
    ctx.save_for_forward(given, found)


def _log_normal(x: Tensor) -> Tensor:
    return -0.5 * x.square() - 0.5 * np.log(2 * np.pi)
