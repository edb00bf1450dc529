"""Noise that forgets: correlated in time, independent between sensors.

    e_k = rho_k e_{k-1} + std sqrt(1 - rho_k^2) w_k,    w_k ~ N(0, 1)
    rho_k = exp(-(t_k - t_{k-1}) / tau)
    C_kl = std^2 exp(-|t_k - t_l| / tau)

The inverse of the Cholesky factor of C has two numbers in each row, so that densities cost O(n).
Of times that were not measured the same holds for those that were: rho of a gap is that of its
length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_real, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.basics.owned import own_fields
from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision
from pddlvm.sensors.noise import Noise, check_sensors
from pddlvm.sensors.widened import Widened, WidenedGaussian

__all__ = ["AR1"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_LEAST = 1e-14
"""Of what a value adds to the one before: with less both would be one value."""


@dataclass(frozen=True)
class AR1(Noise):
    """An autoregression of first order of each sensor, from its stationary state on.

    The data are those of `PointObservation(problem, points, noise, times=...)`: all sensors of a
    time after each other.

    Attributes:
        std: of each value, > 0, in the units of y.
        times: of the data, (n_times,), increasing.
        n_sensors: values at each time.
        correlation_time: tau, > 0, after which a correlation is 1 / e.
        correlation: in its place that of neighbours in time, between 0 and 1; of times that are
            equally far from each other.

    Raises:
        InputError: times that do not increase, both correlations or none, numbers out of range.
    """

    std: float
    times: "ArrayLike | Tensor"
    n_sensors: int = 1
    correlation_time: float | None = None
    correlation: float | None = None

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(0, **{"std of AR1": self.std})
        check_count(1, n_sensors=self.n_sensors)
        times = np.atleast_1d(numbers_of(self.times, "times"))
        if times.ndim != 1 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
            raise InputError("times of AR1 must be finite, and increase, (n_times,)")
        object.__setattr__(self, "times", tuple(times.tolist()))
        check_sensors(self.n)
        if (self.correlation_time is None) == (self.correlation is None):
            raise InputError("AR1 needs correlation_time or correlation, one of them")
        if self.correlation_time is not None:
            check_real(0, correlation_time=self.correlation_time)
            return
        check_kind(int | float, correlation=self.correlation)
        assert self.correlation is not None
        if not 0 <= self.correlation < 1:
            raise InputError(f"correlation must be from 0 to below 1, got {self.correlation}")
        gaps = np.diff(times)
        if len(gaps) and not np.allclose(gaps, gaps[0], rtol=1e-6):
            raise InputError(
                "correlation is that of neighbours at equal distances, and these times are from "
                f"{gaps.min():g} to {gaps.max():g} apart; give correlation_time"
            )

    @property
    def n(self) -> int:  # type: ignore[override]
        """Number of values."""
        return len(self._at) * self.n_sensors

    def variance(self) -> Tensor:  # noqa: D102
        return torch.full((self.n,), self.std**2, dtype=torch.float64)

    def covariance(self) -> Tensor:  # noqa: D102
        t = torch.tensor(self._at, dtype=torch.float64)
        in_time = self._decay((t[:, None] - t).abs())
        return self.std**2 * torch.kron(in_time, torch.eye(self.n_sensors, dtype=torch.float64))

    def widened(self, seen: Tensor, error: LowRank) -> Widened:  # noqa: D102
        misfit = torch.where(seen, 0.0, torch.nan).to(error.factor)
        return WidenedGaussian(seen, self.precision(misfit).widened(error))

    def square(self, misfit: Tensor) -> Tensor:  # noqa: D102
        return self._white(misfit)[0].square().sum(-1)

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        white, scale = self._white(misfit)
        density = -0.5 * white.square() - scale.log() - _HALF_LOG_2PI
        return torch.where(torch.isnan(misfit), 0.0, density).sum(-1)

    def precision(self, misfit: Tensor) -> Precision:  # noqa: D102
        seen = ~torch.isnan(misfit)
        before, rho = self._before(seen)
        scale = self._scale(rho).to(misfit)
        root = torch.diag_embed(seen / scale)
        index = before.clamp(min=0)[..., None]
        root = root.scatter_add(-1, index, -(rho * seen / scale).to(misfit)[..., None])
        log_det = -2 * torch.where(seen, scale.log(), 0.0).sum(-1)
        return Precision(root, False, log_det)

    def sample(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        size = (*shape, len(self._at), self.n_sensors)
        w = torch.randn(size, generator=generator, dtype=torch.float64)
        gaps = np.diff(self._at)
        found = [w[..., 0, :]]
        for k, gap in enumerate(gaps.tolist()):
            rho = float(self._decay(torch.tensor(gap, dtype=torch.float64)))
            found.append(rho * found[-1] + math.sqrt(1 - rho**2) * w[..., k + 1, :])
        return self.std * torch.stack(found, dim=-2).flatten(-2)

    @property
    def _at(self) -> Sequence[float]:
        assert isinstance(self.times, tuple)
        return self.times

    def _decay(self, gap: Tensor) -> Tensor:
        """Correlation over a time."""
        if self.correlation_time is not None:
            return (-gap / self.correlation_time).exp()
        assert self.correlation is not None
        step = self._at[1] - self._at[0] if len(self._at) > 1 else 1.0
        return torch.full_like(gap, self.correlation) ** (gap / step)

    def _scale(self, rho: Tensor) -> Tensor:
        return self.std * (1 - rho.square()).clamp(min=_LEAST).sqrt()

    def _white(self, misfit: Tensor) -> tuple[Tensor, Tensor]:
        """Independent standard normal numbers of misfits (..., n), and what they are divided by."""
        seen = ~torch.isnan(misfit)
        before, rho = self._before(seen)
        whole = misfit.nan_to_num()
        rho, scale = rho.to(misfit), self._scale(rho).to(misfit)
        last = whole.gather(-1, before.clamp(min=0))
        return torch.where(seen, (whole - rho * last) / scale, 0.0), scale

    def _before(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Place of the value before each one at the same sensor that was seen, and rho.

        Of the first one -1 and zero; both (..., n).
        """
        n_times, n = len(self._at), self.n_sensors
        step = torch.arange(n_times, device=seen.device)[:, None]
        own = torch.where(seen.unflatten(-1, (n_times, n)), step, -1).cummax(-2).values
        before = torch.cat([torch.full_like(own[..., :1, :], -1), own[..., :-1, :]], dim=-2)
        t = torch.tensor(self._at, dtype=torch.float64, device=seen.device)
        rho = self._decay(t[:, None] - t[before.clamp(min=0)])
        rho = torch.where(before < 0, 0.0, rho)
        sensor = torch.arange(n, device=seen.device)
        place = torch.where(before < 0, -1, before * n + sensor)
        return place.flatten(-2), rho.flatten(-2)
