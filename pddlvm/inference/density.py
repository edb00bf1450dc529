"""What a method returns: a density of z, or draws of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.basics.random import generator_of
from pddlvm.parameters.space import ParameterSpace

__all__ = ["Density", "Draws", "Later", "log_prob_of_z"]

_N_QUANTILE_DRAWS = 4000


class Density(ABC):
    """p(z | y) for a batch of data sets."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Mean of z, (..., d)."""

    @property
    @abstractmethod
    def std(self) -> Tensor:
        """Standard deviation of z, (..., d)."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of z, (*shape, ..., d), all in the support of the prior."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,)."""

    def quantiles(self, levels: Tensor, *, seed: int) -> Tensor:
        """Quantiles of each parameter at levels (n,), (n, ..., d); from draws unless known."""
        return self.sample((_N_QUANTILE_DRAWS,), seed=seed).quantile(levels, dim=0)

    def propose(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of which `log_prob` is the density, (*shape, ..., d)."""
        return self.sample(shape, seed=seed)


@dataclass(frozen=True)
class Draws(Density):
    """Draws of Markov chains.

    Attributes:
        z: (n_chains, n_draws, ..., d).
    """

    z: Tensor

    @property
    def mean(self) -> Tensor:  # noqa: D102
        return self.z.mean((0, 1))

    @property
    def std(self) -> Tensor:  # noqa: D102
        return self.z.flatten(0, 1).std(0)

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of the chains, drawn again with equal probability."""
        generator = None if seed is None else generator_of(seed)
        pooled = self.z.flatten(0, 1)
        rows = torch.randint(len(pooled), shape, generator=generator)
        return pooled[rows]

    def log_prob(self, z: Tensor) -> Tensor:
        """Not defined."""
        raise InputError(
            "a posterior of draws has no density; 'laplace', 'variational' and 'amortized' have one"
        )


@dataclass(frozen=True)
class Later(Density):
    """A density that is made when it is first asked for something.

    Attributes:
        make: makes it.
    """

    make: Callable[[], Density]

    @cached_property
    def _made(self) -> Density:
        return self.make()

    @property
    def mean(self) -> Tensor:  # noqa: D102
        return self._made.mean

    @property
    def std(self) -> Tensor:  # noqa: D102
        return self._made.std

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        return self._made.sample(shape, seed=seed)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._made.log_prob(z)

    def quantiles(self, levels: Tensor, *, seed: int) -> Tensor:  # noqa: D102
        return self._made.quantiles(levels, seed=seed)

    def propose(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        return self._made.propose(shape, seed=seed)


def log_prob_of_z(
    prior: ParameterSpace, z: Tensor, inside: Tensor, log_prob: Callable[[Tensor], Tensor]
) -> Tensor:
    """Log density of z from that of xi, (...,), -inf outside the support.

    Args:
        prior: of z.
        z: (..., d).
        inside: some z in the support, where the density of xi is asked for in place of one outside.
        log_prob: log density of xi.
    """
    is_inside = prior.contains(z).all(-1)
    xi = prior.standardise(torch.where(is_inside[..., None], z, inside.to(z)))
    return torch.where(is_inside, log_prob(xi) + prior.log_slope(xi), -torch.inf)
