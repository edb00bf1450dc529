"""A Gaussian in unbounded coordinates, as a density of z."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from pddlvm.basics.random import generator_of
from pddlvm.inference.density import Density, log_prob_of_z
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["PushedGaussian"]

_N_NODES = 64
_MOST = 2**22
"""Numbers that are held at a time."""
_FAR = 30.0


@dataclass(frozen=True)
class PushedGaussian(Density):
    """z of w ~ N(0, I), for each data set of a batch.

    Attributes:
        coordinates: from w to xi.
    """

    coordinates: Coordinates

    @property
    def mean(self) -> Tensor:  # noqa: D102
        return self._moments[0]

    @property
    def std(self) -> Tensor:  # noqa: D102
        return self._moments[1]

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        generator = None if seed is None else generator_of(seed)
        size = (*shape, *self.coordinates.centre.shape)
        return self._push(torch.randn(size, generator=generator, dtype=torch.float64))

    def quantiles(self, levels: Tensor, *, seed: int = 0) -> Tensor:
        """Those of each parameter at levels (n,), (n, ..., d): z_i increases with x_i alone."""
        scores = ndtri(levels.double()).reshape(-1, *[1] * self.coordinates.centre.ndim)
        # The tails of a Gaussian have no end, numbers do.
        return self._of_mixed(self._middle + scores.clamp(-_FAR, _FAR) * self._spread)

    def cdf(self, z: Tensor) -> Tensor:
        """Probability of less than each parameter of z, (..., d)."""
        prior = self.coordinates.prior
        x = prior.mixed(self.coordinates.eta_of(prior.standardise(z)))
        return ndtr((x - self._middle) / self._spread)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,), -inf outside the support."""
        return log_prob_of_z(self.coordinates.prior, z, self.mean, self._log_prob)

    def _log_prob(self, xi: Tensor) -> Tensor:
        w = self.coordinates.w_of(xi)
        normal = -0.5 * w.square().sum(-1) - 0.5 * w.shape[-1] * _LOG_2PI
        scale = self.coordinates.factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return normal - scale - self.coordinates.log_jacobian(w)

    def _push(self, w: Tensor) -> Tensor:
        return self.coordinates.prior.unstandardise(self.coordinates.xi_of(w))

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """By Gauss-Hermite quadrature of each parameter: z_i is a function of x_i alone."""
        nodes, weights = (
            torch.from_numpy(a)[:, None, None] for a in np.polynomial.hermite_e.hermegauss(_N_NODES)
        )
        weights, shape = weights / weights.sum(), self._middle.shape
        means, stds, n = [], [], max(1, _MOST // (_N_NODES * shape[-1]))
        flat = (x.reshape(-1, shape[-1]).split(n) for x in (self._middle, self._spread))
        for centre, spread in zip(*flat, strict=True):
            z = self._of_mixed(centre + nodes * spread)
            means.append((weights * z).sum(0))
            stds.append((weights * (z - means[-1]).square()).sum(0).sqrt())
        return torch.cat(means).reshape(shape), torch.cat(stds).reshape(shape)

    @property
    def _middle(self) -> Tensor:
        """Means of x = L eta, (..., d): parameters with bounds are not correlated by the prior."""
        return self.coordinates.prior.mixed(self.coordinates.centre)

    @property
    def _spread(self) -> Tensor:
        """Standard deviations of x, (..., d)."""
        mixing, factor = self.coordinates.prior.mixing, self.coordinates.factor
        return (factor if mixing is None else mixing @ factor).square().sum(-1).sqrt()

    def _of_mixed(self, x: Tensor) -> Tensor:
        prior = self.coordinates.prior
        return prior.of_mixed(Coordinates.plain(prior).xi_of(x))


_LOG_2PI = 1.8378770664093453
