"""Gaussians that are held against the density they approximate, and mended where they are not it.

    w_k  =  p(y | h(xi_k)) p(xi_k) / q(xi_k)

Draws of the right q have equal weights; where these have a heavy tail, k-hat says so. The posterior
of few parameters may be skewed, or lie at a bound, where the data say little; it is then that of
weighted draws of

    q  =  (Gaussian + Gaussian, twice as wide + prior) / 3,

whose weights have a bound (defensive importance sampling: Hesterberg, 1995), if k-hat is good. Of a
bent ridge one Gaussian covers a piece: then the next q has Gaussians around some of the draws.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.quasirandom import SobolEngine
from torch.special import ndtri

from pddlvm.basics.random import generator_of
from pddlvm.inference.density import Density, log_prob_of_z
from pddlvm.latent.surrogate import Surrogate
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sampling.coordinates import FAR, Coordinates
from pddlvm.sampling.resample import resample
from pddlvm.sampling.statistics import khat, smoothed_weights, worth
from pddlvm.sensors.widened import Widened

__all__ = ["FEW", "Gaussians", "Reweighted", "SurrogatePosterior", "reweighted", "tails"]

FEW = 3
"""Parameters up to which weighted draws take the place of a Gaussian."""
_CLOSE = 0.95
"""Share of its draws that weights leave of a Gaussian that needs none."""
_N_HELD, _N_TRIED, _N_DRAWS, _LEAST_WORTH = 256, 64, 512, 200.0
_KHAT = 0.7
_MAX_ROUNDS, _N_KERNELS = 4, 64
_WIDE = 2.0
_MOST = 2**22
"""Numbers that are held at a time."""
_INSIDE = 1e-9
_HALF_LOG_2PI = 0.9189385332046727


@dataclass(frozen=True)
class Gaussians:
    """Mixtures of Gaussians in unbounded coordinates eta, one for each data set.

    Attributes:
        modes: in which each is standard, (n_modes, batch, ...).
        masses: (n_modes, batch).
    """

    modes: Coordinates
    masses: Tensor

    def of(self, rows: Tensor | slice) -> "Gaussians":
        """Those of some data sets."""
        centre, factor = self.modes.centre[:, rows], self.modes.factor[:, rows]
        return Gaussians(Coordinates(self.modes.prior, centre, factor), self.masses[:, rows])

    def widened(self, scale: float) -> "Gaussians":
        """Of larger standard deviations."""
        wide = Coordinates(self.modes.prior, self.modes.centre, scale * self.modes.factor)
        return Gaussians(wide, self.masses)

    def sample(self, n: int, seed: int) -> Tensor:
        """Draws eta, (n, batch, d), of each mode as many as its mass says.

        The same numbers for each data set: what is found does not depend on its neighbours.
        """
        w = ndtri(_evenly(n, self.modes.centre.shape[-1], seed))
        at = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        limits = self.masses.cumsum(0)[:-1]
        k, rows = (at[:, None, None] > limits).sum(1), torch.arange(self.masses.shape[1])
        of = Coordinates(self.modes.prior, self.modes.centre[k, rows], self.modes.factor[k, rows])
        return of.eta(w[:, None])

    def log_prob(self, eta: Tensor) -> Tensor:
        """Log density of eta (n, batch, d), (n, batch)."""
        change = (eta[:, None] - self.modes.centre)[..., None]
        w = torch.linalg.solve_triangular(self.modes.factor, change, upper=False)[..., 0]
        scale = self.modes.factor.diagonal(dim1=-2, dim2=-1).abs().log() + _HALF_LOG_2PI
        return (self.masses.log() - 0.5 * w.square().sum(-1) - scale.sum(-1)).logsumexp(1)


@dataclass(frozen=True)
class SurrogatePosterior:
    """log p(y | h(xi)) + log p(xi) for each data set, the error of h that of its maximum.

    Attributes:
        surrogate: predicts the data.
        y: (batch, n); NaN where nothing was measured.
        noise: with the error.
    """

    surrogate: Surrogate
    y: Tensor
    noise: Widened

    @classmethod
    def around(cls, surrogate: Surrogate, y: Tensor, eta: Tensor) -> "SurrogatePosterior":
        """With the error of the surrogate at eta (batch, d)."""
        error = surrogate.error(Coordinates.plain(surrogate.prior).xi_of(eta))
        return cls(surrogate, y, surrogate.observation.noise.widened(~torch.isnan(y), error))

    @torch.no_grad()
    def log_prob(self, xi: Tensor) -> Tensor:
        """Of xi (n, batch, d) up to a constant, (n, batch); -inf where h is not finite."""
        data = self.surrogate.mean(xi.clamp(-FAR, FAR).flatten(0, 1))
        misfit = self.y - data.reshape(*xi.shape[:2], -1)
        value = self.noise.log_prob(misfit) + self.surrogate.prior.standard_log_prob(xi)
        return torch.where(torch.isfinite(value), value, -torch.inf)

    def of_eta(self, eta: Tensor) -> Tensor:
        """The same as a density of eta."""
        plain = Coordinates.plain(self.surrogate.prior)
        return self.log_prob(plain.xi_of(eta)) + plain.log_jacobian(eta)


def tails(surrogate: Surrogate, y: Tensor, gaussians: Gaussians) -> Tensor:
    """k-hat of the weights of draws of Gaussians, (batch,)."""
    found = _log_ratios(surrogate, y, gaussians, _N_HELD)
    return torch.tensor([khat(one) for one in found.T], dtype=torch.float64)


def _log_ratios(surrogate: Surrogate, y: Tensor, gaussians: Gaussians, n: int) -> Tensor:
    """log w of n draws of the Gaussians, up to a constant, (n, batch)."""
    n_rows, parts = max(1, _MOST // (n * y.shape[1])), []
    for start in range(0, len(y), n_rows):
        rows = slice(start, start + n_rows)
        found = gaussians.of(rows)
        target = SurrogatePosterior.around(surrogate, y[rows], found.modes.centre[0])
        eta = found.sample(n, seed=0)
        parts.append(target.of_eta(eta) - found.log_prob(eta))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class _Weighted:
    """Weighted draws z (n, d) of one data set, and the density that they have."""

    z: Tensor
    weights: Tensor
    target: SurrogatePosterior
    log_evidence: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.z
        return mean, (self.weights @ (self.z - mean).square()).sqrt()

    def quantiles(self, levels: Tensor) -> Tensor:
        """(n_levels, d)."""
        z, order = self.z.sort(dim=0)
        below = self.weights[order].cumsum(0) - 0.5 * self.weights[order]
        at = torch.searchsorted(below.T.contiguous(), levels.expand(z.shape[1], -1).contiguous())
        at = at.T.clamp(1, len(z) - 1)
        (low, high), (left, right) = ((x.gather(0, at - 1), x.gather(0, at)) for x in (z, below))
        share = ((levels[:, None] - left) / (right - left)).clamp(0, 1)
        return low + share * (high - low)


@dataclass(frozen=True)
class Reweighted(Density):
    """Weighted draws for some data sets of a batch, an approximation for the others.

    Attributes:
        approximation: for all data sets.
        parts: the others, by the numbers of their data sets.
    """

    approximation: Density
    parts: Mapping[int, _Weighted]

    @property
    def mean(self) -> Tensor:  # noqa: D102
        return self._with(self.approximation.mean, lambda part: part.moments()[0])

    @property
    def std(self) -> Tensor:  # noqa: D102
        return self._with(self.approximation.std, lambda part: part.moments()[1])

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        generator = generator_of(seed)
        own = int(torch.randint(2**31, (), generator=generator))
        n = torch.Size(shape).numel()

        def draw(part: _Weighted) -> Tensor:
            rows = part.weights.multinomial(max(1, n), replacement=True, generator=generator)
            return part.z[rows[:n]].reshape(*shape, -1)

        return self._with(self.approximation.sample(shape, seed=own), draw)

    def quantiles(self, levels: Tensor, *, seed: int) -> Tensor:  # noqa: D102
        found = self.approximation.quantiles(levels, seed=seed)
        return self._with(found, lambda part: part.quantiles(levels))

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        found = self.approximation.log_prob(z).clone()
        for i, part in self.parts.items():
            prior, at = part.target.surrogate.prior, z[..., i, :]

            def log_prob(xi: Tensor, part: _Weighted = part) -> Tensor:
                flat = part.target.log_prob(xi.reshape(-1, 1, xi.shape[-1]))
                return flat.reshape(xi.shape[:-1]) - part.log_evidence

            found[..., i] = log_prob_of_z(prior, at, part.z[0], log_prob)
        return found

    def _with(self, found: Tensor, own: Callable[[_Weighted], Tensor]) -> Tensor:
        """What the approximation gives, (..., batch, d), with that of the draws in its place."""
        found = found.clone()
        for i, part in self.parts.items():
            found[..., i, :] = own(part)
        return found


def reweighted(
    surrogate: Surrogate, y: Tensor, gaussians: Gaussians, density: Density
) -> tuple[Density, Tensor]:
    """The posterior of few parameters, and k-hat of Gaussians that are left, (batch,).

    It is 0 where a Gaussian is right, or was replaced, and 0.7 or more where draws are worth too
    little: a ridge that is far longer than wide.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        gaussians: approximations.
        density: the same as a density of z.
    """
    shapes, parts = torch.zeros(len(y), dtype=torch.float64), {}
    weights = _log_ratios(surrogate, y, gaussians, _N_TRIED).softmax(0)
    is_close = weights.square().sum(0) * _N_TRIED * _CLOSE < 1
    for i in (~is_close).nonzero()[:, 0].tolist():
        rows = slice(i, i + 1)
        found = _weighted(surrogate, y[rows], gaussians.of(rows))
        if found is None:
            # Never good: the draws were tried, and are worth too little.
            shapes[i] = tails(surrogate, y[rows], gaussians.of(rows)).clamp(min=_KHAT)[0]
        else:
            parts[i] = found
    return (Reweighted(density, parts) if parts else density), shapes


def _weighted(surrogate: Surrogate, y: Tensor, gaussians: Gaussians) -> _Weighted | None:
    """Weighted draws of one data set; None where they are worth too little."""
    target = SurrogatePosterior.around(surrogate, y, gaussians.modes.centre[0])
    for _ in range(_MAX_ROUNDS):
        eta, log_proposal = _proposals(gaussians)
        log_ratios = (target.of_eta(eta) - log_proposal)[:, 0]
        weights = smoothed_weights(log_ratios)
        if khat(log_ratios) < _KHAT and worth(weights) > _LEAST_WORTH:
            z = surrogate.prior.unstandardise(Coordinates.plain(surrogate.prior).xi_of(eta[:, 0]))
            return _Weighted(z, weights, target, log_ratios.logsumexp(0) - math.log(_N_DRAWS))
        gaussians = _kernels(surrogate.prior, eta[:, 0], weights)
    return None


def _proposals(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """Draws eta (n, 1, d), of each part of q as many, and log 3 q (n, 1)."""
    prior, wide, d = gaussians.modes.prior, gaussians.widened(_WIDE), gaussians.modes.prior.size
    is_bounded = torch.isfinite(prior.standard_bounds(torch.zeros(d, dtype=torch.float64))[0])
    anywhere = _evenly(_N_DRAWS, d, seed=2)
    anywhere = torch.where(is_bounded, anywhere.logit(), ndtri(anywhere))[:, None]
    eta = torch.cat([gaussians.sample(_N_DRAWS, 0), wide.sample(_N_DRAWS, 1), anywhere])
    of_prior = torch.where(
        is_bounded, logsigmoid(eta) + logsigmoid(-eta), -0.5 * eta.square() - _HALF_LOG_2PI
    ).sum(-1)
    parts = torch.stack([gaussians.log_prob(eta), wide.log_prob(eta), of_prior])
    return eta, parts.logsumexp(0)


def _kernels(prior: ParameterSpace, eta: Tensor, weights: Tensor) -> Gaussians:
    """Gaussians around some of the draws eta (n, d), as their weights say (West, 1993)."""
    n, d = _N_KERNELS, eta.shape[1]
    centre = eta[resample(weights, n, torch.Generator().manual_seed(0))]
    factor = n ** (-1 / (d + 4)) * Coordinates.of_draws(prior, centre).factor
    masses = torch.full((n, 1), 1 / n, dtype=torch.float64)
    return Gaussians(Coordinates(prior, centre[:, None], factor.expand(n, 1, d, d)), masses)


def _evenly(n: int, d: int, seed: int) -> Tensor:
    """Points of the unit cube, (n, d), more even than random ones (Sobol, scrambled)."""
    points = SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return points.clamp(_INSIDE, 1 - _INSIDE)
