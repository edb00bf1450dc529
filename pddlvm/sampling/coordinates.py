"""Unbounded coordinates w of the parameters, in which a posterior is about standard normal.

    xi = T(eta),   eta = centre + L w

T is the identity where the prior is unbounded, else low + (high - low) sigmoid(eta): searches and
chains need a smooth map. The error bars of the inverse map need none, and are truncated instead
(`pddlvm.latent.inverse`): at a bound an error has the size that it has elsewhere.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pddlvm.parameters.space import ParameterSpace

__all__ = ["FAR", "Coordinates"]

FAR = 12.0
"""Standard deviations of the prior beyond which no search goes, and no prediction is believed."""

_MARGIN = 1e-3
_FLOOR = 1e-8


@dataclass(frozen=True)
class Coordinates:
    """The map between w and xi, float64.

    Attributes:
        prior: the bounds of xi.
        centre: eta at w = 0, (..., d), for each data set of a batch.
        factor: L, lower triangular, (..., d, d).
    """

    prior: ParameterSpace
    centre: Tensor
    factor: Tensor

    @classmethod
    def plain(cls, prior: ParameterSpace) -> "Coordinates":
        """w = eta."""
        zero = torch.zeros(prior.size, dtype=torch.float64)
        return cls(prior, zero, torch.eye(prior.size, dtype=torch.float64))

    @classmethod
    def of_draws(cls, prior: ParameterSpace, eta: Tensor) -> "Coordinates":
        """Standardised by the mean and covariance of draws (n, d), shrunk a little."""
        n, d = eta.shape
        covariance = torch.cov(eta.T).reshape(d, d)
        shrunk = (n * covariance + 5 * covariance.diagonal().diag()) / (n + 5)
        floor = _FLOOR * torch.eye(d, dtype=eta.dtype)
        return cls(prior, eta.mean(0), torch.linalg.cholesky(shrunk + floor))

    def xi_of(self, w: Tensor) -> Tensor:
        """Standard parameters, (..., d)."""
        eta = self.eta(w)
        low, high = self.prior.standard_bounds(eta)
        bounded = torch.isfinite(low)
        if not bounded.any():
            return eta
        inside = low.nan_to_num(neginf=0) + (high - low).nan_to_num(posinf=0) * eta.sigmoid()
        return torch.where(bounded, inside, eta)

    def eta(self, w: Tensor) -> Tensor:
        """Unbounded parameters, (..., d)."""
        return self.centre + (self.factor @ w[..., None])[..., 0]

    def eta_of(self, xi: Tensor) -> Tensor:
        """Unbounded parameters of xi, (..., d); xi on a bound is moved inside a little."""
        low, high = self.prior.standard_bounds(xi)
        bounded = torch.isfinite(low)
        share = (xi - low.nan_to_num(neginf=0)) / (high - low).nan_to_num(posinf=1)
        return torch.where(bounded, share.clamp(_MARGIN, 1 - _MARGIN).logit(), xi)

    def w_of(self, xi: Tensor) -> Tensor:
        """The inverse of `xi_of`."""
        right = (self.eta_of(xi) - self.centre)[..., None]
        return torch.linalg.solve_triangular(self.factor, right, upper=False)[..., 0]

    def log_jacobian(self, w: Tensor) -> Tensor:
        """log |dxi / deta|, (...,): that of the linear map is a constant."""
        low, high = self.prior.standard_bounds(w)
        bounded = torch.isfinite(low)
        if not bounded.any():
            return torch.zeros_like(w[..., 0])
        eta = self.eta(w)
        length = torch.where(bounded, (high - low).log(), 0.0)
        inside = length + logsigmoid(eta) + logsigmoid(-eta)
        return torch.where(bounded, inside, 0.0).sum(-1)

    def moved(self, mean: Tensor, factor: Tensor) -> "Coordinates":
        """Those in which N(mean, factor factor^T) of w is standard."""
        return Coordinates(self.prior, self.eta(mean), self.factor @ factor)

    def of(self, i: Any) -> "Coordinates":
        """Those of one data set of a batch, or of some; `i` is any index of its axes."""
        return Coordinates(self.prior, self.centre[i], self.factor[i])

    def slope(self, w: Tensor) -> Tensor:
        """dxi / deta, (..., d)."""
        eta = self.eta(w)
        low, high = self.prior.standard_bounds(eta)
        s = eta.sigmoid()
        inside = (high - low).nan_to_num(posinf=0) * s * (1 - s)
        return torch.where(torch.isfinite(low), inside, 1.0)

    def log_prior(self, w: Tensor) -> Tensor:
        """Log density of eta under the prior up to a constant, (...,)."""
        eta = self.eta(w)
        bounded = torch.isfinite(self.prior.standard_bounds(eta)[0])
        return self.log_jacobian(w) - 0.5 * torch.where(bounded, 0.0, eta.square()).sum(-1)

    def prior_slope(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """First and minus the second derivative of `log_prior` by eta, (..., d) each."""
        eta = self.eta(w)
        bounded = torch.isfinite(self.prior.standard_bounds(eta)[0])
        s = eta.sigmoid()
        return torch.where(bounded, 1 - 2 * s, -eta), torch.where(bounded, 2 * s * (1 - s), 1.0)
