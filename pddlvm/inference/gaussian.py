"""A Gaussian posterior in the standard coordinates xi, cut off at the support of the prior."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.parameters import ParameterSpace
from pddlvm.predictions import Inverse

__all__ = ["GaussianDensity"]

_TRIES = 20


@dataclass(frozen=True)
class GaussianDensity:
    """N(mean, covariance) of xi, for each data set of a batch.

    Attributes:
        xi_mean: (..., d), in the support.
        xi_covariance: (..., d, d).
        prior: with the support.
    """

    xi_mean: Tensor
    xi_covariance: Tensor
    prior: ParameterSpace

    @property
    def mean(self) -> Tensor:
        """Mean of z, (..., d); with the marginals cut off one by one where there are bounds."""
        return self._marginals.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation of z, (..., d)."""
        return self._marginals.std

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of z, (*shape, ..., d); draws outside of the support are drawn again."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        low, high = self.prior.standard_bounds(self.xi_mean)
        size = (*shape, *self.xi_mean.shape)
        xi = self._draw(size, generator)
        for _ in range(_TRIES):
            outside = ((xi < low) | (xi > high)).any(-1, keepdim=True)
            if not outside.any():
                break
            xi = torch.where(outside, self._draw(size, generator), xi)
        return self.prior.unstandardise(self.prior.clamp_standard(xi))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,), -inf outside the support; not normalised to it."""
        inside = self.prior.contains(z).all(-1)
        xi = self.prior.standardise(torch.where(inside[..., None], z, self.mean.to(z)))
        density = torch.distributions.MultivariateNormal(
            self.xi_mean.to(z), scale_tril=self._factor.to(z), validate_args=False
        ).log_prob(xi)
        jacobian = self.prior.log_prob(self.prior.unstandardise(xi))
        jacobian = jacobian - self.prior.standard_log_prob(xi)
        return torch.where(inside, density + jacobian, -torch.inf)

    @cached_property
    def _factor(self) -> Tensor:
        return torch.linalg.cholesky(self.xi_covariance)

    @cached_property
    def _marginals(self) -> Inverse:
        variance = self.xi_covariance.diagonal(dim1=-2, dim2=-1)
        return Inverse(self.xi_mean, variance.sqrt(), self.prior)

    def _draw(self, size: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(size, generator=generator, dtype=torch.float64).to(self.xi_mean)
        return self.xi_mean + (self._factor @ noise[..., None])[..., 0]
