"""A Gaussian in unbounded coordinates, as a density of z."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.inference.density import Density, log_prob_of_z
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["PushedGaussian"]

_N_NODES = 64


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
        """By Gauss-Hermite quadrature of each parameter: z_i is a function of eta_i alone."""
        here = self.coordinates
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(_N_NODES))
        weights = (weights / weights.sum()).reshape(-1, *[1] * here.centre.ndim)
        std = here.factor.square().sum(-1).sqrt()
        eta = here.centre + nodes.reshape(weights.shape) * std
        z = here.prior.unstandardise(Coordinates.plain(here.prior).xi_of(eta))
        mean = (weights * z).sum(0)
        return mean, (weights * (z - mean).square()).sum(0).sqrt()


_LOG_2PI = 1.8378770664093453
