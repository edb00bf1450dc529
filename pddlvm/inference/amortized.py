"""Amortised posteriors: a density of z given y, trained on simulated data.

    minimise  - E log q(z | y),      z ~ p(z),  y = h(z) + error of h + noise

h is the corrected forward map: physics alone, no solution of the PDE. Once trained, the posterior
of any data of these sensors is one pass through a network.

A network that reads y alone has to resolve the noise against the whole range of y. So a first one
estimates the parameters, and the next sees what their prediction leaves, in units of the noise:

    context  =  eta_0(y),   P y,   arsinh P (y - h(eta_0(y)))
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.basics.random import seeded
from pddlvm.inference.density import Density
from pddlvm.inference.families import Diagonal, Family, Flow
from pddlvm.inference.laplace import Laplace, laplace
from pddlvm.inference.modes import starts
from pddlvm.inference.proposals import Proposals
from pddlvm.inference.resampled import Resampled
from pddlvm.latent.core import LatentModel
from pddlvm.latent.surrogate import Surrogate
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sensors.observation import Observation
from pddlvm.training.fit import Budget, fit

__all__ = ["Amortized", "amortize"]

_BATCH = 256
_RATE = 1e-3
_CLIP = 1.0
_N_SCALING = 2000
_CHUNK = 512
_MIN_CHUNKS, _MAX_CHUNKS = 8, 256
_POOL_SHARE, _STEPS_PER_CHUNK = 0.15, 50
_N_ERRORS = 64
_ESTIMATE_SHARE = 0.3
_EDGE, _WILD = 6.0, 1e6
_N_RANGE, _MARGIN = 4096, 1.1
_LEAST_GOOD = 0.5


@dataclass(frozen=True)
class Compression:
    """Principal components of y in units of the noise.

        C^{-1/2} (y - mean) = sum_k a_k v_k,     a_k sqrt(1 - 1 / var a_k)

    What the noise hides vanishes.

    Attributes:
        centre: mean of y, (n,).
        matrix: from y to the components, (n, n).
        std: of the components, (n,).
    """

    centre: Tensor
    matrix: Tensor
    std: Tensor

    @classmethod
    def of(cls, y: Tensor, covariance: Tensor) -> "Compression":
        """From simulated data y (batch, n), and the covariance (n, n) of noise and error."""
        white = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        centre = y.mean(0)
        variance, vectors = torch.linalg.eigh(
            torch.cov(((y - centre) @ white).T).reshape(white.shape)
        )
        variance = variance.clamp(min=1)
        return cls(centre, white @ vectors * (1 - 1 / variance).sqrt(), variance.sqrt())

    def of_data(self, y: Tensor) -> Tensor:
        """(batch, n) -> (batch, n), each component by its own spread."""
        return ((y - self.centre) @ self.matrix) / self.std

    def of_misfit(self, misfit: Tensor) -> Tensor:
        """(batch, n) -> (batch, n), in units of the noise, large ones by their logarithm."""
        return (misfit @ self.matrix).asinh()


@dataclass(frozen=True)
class Context:
    """What a family reads instead of y.

    Attributes:
        surrogate: predicts data.
        compression: of y.
        estimate: a Gaussian whose mean estimates eta from the data alone, once it is trained.
    """

    surrogate: Surrogate
    compression: Compression
    estimate: Diagonal | None = None

    def __call__(self, y: Tensor) -> Tensor:
        """(batch, n) float64 -> (batch, d + 2 n) float32."""
        plain = Coordinates.plain(self.surrogate.prior)
        eta = y.new_zeros(len(y), self.surrogate.prior.size)
        with torch.no_grad():
            context = self._at(plain, eta, y)
            if self.estimate is not None:
                # Predictions beyond the edge of the prior mean nothing.
                eta = self.estimate.parts(context)[0].double().clamp(-_EDGE, _EDGE)
                context = self._at(plain, eta, y)
        return context

    def _at(self, plain: Coordinates, eta: Tensor, y: Tensor) -> Tensor:
        misfit = y - self.surrogate.predict(plain.xi_of(eta))
        parts = [eta, self.compression.of_data(y), self.compression.of_misfit(misfit)]
        # Numbers that are too large for float32, and NaN, are foreign to any training.
        return torch.cat(parts, dim=-1).nan_to_num(nan=_WILD).clamp(-_WILD, _WILD).float()


@dataclass(frozen=True, repr=False)
class Amortized:
    """A trained density of z given y.

    Attributes:
        family: the density.
        context: what it reads.
        range: largest sizes of what it read in training, (d + 2 n,).
        seconds: of the training.
        n_steps: of the training.
    """

    family: Family
    context: Context
    range: Tensor
    seconds: float
    n_steps: int

    def __call__(self, y: Tensor) -> Density:
        """The posterior of data (batch, n), float64 on the CPU."""
        y = y.double().cpu()
        with torch.no_grad():
            return self.family.density(self._bounded(self.context(y)), self.prior)

    def resampled(self, y: Tensor) -> Resampled:
        """The same, its draws resampled by the density that the corrected forward map gives.

        Data unlike those of the training get mean and std from draws: there a network says
        anything.
        """
        y = y.double().cpu()
        surrogate, prior = self.context.surrogate, self.prior
        with torch.no_grad():
            context = self.context(y)
            is_foreign, context = self._is_foreign(context), self._bounded(context)
            whole = self.family.density(context, prior)

        searches = _Searches(surrogate, y)

        def proposals(i: int) -> Proposals:
            with torch.no_grad():
                network = self.family.density(context[i : i + 1], prior)
            return Proposals(surrogate, y[i], network, bool(is_foreign[i]), partial(searches.of, i))

        return Resampled(whole, [proposals(i) for i in range(len(y))])

    def is_foreign(self, y: Tensor) -> Tensor:
        """Which data (batch, n) are unlike those of the training, (batch,)."""
        return self._is_foreign(self.context(y.double().cpu())).to(y.device)

    def _bounded(self, context: Tensor) -> Tensor:
        """Far from its training a network does not stop at saying anything: it overflows."""
        limit = _MARGIN * self.range
        return context.clamp(-limit, limit)

    def _is_foreign(self, context: Tensor) -> Tensor:
        return (self._bounded(context) != context).any(-1)

    def save(self, path: str | Path) -> None:
        """Write it to a file for `LatentVariableModel.load_amortized`; replaced in one step.

        Raises:
            InputError: a family of one's own.
            RunFileError: the file cannot be written.
        """
        from pddlvm.inference.stored import save_amortized

        save_amortized(self, path)

    def __repr__(self) -> str:
        d, n = self.prior.size, self.context.surrogate.observation.n
        name = type(self.family).__name__
        return f"Amortized({name}, {d} parameters, {n} sensors, {self.seconds:.0f} s)"

    @property
    def prior(self) -> ParameterSpace:
        """Of z."""
        return self.context.surrogate.prior


@dataclass(frozen=True)
class _Searches:
    """Laplace approximations of data sets (n_data, n), found when the first one is asked for."""

    surrogate: Surrogate
    y: Tensor

    @cached_property
    def found(self) -> Laplace:
        return laplace(self.surrogate, self.y, starts(self.surrogate, self.y))

    def of(self, i: int) -> Laplace | None:
        return self.found.of(i) if self.found.converged[i] else None


def amortize(
    model: LatentModel,
    observation: Observation,
    family: Callable[[int, int], Family] | None,
    budget: Budget,
    seed: int,
) -> Amortized:
    """See `LatentVariableModel.amortize`."""
    start = time.perf_counter()
    surrogate = model.surrogate(observation, corrections=1)
    generator = torch.Generator().manual_seed(seed)
    simulator = _Simulator.of(surrogate, generator, budget)
    n, d = observation.n, surrogate.prior.size
    with seeded(seed):
        estimate = Diagonal(d + 2 * n, d)
        density = (family or Flow)(d + 2 * n, d)
    data_alone = Context(surrogate, simulator.compression())
    left = budget.since(start)
    n_steps = _train(estimate, data_alone, simulator, left.share(_ESTIMATE_SHARE))
    context = replace(data_alone, estimate=estimate)
    n_steps += _train(density, context, simulator, left.share(1 - _ESTIMATE_SHARE))
    seen = context(simulator(_N_RANGE)[1]).abs().amax(0)
    return Amortized(density, context, seen, time.perf_counter() - start, n_steps)


@dataclass(frozen=True)
class _Simulator:
    """Draws of xi and of their data: a pool of corrected predictions, with new noise each time."""

    surrogate: Surrogate
    xi: Tensor
    data: Tensor
    factor: Tensor
    generator: torch.Generator

    @classmethod
    def of(cls, surrogate: Surrogate, generator: torch.Generator, budget: Budget) -> "_Simulator":
        """Fill the pool until it is large, or until its time is over and it is not tiny.

        Raises:
            ConvergenceError: less than half of the predictions are finite.
        """
        start = time.perf_counter()
        for_time = budget.share(_POOL_SHARE)
        most = min(_MAX_CHUNKS, max(_MIN_CHUNKS, budget.steps / _STEPS_PER_CHUNK))
        xi: list[Tensor] = []
        data: list[Tensor] = []
        while len(xi) < most and (len(xi) < _MIN_CHUNKS or for_time.since(start).seconds > 0):
            part = surrogate.prior.sample_standard((_CHUNK,), generator=generator)
            with torch.no_grad():
                predicted = surrogate.mean(part)
            # Far in the tails of a wide prior a correction may fail.
            good = torch.isfinite(predicted).all(-1)
            xi.append(part[good])
            data.append(predicted[good])
        pool = torch.cat(xi)
        if len(pool) < _LEAST_GOOD * len(xi) * _CHUNK:
            raise ConvergenceError(
                f"only {len(pool)} of {len(xi) * _CHUNK} predictions for draws of the prior are "
                "finite; was the model trained, and is its prior not too wide?"
            )
        error = surrogate.covariance(pool[:_N_ERRORS]).mean(0)
        factor = torch.linalg.cholesky_ex(error)[0]
        return cls(surrogate, pool, torch.cat(data), factor, generator)

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        """xi (n, d) and data (n, n_sensors)."""
        rows = torch.randint(len(self.xi), (n,), generator=self.generator)
        white = torch.randn(n, len(self.factor), generator=self.generator, dtype=torch.float64)
        noise = self.surrogate.observation.noise.sample((n,), self.generator)
        return self.xi[rows], self.data[rows] + white @ self.factor.T + noise

    def compression(self) -> Compression:
        """Of the data of this simulator."""
        noise = self.surrogate.observation.noise.covariance()
        return Compression.of(self(_N_SCALING)[1], noise + self.factor @ self.factor.T)


def _train(family: Family, context: Context, simulator: _Simulator, budget: Budget) -> int:
    prior = context.surrogate.prior
    plain = Coordinates.plain(prior)
    centre, scale = prior.units
    n_steps = 0
    for share, loss in family.losses():

        def drawn(loss: Callable[[Tensor, Tensor, Tensor], Tensor] = loss) -> Tensor:
            xi, y = simulator(_BATCH)
            z = (prior.unstandardise(xi) - centre) / scale
            return loss(plain.eta_of(xi).float(), z.float(), context(y))

        history = fit(
            family.parameters(),
            drawn,
            budget.share(share),
            rate=_RATE,
            clip=_CLIP,
            name="q(z | y)",
        )
        n_steps += len(history)
    family.eval()
    return n_steps
