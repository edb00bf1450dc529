"""A generative model of data: the population of z behind many data sets, without knowing any z.

    y_i ~ p(y | u(z_i)),   z_i ~ p(z; theta)
    maximise  sum_i log (1/K) sum_k  p(y_i | z_ik) p(z_ik; theta) / q(z_ik | y_i),   z_ik ~ q

The decoder is the corrected forward map with its error and the noise, p(z; theta) a neural spline
flow that is learnt, and q(z | y) the amortised posterior under the prior of the problem, another
one. The bound is that of importance weighting (Burda et al., 2016); K = 1 gives the ELBO. Since q
does not change, its draws and their likelihoods are computed once.
"""

import math
import time
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import zuko
from torch import Tensor

from pddlvm.amortized.amortized import Amortized
from pddlvm.amortized.train import amortize
from pddlvm.basics.checks import check_count, check_kind
from pddlvm.basics.errors import InputError
from pddlvm.basics.grad_mode import with_gradients
from pddlvm.basics.random import seeded
from pddlvm.basics.unchanged import Unchanged
from pddlvm.latent.core import LatentModel
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.resample import resample
from pddlvm.sampling.statistics import smoothed_weights
from pddlvm.sensors.observation import Observation
from pddlvm.sensors.widened import Widened
from pddlvm.training.fit import Budget, fit

__all__ = ["Generated", "Population", "learn_population"]

_BATCH = 128
_N_IMPORTANCE = 16
_PER_DRAW = 8
_ENCODER_SHARE = 0.5
_RATE = 5e-3
_CLIP = 10.0
_LEAST_DATA = 10
_SECONDS = 120.0


@dataclass(frozen=True, repr=False)
class Generated:
    """New members of a population.

    Attributes:
        z: parameters, (n, d).
        u: solutions, with the error of the forward map, (n, n_dofs).
        y: data, (n, n_sensors).
        residual_norm: of the mean of u: how well the physics holds, (n,).
    """

    z: Tensor
    u: Tensor
    y: Tensor
    residual_norm: Tensor

    def __repr__(self) -> str:
        return f"Generated({len(self.z)} members, {self.z.shape[-1]} parameters each)"


@dataclass(frozen=True)
class Population:
    """A learnt distribution of z, u and y.

    Attributes:
        history: one row per step: step, seconds, loss (minus the bound, per data set).
        seconds: of the training.
    """

    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    _model: Unchanged[LatentModel] = field(repr=False)
    _parts: "_Parts" = field(repr=False)

    def sample(self, n: int, *, seed: int = 0) -> Generated:
        """New members, n of each, float64 on the CPU."""
        check_count(0, n=n)
        parts = self._parts
        with torch.no_grad(), seeded(seed):
            eta = parts.prior().sample((n,)).double()
        z = self._model.module.problem.prior.unstandardise(parts.plain.xi_of(eta))
        forward = self._model().forward(z)
        u = forward.sample(seed=seed + 1)
        y = parts.surrogate.observation.simulate(u, seed=seed + 2)
        return Generated(z, u, y, forward.residual_norm)

    def log_likelihood(self, y: Tensor, *, n_samples: int = 256, seed: int = 0) -> Tensor:
        """Lower bound of log p(y) of new data, (...,), tighter with more samples."""
        y = self._parts.surrogate.observation.check(y, allow_missing=False)
        flat = y.double().cpu()
        with torch.no_grad():
            drawn = self._parts.weighed(flat.reshape(-1, flat.shape[-1]), n_samples, seed)
            bound = self._parts.bound(*drawn)
        return bound.reshape(flat.shape[:-1]).to(y)

    def infer(self, y: Tensor, n_samples: int = 400, *, seed: int = 0) -> Tensor:
        """Draws of z of members given their data y (..., n), (n_samples, ..., d).

        The population is their prior: p(z | y) ~ p(y | u(z)) p(z; theta). Data that no training saw
        are warned about: `model.infer` has a verdict on them.
        """
        y = self._parts.surrogate.observation.check(y, allow_missing=False)
        flat = y.double().cpu()
        if not flat.numel():
            raise InputError(f"y has no data set, its shape is {tuple(y.shape)}; give at least one")
        batch, flat = flat.shape[:-1], flat.reshape(-1, flat.shape[-1])
        foreign = self._parts.encoder.is_foreign(flat).nonzero()[:, 0].tolist()
        if foreign:
            warnings.warn(
                f"{len(foreign)} of {len(flat)} data sets are unlike those of the training, the "
                f"first is number {foreign[0]}; see the verdict of model.infer on them",
                stacklevel=2,
            )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            eta, weights = self._parts.weighed(flat, _PER_DRAW * n_samples, seed)
            weights = weights + self._parts.prior().log_prob(eta.float()).double()
        found = [
            eta[resample(smoothed_weights(weights[:, i]), n_samples, generator), i]
            for i in range(len(flat))
        ]
        xi = self._parts.plain.xi_of(torch.stack(found, dim=1))
        z = self._model.module.problem.prior.unstandardise(xi)
        return z.reshape(n_samples, *batch, z.shape[-1]).to(y)


@dataclass(frozen=True)
class _Parts:
    """Decoder, learnt prior and encoder."""

    surrogate: Surrogate
    noise: Widened
    plain: Coordinates
    prior: Any
    encoder: Amortized

    def weighed(self, y: Tensor, n_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws eta (n_samples, batch, d) of q, and log p(y | z) / q(eta | y)."""
        q = self.encoder(y)
        z = q.sample((n_samples,), seed=seed)
        xi = self.surrogate.prior.standardise(z)
        eta = self.plain.eta_of(xi)
        data = self.surrogate.mean(xi.flatten(0, 1)).unflatten(0, xi.shape[:2])
        log_data = self.noise.log_prob(y - data)
        log_data = torch.where(torch.isfinite(data).all(-1), log_data, -torch.inf)
        to_eta = self.plain.log_jacobian(eta) - self.surrogate.prior.log_slope(xi)
        return eta, log_data - q.log_prob(z) - to_eta

    def bound(self, eta: Tensor, weights: Tensor) -> Tensor:
        """Importance-weighted bound of log p(y), (batch,)."""
        log_prior = self.prior().log_prob(eta.float()).double()
        return torch.logsumexp(weights + log_prior, dim=0) - math.log(len(eta))


@with_gradients
def learn_population(
    model: LatentModel,
    observation: Observation,
    y: Tensor,
    *,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
) -> Population:
    """Learn the distribution of z, u and y from data alone.

    Args:
        model: a trained model, whose prior covers the population.
        observation: sensors and noise.
        y: data sets, (n_data, n), without missing values.
        max_seconds: wall-clock limit, two minutes where no limit is given.
        max_steps: limit on the optimiser steps, to one for each part of the training; repeatable
            when it is the only limit.
        seed: of weights and draws.

    Raises:
        InputError: too few data sets, a wrong shape, missing values, or a limit of nothing.
        ConvergenceError: the predictions of the model are not finite.
        NonFiniteError: a training met a value that is not finite.
    """
    check_kind(Observation, observation=observation)
    budget = Budget.of(max_seconds, max_steps, _SECONDS)
    start = time.perf_counter()
    data = observation.check(y, allow_missing=False).double().cpu()
    if data.ndim != 2 or len(data) < _LEAST_DATA:
        raise InputError(
            f"y must be at least {_LEAST_DATA} data sets of shape (n_data, {observation.n}), got "
            f"{tuple(data.shape)}"
        )
    surrogate = model.surrogate(observation, corrections=1)
    encoder = amortize(model, observation, None, budget.share(_ENCODER_SHARE), seed)
    generator = torch.Generator().manual_seed(seed)
    typical = model.problem.prior.sample_standard((64,), generator=generator)
    error = surrogate.error(typical).mean()
    with seeded(seed):
        parts = _Parts(
            surrogate,
            observation.noise.widened(torch.ones(1, observation.n, dtype=torch.bool), error),
            Coordinates.plain(model.problem.prior),
            zuko.flows.NSF(model.problem.n_parameters, transforms=3, hidden_features=(64, 64)),
            encoder,
        )
    with torch.no_grad():
        eta, weights = parts.weighed(data, _N_IMPORTANCE, seed)

    def loss() -> Tensor:
        rows = torch.randint(len(data), (min(_BATCH, len(data)),), generator=generator)
        return -parts.bound(eta[:, rows], weights[:, rows]).mean()

    history = fit(
        parts.prior.parameters(),
        loss,
        replace(budget.share(1 - _ENCODER_SHARE), seconds=budget.since(start).seconds),
        rate=_RATE,
        clip=_CLIP,
        name="the population",
    )
    return Population(history, time.perf_counter() - start, Unchanged(model), parts)
