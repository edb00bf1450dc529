"""Unnormalised posterior densities of one data set, with gradients.

The forward map is cheap and a little off, its Galerkin correction accurate and dearer. Where the
posterior is, their difference is smooth:

    h(xi)  =  h_map(xi) + B (1, w),      |w_i| <= 4,

with B by least squares on draws w ~ N(0, I), makes the map about as accurate as its correction
there; draws are corrected by what that leaves out. Far in the tails of the prior, where the map
knows nothing, B (1, w) alone may fit better: then it stands alone. What the fit leaves, and the
error of the correction, widen the noise. Corrections that fail are left out; where many do, the map
stays as it is. Far beyond the prior, where a network may say anything, predictions stay what they
are at the edge, and the prior decides.

Chains on it start at the Laplace approximation. Where the draws of a mode are wider or narrower
than it says, its coordinates are standardised by the draws, and the chains go on. Small steps are
cheap here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.basics.parallel import Watch, nobody
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import FAR, Coordinates
from pddlvm.sampling.explore import begin, cautious, explore
from pddlvm.sampling.target import Target

__all__ = ["SurrogateTarget", "standardise"]

_N_DRAWS = 128
_REACH = 4.0
_LEAST_GOOD = 0.75
_LARGEST_RATIO = 1e6
_N_CHAINS = 64
_N_STEPS = 60
_MAX_WINDOWS = 6
_WIDEST = 1.5


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
        d = len(coordinates.centre)
        self.weights: Tensor | None = None
        self.needs_map = True
        self.reach = _REACH
        left = y.new_zeros(len(y), 0)
        if surrogate.corrections:
            w = torch.randn(_N_DRAWS + 4 * d, d, generator=generator, dtype=y.dtype)
            xi = _near(coordinates.xi_of(w))
            with torch.no_grad():
                corrected = surrogate.mean(xi)
            good = _plausible(corrected)
            if good.double().mean() > _LEAST_GOOD:
                left = self._fit(w[good], xi[good], corrected[good])
            else:
                surrogate = surrogate.uncorrected()
        centre = _near(coordinates.xi_of(torch.zeros(1, d, dtype=y.dtype)))
        error, noise = surrogate.error(centre), surrogate.observation.noise
        self.noise_of_corrected = noise.widened(self.seen[None], error)
        self.noise = noise.widened(self.seen[None], error.plus(left[None]))

    def _fit(self, w: Tensor, xi: Tensor, corrected: Tensor) -> Tensor:
        """Fit B to corrected predictions, and return a factor of the covariance of the rest."""
        with torch.no_grad():
            predicted = self.surrogate.predict(xi)
        with_map = _Fit.of(_linear(w, _REACH), corrected - predicted)
        alone = _Fit.of(_linear(w, math.inf), corrected)
        self.needs_map = with_map.size <= alone.size
        # Beyond its draws a correction of the map stays what it is; without the map it goes on.
        fit, self.reach = (with_map, _REACH) if self.needs_map else (alone, math.inf)
        self.weights = fit.weights
        return fit.factor

    def moved_to(self, coordinates: Coordinates, generator: torch.Generator) -> "SurrogateTarget":
        """The same data in other coordinates, the map corrected around their centre."""
        return SurrogateTarget(self.surrogate, self.data, coordinates, generator)

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density of xi (batch, d), differentiable, (batch,)."""
        return self._log_prob(xi, self.coordinates.w_of(xi))

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        xi = self.coordinates.xi_of(w)
        return self._log_prob(xi, w) + self.coordinates.log_jacobian(w)

    @torch.no_grad()
    def left_out(self, w: Tensor) -> Tensor:
        """What the fit of the correction leaves, of log densities at w (batch, d), (batch,)."""
        if self.weights is None:
            return super().left_out(w)
        xi = self.coordinates.xi_of(w)
        corrected = self.noise_of_corrected.log_prob(self.data - self.surrogate.mean(_near(xi)))
        return _finite(corrected) - _finite(self.noise.log_prob(self.data - self._data(xi, w)))

    def _log_prob(self, xi: Tensor, w: Tensor) -> Tensor:
        value = self.noise.log_prob(self.data - self._data(xi, w))
        return _finite(value + self.surrogate.prior.standard_log_prob(xi))

    def _data(self, xi: Tensor, w: Tensor) -> Tensor:
        data = xi.new_zeros(len(self.data))
        if self.needs_map:
            data = self.surrogate.predict(_near(xi))
        if self.weights is not None:
            data = data + _linear(w, self.reach) @ self.weights
        return data

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            value = self.value(at)
            (gradient,) = torch.autograd.grad(value.sum(), at)
        return value.detach(), gradient


@torch.no_grad()
def standardise(
    modes: Sequence[SurrogateTarget],
    masses: Tensor,
    generator: torch.Generator,
    watch: Watch = nobody,
) -> tuple[Charts, Tensor, float]:
    """The same density in better coordinates, draws eta (n_chains, d) of it, and a step size.

    Args:
        modes: the density, in the coordinates of each of its modes.
        masses: about those of the modes, (n_modes,).
        generator: of everything random.
        watch: is told the share that is done, half of what is left with each window.

    Raises:
        ConvergenceError: no chain is where the density is positive.
    """
    target = Charts(modes)
    start = begin(target, masses, _N_CHAINS, generator)
    visited, step = _window(target, start, generator, watch, 0)
    for k in range(_MAX_WINDOWS):
        # The second half of the window; its spread along each direction is 1 where all is well.
        recent = visited[_N_STEPS // 2 :].flatten(0, 1)
        better = [
            part if here is None else part.moved_to(here, generator)
            for part, here in zip(modes, target.standardised(recent, _WIDEST), strict=True)
        ]
        if all(new is old for new, old in zip(better, modes, strict=True)):
            break
        modes, target = better, Charts(better)
        visited, step = _window(target, visited[-1], generator, watch, k + 1)
    inside = visited[-1][torch.isfinite(target.value(visited[-1]))]
    if len(inside) == 0:
        raise ConvergenceError(
            "no draw has a positive density: the data contradict the model, its noise or its prior"
        )
    return target, inside, step


def _window(
    target: Charts, start: Tensor, generator: torch.Generator, watch: Watch, k: int
) -> tuple[Tensor, float]:
    """The k-th one: where chains are, (n_steps, n_chains, d), and their step size."""

    def tell(share: float) -> None:
        watch(1 - 0.5**k * (1 - 0.5 * share))

    return explore(target, start, _N_STEPS, generator, acceptance=cautious, watch=tell)


def _near(xi: Tensor) -> Tensor:
    return xi.clamp(-FAR, FAR)


def _plausible(data: Tensor) -> Tensor:
    """Which predictions (batch, n) are finite, and not a million times larger than most."""
    size, finite = data.abs().amax(-1), torch.isfinite(data).all(-1)
    # The median of nothing is NaN.
    return finite & (size <= _LARGEST_RATIO * size[finite].median())


def _finite(log_density: Tensor) -> Tensor:
    return torch.where(torch.isfinite(log_density), log_density, -torch.inf)


def _linear(w: Tensor, reach: float) -> Tensor:
    return torch.cat([torch.ones_like(w[..., :1]), w.clamp(-reach, reach)], dim=-1)


@dataclass(frozen=True)
class _Fit:
    """Least squares: weights (n_features, n), and F (n, n_draws) of what they leave, F F^T."""

    weights: Tensor
    factor: Tensor

    @classmethod
    def of(cls, features: Tensor, values: Tensor) -> "_Fit":
        # The driver that is taken by default rounds differently from call to call.
        weights = torch.linalg.lstsq(features, values, driver="gelsd").solution
        rest = values - features @ weights
        return cls(weights, rest.T / (len(features) - features.shape[1]) ** 0.5)

    @property
    def size(self) -> float:
        return float(self.factor.square().sum())
