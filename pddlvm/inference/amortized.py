"""Amortised posteriors: a density of z given y, trained on simulated data.

    minimise  - E log q(z | y),      z ~ p(z),  y = h(z) + error of h + noise

h is the calibrated forward map: physics alone, no solution of the PDE. Once trained, the posterior
of any data of these sensors is one pass through a network. Three families, in the unbounded
coordinates of z: `Diagonal` and `Full` covariance Gaussians, and `Flow`, a neural spline flow
(Durkan et al., 2019) of the library zuko.
"""

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import zuko
from torch import Tensor, nn

from pddlvm.errors import InputError
from pddlvm.inference.coordinates import Coordinates
from pddlvm.inference.density import Density
from pddlvm.inference.fitting import fit
from pddlvm.inference.pushed import PushedGaussian
from pddlvm.inference.surrogate import Surrogate, surrogate_of
from pddlvm.latent import LatentVariableModel
from pddlvm.observation import Observation
from pddlvm.parameters import ParameterSpace
from pddlvm.random import seeded

__all__ = ["Amortized", "Diagonal", "Family", "Flow", "Full", "amortize"]

_BATCH = 256
_RATE = 1e-3
_CLIP = 1.0
_REACH = 8.0
_N_SCALING = 2000
_WIDTH = 256
_N_FLOW_DRAWS = 512


class Family(nn.Module, ABC):
    """q(eta | y) for standardised y."""

    @abstractmethod
    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        """Log density of eta (batch, d) given y (batch, n), (batch,)."""

    @abstractmethod
    def density(self, y: Tensor, prior: ParameterSpace) -> Density:
        """The posterior of z for data y, (batch, n)."""


class _Gaussian(Family):
    def __init__(self, n: int, d: int, n_factor: int) -> None:
        super().__init__()
        self.d = d
        self.network = nn.Sequential(
            nn.Linear(n, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, d + n_factor),
        )

    @abstractmethod
    def _inverse_factor(self, raw: Tensor) -> Tensor:
        """Lower triangular A (batch, d, d) with A (eta - mean) standard normal."""

    def _parts(self, y: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(y)
        return out[:, : self.d], self._inverse_factor(out[:, self.d :])

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        mean, inverse = self._parts(y)
        white = (inverse @ (eta - mean)[..., None])[..., 0]
        scale = inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return scale - 0.5 * white.square().sum(-1) - 0.5 * self.d * math.log(2 * math.pi)

    def density(self, y: Tensor, prior: ParameterSpace) -> Density:
        mean, inverse = (part.double() for part in self._parts(y))
        identity = torch.eye(self.d, dtype=inverse.dtype)
        factor = torch.linalg.solve_triangular(inverse, identity.expand_as(inverse), upper=False)
        return PushedGaussian(Coordinates(prior, mean, factor))


class Diagonal(_Gaussian):
    """Independent Gaussians.

    Args:
        n: length of y.
        d: number of parameters.
    """

    def __init__(self, n: int, d: int) -> None:
        super().__init__(n, d, d)

    def _inverse_factor(self, raw: Tensor) -> Tensor:
        return _positive(raw).diag_embed()


class Full(_Gaussian):
    """A Gaussian with full covariance.

    Args:
        n: length of y.
        d: number of parameters.
    """

    def __init__(self, n: int, d: int) -> None:
        super().__init__(n, d, d * (d + 1) // 2)
        self.rows, self.columns = torch.tril_indices(d, d)

    def _inverse_factor(self, raw: Tensor) -> Tensor:
        full = raw.new_zeros(len(raw), self.d, self.d)
        full[:, self.rows, self.columns] = raw
        return full.tril(-1) + _positive(full.diagonal(dim1=-2, dim2=-1)).diag_embed()


def _positive(raw: Tensor) -> Tensor:
    """exp, within bounds that keep a single surprising draw from ending a training."""
    return raw.clamp(-_REACH, _REACH).exp()


class Flow(Family):
    """A neural spline flow, for posteriors that are skewed or have several modes.

    Args:
        n: length of y.
        d: number of parameters.
    """

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.flow: Any = zuko.flows.NSF(
            d, n, transforms=3, passes=2 if d > 1 else None, hidden_features=(128, 128)
        )

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        found: Tensor = self.flow(y).log_prob(eta)
        return found

    def density(self, y: Tensor, prior: ParameterSpace) -> Density:  # noqa: D102
        return _FlowDensity(self.flow, y, prior)


@dataclass(frozen=True)
class _FlowDensity(Density):
    flow: Any
    y: Tensor
    prior: ParameterSpace

    @property
    def mean(self) -> Tensor:
        return self._draws().mean(0)

    @property
    def std(self) -> Tensor:
        return self._draws().std(0)

    def _draws(self) -> Tensor:
        return self.sample((_N_FLOW_DRAWS,), seed=0)

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        own = int(torch.randint(2**31, (), generator=generator))
        with torch.no_grad(), seeded(own):
            eta = self.flow(self.y).sample(shape).double()
        plain = Coordinates.plain(self.prior)
        return self.prior.unstandardise(plain.xi_of(eta))

    def log_prob(self, z: Tensor) -> Tensor:
        inside = self.prior.contains(z).all(-1)
        xi = self.prior.standardise(torch.where(inside[..., None], z, self.mean.to(z)))
        plain = Coordinates.plain(self.prior)
        eta = plain.eta_of(xi)
        with torch.no_grad():
            density = self.flow(self.y).log_prob(eta.to(self.y)).double()
        density = density - plain.log_jacobian(eta)
        return torch.where(inside, density + self.prior.log_slope(xi), -torch.inf)


@dataclass(frozen=True)
class Amortized:
    """A trained density of z given y.

    Attributes:
        family: the density.
        centre: mean of y over the simulated data, (n,).
        scale: standard deviation of y, (n,).
        prior: of z.
        seconds: of the training.
        n_steps: of the training.
    """

    family: Family
    centre: Tensor
    scale: Tensor
    prior: ParameterSpace
    seconds: float
    n_steps: int

    def __call__(self, y: Tensor) -> Density:
        """The posterior of data, (batch, n) float64."""
        with torch.no_grad():
            return self.family.density(((y - self.centre) / self.scale).float(), self.prior)


def amortize(
    model: LatentVariableModel,
    observation: Observation,
    family: Family | None,
    max_seconds: float,
    seed: int,
) -> Amortized:
    """See `LatentVariableModel.amortize`."""
    if not max_seconds > 0:
        raise InputError(f"max_seconds must be positive, got {max_seconds}")
    surrogate = surrogate_of(model, observation)
    if family is None:
        with seeded(seed):
            family = Flow(observation.n, model.problem.n_parameters)
    return train(surrogate, family, max_seconds, seed)


def train(surrogate: Surrogate, family: Family, max_seconds: float, seed: int) -> Amortized:
    """Train a density on data that the surrogate simulates.

    Args:
        surrogate: predicts data of the sensors.
        family: what is trained, in place.
        max_seconds: wall-clock limit.
        seed: of the draws.
    """
    start = time.perf_counter()
    prior, noise = surrogate.prior, surrogate.observation.noise
    generator = torch.Generator().manual_seed(seed)
    plain = Coordinates.plain(prior)
    typical = prior.sample_standard((64,), generator=generator)
    error = torch.linalg.cholesky_ex(surrogate.covariance(typical).mean(0))[0]

    def simulate(n: int) -> tuple[Tensor, Tensor]:
        xi = prior.sample_standard((n,), generator=generator)
        with torch.no_grad():
            y = surrogate.predict(xi)
        y = y + torch.randn(y.shape, generator=generator, dtype=y.dtype) @ error.T
        return plain.eta_of(xi), y + noise.sample((n,), generator)

    _, y = simulate(_N_SCALING)
    centre, scale = y.mean(0), y.std(0)

    def loss() -> Tensor:
        eta, y = simulate(_BATCH)
        return -family.log_prob(eta.float(), ((y - centre) / scale).float()).mean()

    family.train()
    history = fit(
        family.parameters(), loss, start + max_seconds, rate=_RATE, clip=_CLIP, name="q(z | y)"
    )
    family.eval()
    seconds = time.perf_counter() - start
    return Amortized(family, centre, scale, prior, seconds, len(history))
