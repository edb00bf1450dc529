"""What the forward maps return, whatever u is made of: distributions of solutions."""

from dataclasses import dataclass
from typing import Protocol

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.checks import check_level
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.linalg.low_rank import LowRank

__all__ = ["OneField", "Prediction", "symmetric_interval", "unflatten"]


class Prediction(Protocol):
    """q(u | z); what is beyond the mean is computed when it is asked for."""

    @property
    def mean(self) -> Tensor:
        """Mean of u, (..., n)."""

    @property
    def std(self) -> Tensor:
        """Root mean square of its error, (..., n)."""

    @property
    def residual_norm(self) -> Tensor:
        """Certificate of the mean, (...,)."""

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each value, (..., n) each."""

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of u, (*shape, ..., n)."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of u, (...,)."""

    def covariance(self, rows: Tensor) -> Tensor:
        """Covariance of linear functionals, rows (k, n) -> (..., k, k)."""

    def error_of(self, rows: sp.csr_matrix) -> LowRank:
        """The same by its parts, for sparse rows and batches (batch, n), float64 on the CPU."""


@dataclass(frozen=True)
class OneField:
    """One field of a solution that has several.

    Attributes:
        whole: of all fields.
        dofs: where it is.
    """

    whole: Prediction
    dofs: slice

    @property
    def mean(self) -> Tensor:
        """Mean, (..., n)."""
        return self.whole.mean[..., self.dofs]

    @property
    def std(self) -> Tensor:
        """Standard deviation, (..., n); zero on its Dirichlet boundary."""
        return self.whole.std[..., self.dofs]

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each value, (..., n) each."""
        lower, upper = self.whole.interval(level)
        return lower[..., self.dofs], upper[..., self.dofs]

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws, (*shape, ..., n)."""
        return self.whole.sample(shape, seed=seed)[..., self.dofs]


def symmetric_interval(
    mean: Tensor, std: Tensor, shape: ErrorShape, level: float
) -> tuple[Tensor, Tensor]:
    """The central interval of mean + std s, s of this shape."""
    width = shape.half_width(check_level(level)).to(std)
    # One for all values, or one for each of them.
    half = std * (width if shape.values.ndim == 1 else width[:, 0])
    return mean - half, mean + half


def unflatten(x: Tensor, batch: torch.Size) -> Tensor:
    """(n_batch, n) -> (*batch, n), also for an empty batch."""
    return x.reshape(*batch, x.shape[-1])
