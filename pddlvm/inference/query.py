"""What a method of inference is asked, and what all of them begin with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, nobody
from pddlvm.inference.density import Density
from pddlvm.inference.finite_element_surrogate import FiniteElements
from pddlvm.inference.laplace import Laplace, laplace
from pddlvm.inference.resumed import Kept
from pddlvm.inference.search import search
from pddlvm.inference.surrogate_density import Standardised, SurrogateDensity, standardise
from pddlvm.latent.core import LatentModel
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sensors.observation import Observation

__all__ = ["Network", "Query"]

Network = Callable[[Observation, Tensor], Density]
"""Gives the density of data by what was, or is, trained for such sensors."""


@dataclass(frozen=True)
class Query:
    """What a method is asked.

    Attributes:
        model: trained.
        observation: sensors and noise.
        network: of "amortized".
        surrogate: predicts the data.
        y: data sets, (n_data, n), float64.
        n_samples: draws of each posterior, all chains together.
        n_chains: Markov chains.
        seed: of everything random.
        start: unbounded parameters near the maxima, (n_data, n_starts, d), where they are known.
        kept: where what was found is kept, if anywhere.
    """

    model: LatentModel
    observation: Observation
    network: Network
    surrogate: Surrogate
    y: Tensor
    n_samples: int = 1000
    n_chains: int = 4
    seed: int = 0
    start: Tensor | None = None
    kept: Kept | None = None

    @cached_property
    def laplace(self) -> Laplace:
        """Laplace approximations of the data sets."""
        return self.searched(nobody)

    def searched(self, watch: Watch) -> Laplace:
        """The same, searched for anew."""
        if self.start is None:
            return search(self.surrogate, self.y, watch, self.kept)
        return laplace(self.surrogate, self.y, self.start, is_near=True)

    @cached_property
    def finite_elements(self) -> Laplace:
        """The same under the finite element model itself."""
        return self.by_finite_elements(slice(None))

    def by_finite_elements(self, rows: slice) -> Laplace:
        """The same of some data sets."""
        centre = self.laplace.modes.centre
        # Where the surrogate found nothing, the centre of the prior is as good.
        start = torch.where(self.laplace.converged[:, None], centre, 0.0)[:, rows]
        return laplace(FiniteElements(self.sensors), self.y[rows], start.transpose(0, 1))

    @property
    def n_draws(self) -> int:
        """Of each chain."""
        return -(-self.n_samples // self.n_chains)

    @cached_property
    def sensors(self) -> Observation:
        """Those of the observation, for z as the model has it."""
        return self.observation.of(self.model.problem)

    @property
    def generator(self) -> torch.Generator:
        """A new generator from the seed."""
        return torch.Generator().manual_seed(self.seed)

    def density(self, rows: range) -> SurrogateDensity:
        """The surrogate densities of some data sets around their modes."""
        modes = [self.laplace.modes_of(i) for i in rows]
        y = self.y[rows.start : rows.stop]
        return SurrogateDensity.around(self.surrogate, y, modes, self.generator)

    def standardised(self, rows: range, watch: Watch = nobody) -> Standardised:
        """The surrogate densities of some data sets, explored from their modes."""
        modes = [self.laplace.modes_of(i) for i in rows]
        masses = [self.laplace.masses[: len(own), i] for own, i in zip(modes, rows, strict=True)]
        y = self.y[rows.start : rows.stop]
        return standardise(self.surrogate, y, modes, masses, self.generator, watch)
