"""Proposals for the draws of one amortised posterior, and the density that they are weighed by.

    q(z)  =  q_network(z | y)   or   (q_network(z | y) + q_Laplace(z | y)) / 2
    p(z)  ~  p(y | h(z)) p(z),   h corrected where the posterior is

Now and then, for data in the tails, the network is not where the posterior is; where it is a ridge,
the Laplace approximation is not. The latter joins where it is worth it. Where the posterior is, the
draws of both tell, weighed by the forward map as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.inference.density import Density
from pddlvm.inference.laplace import Laplace
from pddlvm.inference.mixture import Mixture
from pddlvm.inference.surrogate_density import SurrogateTarget
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import FAR, Coordinates
from pddlvm.sampling.resample import resample
from pddlvm.sampling.statistics import smoothed_weights, worth

__all__ = ["Proposals"]

_LEAST_WORTH = 0.25
_N_TRIED = 256
_SEED = 0


@dataclass(frozen=True)
class Proposals:
    """Of one data set; densities are of a batch of one.

    Attributes:
        surrogate: predicts the data.
        y: data, (n,).
        network: what the network says.
        is_foreign: are the data unlike those of its training? Then it may say anything.
        find_laplace: gives the Laplace approximation, None where it was not found.
    """

    surrogate: Surrogate
    y: Tensor
    network: Density
    is_foreign: bool
    find_laplace: Callable[[], Laplace | None]

    @cached_property
    def density(self) -> Density:
        """q."""
        gaussian = self._gaussian
        if gaussian is None:
            return self.network
        z = gaussian.sample((_N_TRIED,), seed=_SEED)
        weights = smoothed_weights(self.log_target(z[:, 0]) - gaussian.log_prob(z)[:, 0])
        if self.is_foreign or worth(weights) > _LEAST_WORTH * _N_TRIED:
            return Mixture([self.network, gaussian])
        return self.network

    @torch.no_grad()
    def log_target(self, z: Tensor) -> Tensor:
        """log p of z (n, d) up to a constant, (n,)."""
        prior = self.surrogate.prior
        xi = prior.standardise(z)
        chains = torch.zeros(len(xi), dtype=torch.long)
        return self._target.of(chains).log_prob(xi) + prior.log_slope(xi)

    @cached_property
    def _laplace(self) -> Laplace | None:
        return self.find_laplace()

    @property
    def _gaussian(self) -> Density | None:
        return None if self._laplace is None else self._laplace.density

    @cached_property
    def _target(self) -> SurrogateTarget | Charts:
        """One for all draws: the correction is dear. Around each mode, where there are several."""
        generator = torch.Generator().manual_seed(_SEED)
        laplace = self._laplace
        modes = [] if laplace is None else laplace.modes_of(0)
        around = modes if len(modes) > 1 else [self._around]
        targets = [SurrogateTarget(self.surrogate, self.y, one, generator) for one in around]
        return targets[0] if len(targets) == 1 else Charts.of_parts(targets, 1)

    @property
    def _around(self) -> Coordinates:
        if self.is_foreign and self._laplace is not None:
            return self._laplace.coordinates.of(0)
        prior, generator = self.surrogate.prior, torch.Generator().manual_seed(_SEED)
        plain = Coordinates.plain(prior)
        both = Mixture([self.network] if self._gaussian is None else [self.network, self._gaussian])
        z = both.sample((_N_TRIED,), seed=_SEED)
        xi = prior.standardise(z[:, 0])
        rough = SurrogateTarget(self.surrogate.uncorrected(), self.y, plain, generator)
        log_ratios = rough.log_prob(xi) + prior.log_slope(xi) - both.log_prob(z)[:, 0]
        rows = resample(smoothed_weights(log_ratios), _N_TRIED, generator)
        return Coordinates.of_draws(prior, plain.eta_of(xi[rows]).clamp(-FAR, FAR))
