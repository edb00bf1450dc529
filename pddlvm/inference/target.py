"""Unnormalised posterior densities of one data set, with gradients.

The forward map is cheap and a little off, its Galerkin correction accurate and dearer. Where the
posterior is, their difference is smooth:

    h(xi)  =  h_map(xi) + B (1, w),      |w_i| <= 4,

with B by least squares on draws w ~ N(0, I), makes the map as accurate as its correction there.
Far in the tails of the prior, where the map knows nothing, B (1, w) alone may fit better: then it
stands alone. What the fit leaves, and the error of the correction, widen the noise.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.errors import ConvergenceError
from pddlvm.inference.adjoint import FiniteElementPosterior
from pddlvm.inference.coordinates import Coordinates
from pddlvm.inference.surrogate import Surrogate
from pddlvm.noise import Noise

__all__ = ["FiniteElementTarget", "SurrogateTarget", "Target"]

_N_DRAWS = 128
_REACH = 4.0


class Target(ABC):
    """log p(w | y) up to a constant in the coordinates w.

    Args:
        coordinates: w.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """Log density at w (batch, d), (batch,)."""

    @abstractmethod
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (batch,) and its gradient (batch, d)."""


class SurrogateTarget(Target):
    """N(y; h(xi), noise + error of h) p(xi), differentiable.

    Args:
        surrogate: predicts the data.
        y: data, (n,), float64; NaN where nothing was measured.
        coordinates: w, in which the density is about standard.
        generator: for the draws that B is fitted to.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        y: Tensor,
        coordinates: Coordinates,
        generator: torch.Generator,
    ) -> None:
        super().__init__(coordinates)
        self.surrogate = surrogate
        self.data = y
        self.seen = ~torch.isnan(y)
        self.y = y[self.seen]
        d = len(coordinates.centre)
        error = surrogate.covariance(coordinates.xi_of(torch.zeros(1, d, dtype=y.dtype)))[0]
        self.weights: Tensor | None = None
        self.needs_map = True
        self.reach = _REACH
        if surrogate.corrections:
            w = torch.randn(_N_DRAWS + 4 * d, d, generator=generator, dtype=y.dtype)
            xi = coordinates.xi_of(w)
            with torch.no_grad():
                corrected = surrogate.mean(xi)
                with_map = _Fit.of(_linear(w, _REACH), corrected - surrogate.predict(xi))
                alone = _Fit.of(_linear(w, math.inf), corrected)
            self.needs_map = with_map.size <= alone.size
            # Beyond its draws a correction of the map stays what it is; without the map it goes on.
            fit, self.reach = (with_map, _REACH) if self.needs_map else (alone, math.inf)
            error = error + fit.covariance
            self.weights = fit.weights[:, self.seen]
        self.noise: Noise = surrogate.observation.noise.of_seen(self.seen, error)

    def moved_to(self, coordinates: Coordinates, generator: torch.Generator) -> "SurrogateTarget":
        """The same data in other coordinates, the map corrected around their centre."""
        return SurrogateTarget(self.surrogate, self.data, coordinates, generator)

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density of xi (batch, d), differentiable, (batch,)."""
        return self._log_prob(xi, self.coordinates.w_of(xi))

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        xi = self.coordinates.xi_of(w)
        return self._log_prob(xi, w) + self.coordinates.log_jacobian(w)

    def _log_prob(self, xi: Tensor, w: Tensor) -> Tensor:
        data = xi.new_zeros(len(self.y))
        if self.needs_map:
            data = self.surrogate.predict(xi)[..., self.seen]
        if self.weights is not None:
            data = data + _linear(w, self.reach) @ self.weights
        return self.noise.log_prob(self.y - data) + self.surrogate.prior.standard_log_prob(xi)

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            value = self.value(at)
            (gradient,) = torch.autograd.grad(value.sum(), at)
        return value.detach(), gradient


class FiniteElementTarget(Target):
    """The posterior under the finite element likelihood.

    Args:
        posterior: log density of xi.
        coordinates: w.
    """

    def __init__(self, posterior: FiniteElementPosterior, coordinates: Coordinates) -> None:
        super().__init__(coordinates)
        self.posterior = posterior

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        xi = self.coordinates.xi_of(w)
        try:
            value = self.posterior.log_prob(xi)
        except ConvergenceError:
            # Without a solution there is no density; one by one, to find out where.
            if len(w) > 1:
                return torch.cat([self.value(one[None]) for one in w])
            value = torch.full((1,), -torch.inf, dtype=w.dtype)
        return value + self.coordinates.log_jacobian(w)

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            xi = self.coordinates.xi_of(at)
            jacobian = self.coordinates.log_jacobian(at)
            try:
                value, slope = self.posterior.log_prob_and_gradient(xi.detach())
            except ConvergenceError:
                if len(w) > 1:
                    parts = [self.value_and_gradient(one[None]) for one in w]
                    values, gradients = zip(*parts, strict=True)
                    return torch.cat(values), torch.cat(gradients)
                return torch.full((1,), -torch.inf, dtype=w.dtype), torch.zeros_like(w)
            (gradient,) = torch.autograd.grad((xi * slope).sum() + jacobian.sum(), at)
        return value + jacobian.detach(), gradient


def _linear(w: Tensor, reach: float) -> Tensor:
    return torch.cat([torch.ones_like(w[..., :1]), w.clamp(-reach, reach)], dim=-1)


@dataclass(frozen=True)
class _Fit:
    """Least squares: weights (n_features, n), and the covariance (n, n) of what they leave."""

    weights: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor, values: Tensor) -> "_Fit":
        weights = torch.linalg.lstsq(features, values).solution
        rest = values - features @ weights
        return cls(weights, rest.T @ rest / (len(features) - features.shape[1]))

    @property
    def size(self) -> float:
        return float(self.covariance.trace())
