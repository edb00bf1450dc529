"""A generative model of data: the population of z behind many data sets, without knowing any z.

    y_i ~ p(y | u(z_i)),   z_i ~ p(z; theta)
    maximise  sum_i log (1/K) sum_k  p(y_i | z_ik) p(z_ik; theta) / q(z_ik | y_i),   z_ik ~ q

The decoder is the forward map with its error and the noise, p(z; theta) a neural spline flow that
is learnt, and so is q(z | y), another one. The bound is that of importance weighting (Burda et al.,
2016); K = 1 gives the ELBO.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import zuko
from torch import Tensor

from pddlvm.errors import InputError
from pddlvm.inference.coordinates import Coordinates
from pddlvm.inference.fitting import fit
from pddlvm.inference.surrogate import Surrogate, surrogate_of
from pddlvm.latent import LatentVariableModel
from pddlvm.noise import Noise
from pddlvm.observation import Observation
from pddlvm.random import seeded

__all__ = ["Generated", "Population", "learn_population"]

_BATCH = 64
_N_IMPORTANCE = 16
_RATE = 2e-3
_CLIP = 10.0
_LEAST_DATA = 10


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Population:
    """A learnt distribution of z, u and y.

    Attributes:
        history: one row per step: step, seconds, loss (minus the bound, per data set).
        seconds: of the training.
    """

    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    _model: LatentVariableModel = field(repr=False)
    _parts: "_Parts" = field(repr=False)

    def sample(self, n: int, *, seed: int = 0) -> Generated:
        """New members, n of each."""
        parts = self._parts
        with torch.no_grad(), seeded(seed):
            eta = parts.prior().sample((n,)).double()
        z = self._model.problem.prior.unstandardise(parts.plain.xi_of(eta))
        forward = self._model.forward(z)
        u = forward.sample(seed=seed + 1)
        y = parts.surrogate.observation.simulate(u, seed=seed + 2)
        return Generated(z, u, y, forward.residual_norm)

    def log_likelihood(self, y: Tensor, *, n_samples: int = 256, seed: int = 0) -> Tensor:
        """Lower bound of log p(y) of new data, (...,), tighter with more samples."""
        flat = self._parts.surrogate.observation.check(y, allow_missing=False).double()
        with torch.no_grad(), seeded(seed):
            bound = self._parts.bound(flat.reshape(-1, flat.shape[-1]), n_samples)
        return bound.reshape(flat.shape[:-1])


@dataclass(frozen=True)
class _Parts:
    """Decoder, learnt prior and encoder."""

    surrogate: Surrogate
    noise: Noise
    plain: Coordinates
    prior: Any
    encoder: Any
    centre: Tensor
    scale: Tensor

    def bound(self, y: Tensor, n_samples: int) -> Tensor:
        """Importance-weighted bound of log p(y), (batch,)."""
        q = self.encoder(((y - self.centre) / self.scale).float())
        eta, log_q = q.rsample_and_log_prob((n_samples,))
        log_prior = self.prior().log_prob(eta)
        xi = self.plain.xi_of(eta.double())
        data = self.surrogate.predict(xi.flatten(0, 1)).unflatten(0, xi.shape[:2])
        log_data = self.noise.log_prob(y - data)
        weights = log_data + log_prior.double() - log_q.double()
        return torch.logsumexp(weights, dim=0) - math.log(n_samples)


def learn_population(
    model: LatentVariableModel,
    observation: Observation,
    y: Tensor,
    *,
    max_seconds: float = 120.0,
    seed: int = 0,
) -> Population:
    """Learn the distribution of z, u and y from data alone.

    Args:
        model: a trained model, whose prior covers the population.
        observation: sensors and noise.
        y: data sets, (n_data, n), without missing values.
        max_seconds: wall-clock limit.
        seed: of weights and draws.

    Raises:
        InputError: too few data sets, a wrong shape, or missing values.
    """
    start = time.perf_counter()
    data = observation.check(y, allow_missing=False).double().cpu()
    if data.ndim != 2 or len(data) < _LEAST_DATA:
        raise InputError(
            f"y must be at least {_LEAST_DATA} data sets of shape (n_data, {observation.n}), got "
            f"{tuple(y.shape)}"
        )
    if not max_seconds > 0:
        raise InputError(f"max_seconds must be positive, got {max_seconds}")
    surrogate = surrogate_of(model, observation)
    d = model.problem.n_parameters
    typical = model.problem.prior.sample_standard((64,), generator=_generator(seed))
    error = surrogate.covariance(typical).mean(0)
    with seeded(seed):
        parts = _Parts(
            surrogate,
            observation.noise.of_seen(torch.ones(observation.n, dtype=torch.bool), error),
            Coordinates.plain(model.problem.prior),
            _flow(d, 0),
            _flow(d, observation.n),
            data.mean(0),
            data.std(0).clamp(min=1e-12),
        )
        generator = _generator(seed)

        def loss() -> Tensor:
            rows = torch.randint(len(data), (min(_BATCH, len(data)),), generator=generator)
            return -parts.bound(data[rows], _N_IMPORTANCE).mean()

        history = fit(
            [*parts.prior.parameters(), *parts.encoder.parameters()],
            loss,
            start + max_seconds,
            rate=_RATE,
            clip=_CLIP,
            name="the population",
        )
    return Population(history, time.perf_counter() - start, model, parts)


def _flow(d: int, context: int) -> Any:
    return zuko.flows.NSF(d, context, transforms=3, hidden_features=(64, 64))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
