"""Priors of parameters, and their standard coordinates.

Every prior maps z to standard coordinates xi of mean 0 and variance 1 and back. Networks read xi,
and the inverse map is Gaussian in xi.

    z_i = T_i(x_i),   x = L xi,     T_i increasing, L = 1 but for parameters that are correlated
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.checks import check_real
from pddlvm.basics.errors import InputError
from pddlvm.basics.owned import own_fields

_FAR = 12.0
"""Standard deviations; no search goes farther, and no draw comes near."""
_N_TABLE = 2**14 + 1
"""Places where a distribution function is tabulated."""
_LARGEST_LOG = 700.0
"""exp(z) and exp(-z) are float64 numbers up to there."""

__all__ = ["LogNormal", "LogUniform", "Normal", "Prior", "StandardNormal", "Uniform"]

_ROOT_3 = math.sqrt(3.0)


class Prior(ABC):
    """Distribution of the parameters of a block, (..., size).

    They are independent of each other and alike, unless `size` and `mixing` say otherwise.
    """

    @property
    def size(self) -> int | None:
        """Of how many parameters together it is; None where these are independent and alike."""
        return None

    @property
    def mixing(self) -> Tensor | None:
        """L, (size, size), lower triangular, where parameters are correlated; float64."""
        return None

    def of_mixed(self, x: Tensor) -> Tensor:
        """z of x = L xi, each of its own x alone."""
        return self.unstandardise(x)

    @property
    def is_torch(self) -> bool:
        """Are its functions operations of torch alone, such as exported maps consist of?"""
        return True

    def bounds(self, size: int) -> list[tuple[float, float]]:
        """`standard_bounds` of each of so many parameters."""
        return [self.standard_bounds] * size

    @abstractmethod
    def standardise(self, z: Tensor) -> Tensor:
        """Standard coordinate xi(z)."""

    @abstractmethod
    def unstandardise(self, xi: Tensor) -> Tensor:
        """z(xi), the inverse of `standardise`."""

    @property
    def standard_bounds(self) -> tuple[float, float]:
        """Smallest and largest xi in the support."""
        return -math.inf, math.inf

    @abstractmethod
    def contains(self, z: Tensor) -> Tensor:
        """Is z in the support? Elementwise."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, elementwise: given those before it, where they are correlated."""

    @abstractmethod
    def standard_log_prob(self, xi: Tensor) -> Tensor:
        """Log density of xi, elementwise."""

    @abstractmethod
    def sample_standard(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Draws of xi, float64."""

    def from_normal(self, eta: Tensor) -> Tensor:
        """xi = F^-1(Phi(eta)), elementwise: distributed as the prior says where eta ~ N(0, 1).

        F is the distribution function of xi, by default from a table of its density.
        """
        low, high = self.standard_bounds
        grid = torch.linspace(max(low, -_FAR), min(high, _FAR), _N_TABLE, dtype=torch.float64)
        middle = 0.5 * (grid[1:] + grid[:-1])
        shares = self.standard_log_prob(middle).softmax(0).cumsum(0)
        levels = torch.cat([shares.new_zeros(1), shares]).numpy()
        # Each end of the table from its own side, or its digits would be lost.
        shares = self.standard_log_prob(middle.flip(0)).softmax(0).cumsum(0)
        from_above = torch.cat([shares.new_zeros(1), shares]).numpy()
        tail = torch.special.ndtr(-eta.detach().double().cpu().abs()).numpy()
        left = np.interp(tail, levels, grid.numpy())
        right = np.interp(tail, from_above, grid.flip(0).numpy())
        return torch.where(eta < 0, torch.from_numpy(left).to(eta), torch.from_numpy(right).to(eta))


class StandardNormal(Prior):
    """Base of those with xi ~ N(0, 1)."""

    def standard_log_prob(self, xi: Tensor) -> Tensor:  # noqa: D102
        return -0.5 * xi**2 - 0.5 * math.log(2 * math.pi)

    def sample_standard(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def from_normal(self, eta: Tensor) -> Tensor:  # noqa: D102
        return eta


@dataclass(frozen=True)
class Normal(StandardNormal):
    """z ~ N(mean, std^2); xi = (z - mean) / std."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(**{"mean of Normal": self.mean})
        check_real(0, **{"std of Normal": self.std})
        if not math.isfinite(abs(self.mean) + _FAR * self.std):
            raise InputError(f"draws of {self} overflow; choose other units")

    def standardise(self, z: Tensor) -> Tensor:  # noqa: D102
        return (z - self.mean) / self.std

    def unstandardise(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self.mean + self.std * xi

    def contains(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.isfinite(z)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        return self.standard_log_prob(self.standardise(z)) - math.log(self.std)


@dataclass(frozen=True)
class Uniform(Prior):
    """z ~ U[low, high]; xi in [-sqrt 3, sqrt 3]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(**{"low of Uniform": self.low})
        check_real(self.low, **{"high of Uniform": self.high})
        if not math.isfinite(self.high - self.low):
            raise InputError(f"draws of {self} overflow; choose other units")

    def standardise(self, z: Tensor) -> Tensor:  # noqa: D102
        return _ROOT_3 * (2 * (z - self.low) / (self.high - self.low) - 1)

    def unstandardise(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self.low + 0.5 * (self.high - self.low) * (xi / _ROOT_3 + 1)

    @property
    def standard_bounds(self) -> tuple[float, float]:  # noqa: D102
        return -_ROOT_3, _ROOT_3

    def contains(self, z: Tensor) -> Tensor:  # noqa: D102
        # One part in a million of slack: values on the edge survive a trip through float32.
        slack = 1e-6 * (self.high - self.low)
        return (z >= self.low - slack) & (z <= self.high + slack)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        inside = -math.log(self.high - self.low)
        return torch.where(self.contains(z), torch.full_like(z, inside), -torch.inf)

    def standard_log_prob(self, xi: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(xi, -math.log(2 * _ROOT_3))

    def sample_standard(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        draw = torch.rand(shape, generator=generator, dtype=torch.float64)
        return _ROOT_3 * (2 * draw - 1)

    def from_normal(self, eta: Tensor) -> Tensor:  # noqa: D102
        return _ROOT_3 * torch.special.erf(eta / math.sqrt(2.0))


@dataclass(frozen=True)
class LogUniform(Prior):
    """log z ~ U[log low, log high], 0 < low < high; xi in [-sqrt 3, sqrt 3]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(0, **{"low of LogUniform": self.low})
        check_real(self.low, **{"high of LogUniform": self.high})

    @property
    def _log(self) -> Uniform:
        return Uniform(math.log(self.low), math.log(self.high))

    def standardise(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._log.standardise(z.log())

    def unstandardise(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._log.unstandardise(xi).exp()

    @property
    def standard_bounds(self) -> tuple[float, float]:  # noqa: D102
        return self._log.standard_bounds

    def contains(self, z: Tensor) -> Tensor:  # noqa: D102
        # Slack as that of `Uniform`.
        return (z > 0) & (z >= self.low * (1 - 1e-6)) & (z <= self.high * (1 + 1e-6))

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        log_z = torch.where(z > 0, z, 1.0).log()
        inside = -log_z - math.log(math.log(self.high / self.low))
        return torch.where(self.contains(z), inside, -torch.inf)

    def standard_log_prob(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._log.standard_log_prob(xi)

    def sample_standard(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        return self._log.sample_standard(shape, generator)

    def from_normal(self, eta: Tensor) -> Tensor:  # noqa: D102
        return self._log.from_normal(eta)


@dataclass(frozen=True)
class LogNormal(StandardNormal):
    """log z ~ N(mean, std^2); xi = (log z - mean) / std."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(**{"mean of LogNormal": self.mean})
        check_real(0, **{"std of LogNormal": self.std})
        if abs(self.mean) + _FAR * self.std > _LARGEST_LOG:
            raise InputError(f"draws of {self} overflow or vanish; mean and std are those of log z")

    def standardise(self, z: Tensor) -> Tensor:  # noqa: D102
        return (z.log() - self.mean) / self.std

    def unstandardise(self, xi: Tensor) -> Tensor:  # noqa: D102
        return (self.mean + self.std * xi).exp()

    def contains(self, z: Tensor) -> Tensor:  # noqa: D102
        return (z > 0) & torch.isfinite(z)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        log_z = torch.where(z > 0, z, 1.0).log()
        inside = self.standard_log_prob((log_z - self.mean) / self.std) - math.log(self.std) - log_z
        return torch.where(z > 0, inside, -torch.inf)
