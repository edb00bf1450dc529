"""The result of an inference: p(z | y), what it says about u, and how far to trust it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count, check_level, check_shape
from pddlvm.basics.errors import InputError
from pddlvm.basics.parallel import Watch, each
from pddlvm.basics.unchanged import Unchanged
from pddlvm.inference.density import Density
from pddlvm.inference.diagnostics import Diagnostics
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from pddlvm.latent.core import LatentModel
from pddlvm.parameters.priors import Prior
from pddlvm.sampling.statistics import khat
from pddlvm.sensors.model_error import Discrepant
from pddlvm.sensors.observation import Observation

__all__ = ["Level", "Posterior", "PosteriorError", "PosteriorSolution"]

_N_LEVELS, _LEVEL_SEED = 400, 5
"""Draws of z, each with a draw of what is unknown of the noise."""


@dataclass(frozen=True)
class PosteriorSolution:
    """What the data say about u.

    Attributes:
        mean: (..., n_dofs).
        std: (..., n_dofs); spread of the parameters, and the error of the map where one was used.
        samples: (n_samples, ..., n_dofs).
    """

    mean: Tensor
    std: Tensor
    samples: Tensor = field(repr=False)


@dataclass(frozen=True)
class Level:
    """What the data say about a level that was not known: a standard deviation.

    Attributes:
        samples: (n_samples, ...), of as many draws of z.
    """

    samples: Tensor = field(repr=False)

    @property
    def mean(self) -> Tensor:
        """Mean, (...,)."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation, (...,)."""
        return self.samples.std(0)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval, (...,) each."""
        tail = 0.5 - 0.5 * check_level(level)
        return self.samples.quantile(tail, dim=0), self.samples.quantile(1 - tail, dim=0)


@dataclass(frozen=True)
class PosteriorError:
    """What the data say about a model error at the sensors, those that did not measure too.

    Attributes:
        mean: (..., n).
        std: (..., n).
        level: of its standard deviation over all data, where that is unknown.
        samples: (n_samples, ..., n).
    """

    mean: Tensor
    std: Tensor
    level: Level | None
    samples: Tensor = field(repr=False)


@dataclass(frozen=True)
class Posterior:
    """p(z | y) for one data set or a batch of them.

    Attributes:
        method: how it was found.
        diagnostics: evidence.
        observation: sensors and noise.
        y: data, (..., n), as they were given: results have their dtype and device.
    """

    method: str
    diagnostics: Diagnostics
    observation: Observation = field(repr=False)
    y: Tensor = field(repr=False)
    _kept: Unchanged[LatentModel] = field(repr=False)
    _density: Density = field(repr=False)
    _log_density: Callable[[Tensor], Tensor] | None = field(repr=False)
    _xi: Tensor | None = field(repr=False)

    @property
    def _model(self) -> LatentModel:
        return self._kept.module

    def __repr__(self) -> str:
        if self.batch:
            size = f"{tuple(self.batch)} data sets, {self.mean.shape[-1]} parameters"
            return f"Posterior({self.method!r}, {size})"
        names = self.observation.problem.parameter_names
        rows = zip(names, self.mean.tolist(), self.std.tolist(), strict=True)
        values = ", ".join(f"{name}: {mean:.4g} ± {std:.2g}" for name, mean, std in rows)
        return f"Posterior({self.method!r}, {values}; {self.diagnostics.verdict})"

    @property
    def batch(self) -> torch.Size:
        """Shape of the batch of data sets."""
        return self.y.shape[:-1]

    @property
    def mean(self) -> Tensor:
        """Mean of z, (..., d)."""
        return self._unflatten(self._density.mean)

    @property
    def std(self) -> Tensor:
        """Standard deviation of z, (..., d)."""
        return self._unflatten(self._density.std)

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of z, (*shape, ..., d), all in the support of the prior."""
        return self._unflatten(self._density.sample(check_shape(shape), seed=seed))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (..., d), (...,).

        Of an amortised posterior it is that of the network, by which draws are proposed before they
        are resampled.

        Raises:
            InputError: the method gives draws only.
        """
        z = self._model.problem.prior.vectors(z)
        shape = z.shape[: z.ndim - 1 - len(self.batch)]
        flat = z.reshape(*shape, self.batch.numel(), z.shape[-1])
        found = self._density.log_prob(flat.to("cpu", torch.float64))
        return found.reshape((*shape, *self.batch)).to(z)

    def quantiles(self, q: Tensor | list[float], *, seed: int = 0) -> Tensor:
        """Quantiles of each parameter, (n_q, ..., d); from draws unless the method knows them."""
        levels = torch.as_tensor(q, dtype=torch.float64)
        if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise InputError(f"q must be a list of levels between 0 and 1, got {q}")
        return self._unflatten(self._density.quantiles(levels.cpu(), seed=seed))

    def interval(self, level: float = 0.95, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each parameter, (..., d).

        Args:
            level: probability of the parameter to lie between them, between 0 and 1.
            seed: of draws, where the method needs some.
        """
        tail = 0.5 - 0.5 * check_level(level)
        lower, upper = self.quantiles([tail, 1 - tail], seed=seed)
        return lower, upper

    def solution(self, n_samples: int = 200, *, seed: int = 0) -> PosteriorSolution:
        """Draws of u and their moments.

        By the forward map, with its error; where the method is `exact`, by the solver.

        Args:
            n_samples: at least 2; solves of `exact`.
            seed: of the draws.
        """
        check_count(2, n_samples=n_samples)
        check_count(0, seed=seed)
        u = self._solutions(self.sample((n_samples,), seed=seed), seed + 1)
        return PosteriorSolution(u.mean(0), u.std(0), u)

    @cached_property
    def noise_std(self) -> "Level":
        """What the data say about an unknown level of the noise, with z (`UnknownStd`).

        The level that misfits of the draws show: an error of the forward map is in it.

        Raises:
            InputError: the level of the noise is known.
        """
        found = self._levels.get("noise_std")
        if found is None:
            raise InputError(
                f"the level of the noise is known, {self.observation.noise!r}; give "
                "pddlvm.UnknownStd(scale, spread, n) as the noise to infer it"
            )
        return Level(found)

    @cached_property
    def model_error(self) -> "PosteriorError":
        """What the data say about the model error at the sensors (`ModelError`).

        Raises:
            InputError: the observation has no model error.
        """
        noise = self.observation.noise
        if not isinstance(noise, Discrepant):
            raise InputError(
                "the observation has no model error; give one to it: PointObservation(problem, "
                "points, noise_std, model_error=pddlvm.ModelError(std, length))"
            )
        generator = torch.Generator().manual_seed(_LEVEL_SEED)
        samples, std = noise.draw_error(self._misfits, generator)
        is_unknown = isinstance(noise.error.std, Prior)
        level = Level(std.to(self.y)) if is_unknown else None
        samples = samples.to(self.y)
        return PosteriorError(samples.mean(0), samples.std(0), level, samples)

    @cached_property
    def _misfits(self) -> Tensor:
        """y - h(u(z)) at draws, (n_draws, ..., n), float64 on the CPU."""
        z = self.sample((_N_LEVELS,), seed=_LEVEL_SEED)
        return (self.y - self.expected(z)).double().cpu()

    @property
    def _levels(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(_LEVEL_SEED)
        found = self.observation.noise.draw_levels(self._misfits, generator)
        return {name: value.to(self.y) for name, value in found.items()}

    def check(self, n_solves: int = 64, *, seed: int = 0) -> "Posterior":
        """The same posterior, with k-hat against the finite element likelihood as evidence.

        Args:
            n_solves: draws of each posterior at which the finite element problem is solved.
            seed: of the draws.

        Raises:
            ProblemError: the problem is not one of finite elements.
        """
        check_count(32, n_solves=n_solves)
        self.observation.problem.sensitivities()
        if self._log_density is None:
            return self
        z = self._density.propose((n_solves,), seed=seed)
        xi = self._model.problem.prior.standardise(z)
        log_q = self._log_density(xi)
        parts = list(zip(self.y.reshape(-1, self.y.shape[-1]), xi.unbind(1), strict=True))
        found = each(
            _log_prob, self.observation, parts, what=lambda _: "the finite element density"
        )
        tails = [khat(log_p - log_q[:, i]) for i, log_p in enumerate(found)]
        shapes = torch.tensor(tails, dtype=torch.float64).reshape(self.batch)
        return replace(self, diagnostics=replace(self.diagnostics, khat=shapes))

    def to_arviz(self, n_samples: int = 1000, *, seed: int = 0) -> Any:
        """An xarray DataTree for ArviZ.

        Its groups are posterior, prior, their predictive ones, and observed_data. Sensors at points
        have their places as coordinates, `sensor_x` and so on.

        Args:
            n_samples: draws of each group where the method has no chains.
            seed: of the draws.

        Raises:
            InputError: a batch of data sets; take one.
        """
        # It takes a while to import.
        from pddlvm.inference.arviz import data_tree

        if self.batch:
            raise InputError(
                f"to_arviz takes one data set, and this posterior has a batch {tuple(self.batch)}; "
                "ask for each alone: model.infer(y[i], observation).to_netcdf(f'posterior_{i}.nc')"
            )
        z = self.chains(n_samples, seed)
        prior = self.observation.problem.prior.sample((1, n_samples), seed=seed + 2)
        return data_tree(
            self.observation,
            self.y,
            self.method,
            posterior=(z, self.predictive(z, seed=seed)),
            prior=(prior, self.predictive(prior, seed=seed + 3)),
        )

    def to_netcdf(self, path: str | Path, n_samples: int = 1000, *, seed: int = 0) -> None:
        """Write `to_arviz` to a NetCDF file, which ArviZ and xarray read; replaced in one step.

        Args:
            path: the file.
            n_samples: draws of each group where the method has no chains.
            seed: of the draws.

        Raises:
            RunFileError: the file cannot be written.
        """
        from pddlvm.inference.arviz import write_netcdf

        write_netcdf(self.to_arviz(n_samples, seed=seed), Path(path))

    def chains(self, n_samples: int, seed: int) -> Tensor:
        """Draws of z in chains, (n_chains, n_draws, ..., d); four where there are none."""
        check_count(1, n_samples=n_samples)
        if self._xi is None:
            return self.sample((4, -(-n_samples // 4)), seed=seed)
        return self._unflatten(self._model.problem.prior.unstandardise(self._xi))

    def predictive(self, z: Tensor, *, seed: int = 0) -> Tensor:
        """New data at draws of z, `(*shape, ..., d)` -> `(*shape, ..., n)`."""
        return self.observation.simulate(self._solutions(z, seed + 1), seed=seed)

    def expected(self, z: Tensor) -> Tensor:
        """Data without noise at draws of z, `(*shape, ..., d)` -> `(*shape, ..., n)`."""
        z = self._model.problem.prior.check(z)
        if self.diagnostics.is_exact:
            return self.observation.apply(self._model.problem.solve(z)).to(z)
        xi = self._model.problem.prior.standardise(z.double().cpu())
        surrogate = self._kept().surrogate(self.observation, corrections=1)
        found = surrogate.mean(xi.reshape(-1, xi.shape[-1]))
        return found.reshape(*z.shape[:-1], found.shape[-1]).to(z)

    def _solutions(self, z: Tensor, seed: int) -> Tensor:
        if self.diagnostics.is_exact:
            return self._model.problem.solve(z).to(z)
        # A correction where it is cheap: the draws of u are those of the methods that used it.
        model = self._kept()
        return model.forward(z, corrections=model.cheap_corrections).sample(seed=seed)

    def _unflatten(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-2], *self.batch, x.shape[-1]).to(self.y)


def _log_prob(observation: Observation, part: tuple[Tensor, Tensor], watch: Watch) -> Tensor:
    y, xi = part
    return FiniteElementPosterior(observation, y).log_prob(xi)
