"""Families of conditional densities q(eta | context) for amortised posteriors.

eta are the unbounded coordinates of z. The context is what a query makes of its data: an estimate
of eta, and features; see `pddlvm.amortized.amortized`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import zuko
from torch import Tensor, nn

from pddlvm.basics.checks import check_count
from pddlvm.basics.random import seeded
from pddlvm.inference.density import Density, log_prob_of_z
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["FAMILIES", "Diagonal", "Family", "Flow", "Full"]

_REACH = 8.0
_WIDTH = 256
_GAUSSIAN_SHARE = 0.4

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of draws eta (batch, d), in units of its prior z (batch, d), and their contexts (batch, n)."""


class Family(nn.Module, ABC):
    """q(eta | context); the first d entries of the context are an estimate of eta."""

    @abstractmethod
    def log_prob(self, eta: Tensor, context: Tensor) -> Tensor:
        """Log density of eta (batch, d) given contexts (batch, n), (batch,)."""

    @abstractmethod
    def density(self, context: Tensor, prior: ParameterSpace) -> Density:
        """The posterior of z for contexts, (batch, n)."""

    def losses(self) -> list[tuple[float, Loss]]:
        """What is minimised, one after the other, and for which share of the time."""
        return [(1.0, self._loss)]

    def _loss(self, eta: Tensor, z: Tensor, context: Tensor) -> Tensor:
        return -self.log_prob(eta, context).mean()


class _Gaussian(Family):
    def __init__(self, n: int, d: int, n_factor: int) -> None:
        super().__init__()
        check_count(1, n=n, d=d)
        self.d = d
        self.network = _network(n, d + n_factor)

    @abstractmethod
    def _inverse_factor(self, raw: Tensor) -> Tensor:
        """Lower triangular A (batch, d, d) with A (eta - mean) standard normal."""

    def parts(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (batch, d) and inverse factor (batch, d, d)."""
        out = self.network(context)
        return context[:, : self.d] + out[:, : self.d], self._inverse_factor(out[:, self.d :])

    def whiten(self, eta: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """A (eta - mean), (batch, d), and log |A|, (batch,)."""
        mean, inverse = self.parts(context)
        white = (inverse @ (eta - mean)[..., None])[..., 0]
        return white, inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_prob(self, eta: Tensor, context: Tensor) -> Tensor:
        white, scale = self.whiten(eta, context)
        return scale - 0.5 * white.square().sum(-1) - 0.5 * self.d * math.log(2 * math.pi)

    def density(self, context: Tensor, prior: ParameterSpace) -> Density:
        mean, inverse = (part.double() for part in self.parts(context))
        identity = torch.eye(self.d, dtype=inverse.dtype)
        factor = torch.linalg.solve_triangular(inverse, identity.expand_as(inverse), upper=False)
        return PushedGaussian(Coordinates(prior, mean, factor))


class Diagonal(_Gaussian):
    """Independent Gaussians.

    Args:
        n: length of a context.
        d: number of parameters.
    """

    def __init__(self, n: int, d: int) -> None:
        super().__init__(n, d, d)

    def _inverse_factor(self, raw: Tensor) -> Tensor:
        return _positive(raw).diag_embed()


class Full(_Gaussian):
    """A Gaussian with full covariance.

    Args:
        n: length of a context.
        d: number of parameters.
    """

    def __init__(self, n: int, d: int) -> None:
        check_count(1, n=n, d=d)
        super().__init__(n, d, d * (d + 1) // 2)
        self.rows, self.columns = torch.tril_indices(d, d)

    def _inverse_factor(self, raw: Tensor) -> Tensor:
        full = raw.new_zeros(len(raw), self.d, self.d)
        full[:, self.rows, self.columns] = raw
        return full.tril(-1) + _positive(full.diagonal(dim1=-2, dim2=-1)).diag_embed()


class Flow(Family):
    """A neural spline flow, for posteriors that are skewed or have several modes.

        eta = m(y) + A(y)^{-1} w,      w | y ~ splines

    A Gaussian of full covariance is trained first: it finds what the data determine well, and the
    splines (Durkan et al., 2019; of the library zuko) bend what is left. Mean and standard
    deviation of z have a network of their own, the regression of z on y: they need no draws.

    Args:
        n: length of a context.
        d: number of parameters.
    """

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.gaussian = Full(n, d)
        self.regression = _network(n, 2 * d)
        self.splines: Any = zuko.flows.NSF(
            d, n, transforms=3, passes=2 if d > 1 else None, hidden_features=(128, 128)
        )

    def log_prob(self, eta: Tensor, context: Tensor) -> Tensor:  # noqa: D102
        w, scale = self.gaussian.whiten(eta, context)
        found: Tensor = self.splines(context).log_prob(w) + scale
        return found

    def losses(self) -> list[tuple[float, Loss]]:  # noqa: D102
        return [(_GAUSSIAN_SHARE, self._moments_loss), (1 - _GAUSSIAN_SHARE, self._loss)]

    def _moments_loss(self, eta: Tensor, z: Tensor, context: Tensor) -> Tensor:
        mean, log_std = self.regression(context).chunk(2, dim=-1)
        scaled = (z - mean) * (-log_std.clamp(-_REACH, _REACH)).exp()
        of_moments = (0.5 * scaled.square() + log_std).sum(-1).mean()
        return of_moments - self.gaussian.log_prob(eta, context).mean()

    def density(self, context: Tensor, prior: ParameterSpace) -> Density:  # noqa: D102
        return _FlowDensity(self, context, prior)


@dataclass(frozen=True)
class _FlowDensity(Density):
    flow: Flow
    context: Tensor
    prior: ParameterSpace

    @property
    def mean(self) -> Tensor:
        centre, scale = self.prior.units
        return centre + scale * self._moments[0]

    @property
    def std(self) -> Tensor:
        return self.prior.units[1] * self._moments[1].exp()

    @property
    def _moments(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self.flow.regression(self.context).double().chunk(2, dim=-1)

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        own = int(torch.randint(2**31, (), generator=generator))
        with torch.no_grad(), seeded(own):
            w = self.flow.splines(self.context).sample(shape)
            mean, inverse = self.flow.gaussian.parts(self.context)
            moved = torch.linalg.solve_triangular(inverse, w[..., None], upper=False)[..., 0]
        plain = Coordinates.plain(self.prior)
        return self.prior.unstandardise(plain.xi_of((mean + moved).double()))

    def log_prob(self, z: Tensor) -> Tensor:
        return log_prob_of_z(self.prior, z, self.mean, self._log_prob)

    def _log_prob(self, xi: Tensor) -> Tensor:
        plain = Coordinates.plain(self.prior)
        eta = plain.eta_of(xi)
        with torch.no_grad():
            density = self.flow.log_prob(eta.to(self.context), self.context).double()
        return density - plain.log_jacobian(eta)


def _network(n: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n, _WIDTH),
        nn.SiLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.SiLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.SiLU(),
        nn.Linear(_WIDTH, n_out),
    )


def _positive(raw: Tensor) -> Tensor:
    """exp, within bounds that keep a single surprising draw from ending a training."""
    return raw.clamp(-_REACH, _REACH).exp()


FAMILIES: dict[str, type[Family]] = {"Diagonal": Diagonal, "Full": Full, "Flow": Flow}
"""Those that files know, by name."""
