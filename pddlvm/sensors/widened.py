"""Noise plus the error of a prediction: densities of misfits that have both.

Gaussian     N(0, C + error)
any other    p(e / g) / g^n,     g^2 = 1 + mean variance of the error / scale^2
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision

__all__ = ["Rescaled", "Widened", "WidenedGaussian"]


@dataclass(frozen=True)
class Widened(ABC):
    """Noise and error of a batch of data sets.

    Attributes:
        seen: which values count, (batch, n).
    """

    seen: Tensor

    @abstractmethod
    def at(self, index: Tensor) -> "Widened":
        """Those of some of the batch."""

    @abstractmethod
    def log_prob(self, misfit: Tensor) -> Tensor:
        """Log density of misfits (..., batch, n), (..., batch); those that do not count may be NaN.

        A batch of one takes misfits (..., n).
        """


@dataclass(frozen=True)
class WidenedGaussian(Widened):
    """N(0, C + error).

    Attributes:
        precision: of both.
    """

    precision: Precision

    def at(self, index: Tensor) -> "WidenedGaussian":  # noqa: D102
        return WidenedGaussian(self.seen[index], self.precision.at(index))

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        white = self.precision.white(torch.where(self.seen, misfit, 0.0))
        constant = self.precision.log_det - self.seen.sum(-1) * math.log(2 * math.pi)
        return 0.5 * (constant - white.square().sum(-1))


@dataclass(frozen=True)
class Rescaled(Widened):
    """Noise of a larger scale.

    Attributes:
        noise: log density of the noise, NaN for missing values.
        growth: g, (batch, 1).
    """

    noise: Callable[[Tensor], Tensor]
    growth: Tensor

    @classmethod
    def of(
        cls, noise: Callable[[Tensor], Tensor], scale: float, seen: Tensor, error: LowRank
    ) -> "Rescaled":
        """Of noise of this scale."""
        variance = (error.diagonal() * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        return cls(seen, noise, (1 + variance / scale**2).sqrt())

    def at(self, index: Tensor) -> "Rescaled":  # noqa: D102
        return Rescaled(self.seen[index], self.noise, self.growth[index])

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        scaled = torch.where(self.seen, misfit / self.growth, torch.nan)
        found = self.noise(scaled) - self.seen.sum(-1) * self.growth[..., 0].log()
        # What is not finite would count as missing.
        lost = (self.seen & ~torch.isfinite(misfit)).any(-1)
        return torch.where(lost, torch.nan, found)
