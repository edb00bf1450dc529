"""Draws of an approximate posterior, resampled by the density that it approximates.

    z_k ~ q(z | y),   drawn again with probability  w_k ~ p(y | h(z_k)) p(z_k) / q(z_k | y)

(Rubin, 1988; for neural q Dax et al., 2023), with the tail of the weights smoothed (Vehtari et al.,
2024). A network that is trained for a minute is a little wider than the posterior; where the
parameters lie on a thin, curved ridge that little is much in u. Proposals are drawn until they are
worth as many independent draws as are asked for, or are 32 times as many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.amortized.proposals import Proposals
from pddlvm.basics.random import generator_of
from pddlvm.inference.density import Density
from pddlvm.sampling.resample import resample
from pddlvm.sampling.statistics import smoothed_weights, worth

__all__ = ["Resampled"]

_LEAST = 512
_MOST = 65536
_PER_DRAW = 32
_N_MOMENTS = 1000


@dataclass(frozen=True)
class Resampled(Density):
    """Resampled draws; mean, std and log density are those of an approximation, as a rule.

    Attributes:
        approximation: for all data sets.
        proposals: of each data set. Mean and std of foreign ones are those of draws.
    """

    approximation: Density
    proposals: Sequence[Proposals]

    @property
    def mean(self) -> Tensor:  # noqa: D102
        return self._moments[0]

    @property
    def std(self) -> Tensor:  # noqa: D102
        return self._moments[1]

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        generator = generator_of(seed)
        n = torch.Size(shape).numel()
        found = [_draws(one, n, generator) for one in self.proposals]
        return torch.stack(found, dim=1).reshape(*shape, len(found), -1)

    def propose(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        return self.approximation.propose(shape, seed=seed)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        return self.approximation.log_prob(z)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, std = self.approximation.mean.clone(), self.approximation.std.clone()
        for i, one in enumerate(self.proposals):
            if one.is_foreign:
                z = _draws(one, _N_MOMENTS, generator_of(0))
                mean[i], std[i] = z.mean(0), z.std(0)
        return mean, std


def _draws(proposals: Proposals, n: int, generator: torch.Generator) -> Tensor:
    """(n, d) of one data set."""
    most = max(n, min(_MOST, max(_PER_DRAW * n, 2 * _LEAST)))
    q, z, log_ratios = proposals.density, [], []
    size = min(most, max(n, _LEAST))
    while size > 0:
        seed = int(torch.randint(2**31, (), generator=generator))
        new = q.sample((size,), seed=seed)
        z.append(new[:, 0])
        log_ratios.append(proposals.log_target(new[:, 0]) - q.log_prob(new)[:, 0])
        weights = smoothed_weights(torch.cat(log_ratios))
        # As many as it takes if the rest are worth as much as those so far.
        wanted = math.ceil(n / worth(weights) * len(weights))
        size = min(wanted, most) - len(weights)
    return torch.cat(z)[resample(weights, n, generator)]
