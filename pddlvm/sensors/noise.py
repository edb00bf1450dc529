"""Measurement noise: log density of misfits y - H u, and draws.

    Gaussian        e ~ N(0, C),   C = std^2 I, diag(std^2) or full
    StudentT        e_i ~ std t_df: heavy tails, for outliers
    UnknownStd      e ~ N(0, s^2 I),   log s ~ N(log scale, spread^2), s integrated out
    ModelError      a Gaussian field beside the noise, in `pddlvm.sensors.model_error`

Values that are missing (NaN) are left out: the density is that of the others. Where values are
independent nothing is of size n x n, unless `covariance()` is asked for.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from scipy.special import wrightomega
from torch import Tensor

from pddlvm.basics.checks import check_count, check_real, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.basics.owned import own_fields
from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision
from pddlvm.sensors.widened import Rescaled, Widened, WidenedGaussian

__all__ = ["Gaussian", "Noise", "StudentT", "UnknownStd", "check_sensors"]

_MOST_SENSORS = 20_000
"""With matrices of 3 GB where they are needed: full covariances, amortised posteriors."""


def check_sensors(n: int) -> None:
    """Raise an InputError if this is no number of sensors, or too large a one."""
    check_count(1, **{"the number n of sensors": n})
    if n > _MOST_SENSORS:
        raise InputError(
            f"{n} sensors are too many: some methods need matrices with {n} rows and columns; give "
            f"at most {_MOST_SENSORS}, by averages of neighbours (LinearObservation), or a whole "
            "field to inverse(u, noise_std=...)"
        )


class Noise(ABC):
    """Distribution of the misfits of n sensors."""

    n: int

    @abstractmethod
    def log_prob(self, misfit: Tensor) -> Tensor:
        """Log density of misfits (..., n), (...,); NaN stands for a missing value."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Draws (*shape, n), float64."""

    @abstractmethod
    def variance(self) -> Tensor:
        """Variances, or stand-ins of the same size, (n,), float64."""

    def covariance(self) -> Tensor:
        """Covariance, or a stand-in of the same size, (n, n), float64."""
        return self.variance().diag()

    @abstractmethod
    def widened(self, seen: Tensor, error: LowRank) -> Widened:
        """The noise of the sensors that measured, plus the error of a prediction.

        Args:
            seen: booleans (batch, n).
            error: covariance of an independent Gaussian error, of a batch. Noise that is not
                Gaussian takes it as an increase of its scale.
        """

    def draw_levels(self, misfit: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws of unknown levels given misfits (..., n), (...,) each, by their names."""
        return {}

    @abstractmethod
    def square(self, misfit: Tensor) -> Tensor:
        """Size of misfits (..., n), (...,), by which they can be called surprising.

        Of noise it is a chi-square, with a degree of freedom for each value that is not missing.
        """

    @abstractmethod
    def precision(self, misfit: Tensor) -> Precision:
        """P with d log p / d misfit = -P misfit, positive semi-definite, for misfits (..., n).

        Where the density is not Gaussian P depends on the misfit (reweighted least squares); the
        rows of missing values are zero.
        """


class Gaussian(Noise):
    """N(0, C).

    Args:
        std: a number, one per sensor (n,), or the full covariance (n, n); in the units of y.
        n: number of sensors.

    Raises:
        InputError: not positive, not finite, or of another size.
    """

    def __init__(self, std: float | Tensor, n: int) -> None:
        check_sensors(n)
        given = torch.from_numpy(numbers_of(std, "noise_std"))
        if not torch.isfinite(given).all():
            raise InputError("the noise has values that are not finite")
        if given.ndim == 2:
            if given.shape != (n, n) or not torch.allclose(given, given.T):
                raise InputError(
                    f"a noise covariance must be symmetric of shape ({n}, {n}), got "
                    f"{tuple(given.shape)}"
                )
            factor, info = torch.linalg.cholesky_ex(given)
            if info:
                raise InputError("the noise covariance is not positive definite")
            self._factor = factor
        elif given.shape not in ((), (n,)):
            raise InputError(
                f"noise_std must be a number or have {n} values, got {tuple(given.shape)}"
            )
        elif not (given > 0).all():
            raise InputError(f"noise_std must be positive, got {float(given.min())}")
        self.n, self._given = n, given
        self.is_diagonal = given.ndim < 2

    def __repr__(self) -> str:
        kind = "diagonal" if self.is_diagonal else "full"
        return f"Gaussian({self.n} sensors, {kind})"

    def variance(self) -> Tensor:  # noqa: D102
        return self._given.square().expand(self.n) if self.is_diagonal else self._given.diagonal()

    def covariance(self) -> Tensor:  # noqa: D102
        return super().covariance() if self.is_diagonal else self._given

    def widened(self, seen: Tensor, error: LowRank) -> Widened:  # noqa: D102
        misfit = torch.where(seen, 0.0, torch.nan).to(error.factor)
        return WidenedGaussian(seen, self.precision(misfit).widened(error))

    def square(self, misfit: Tensor) -> Tensor:  # noqa: D102
        none = torch.where(torch.isnan(misfit), misfit, 0.0)
        return 2 * (self.log_prob(none) - self.log_prob(misfit))

    def precision(self, misfit: Tensor) -> Precision:  # noqa: D102
        seen = ~torch.isnan(misfit)
        if self.is_diagonal:
            return Precision.of_weights(seen / self._given.to(misfit).square())
        both = seen[..., :, None] & seen[..., None, :]
        # The identity in the place of what is missing keeps the others' block apart.
        block = self._given.to(misfit) * both + torch.diag_embed((~seen).to(misfit))
        factor = torch.linalg.cholesky(block)
        identity = torch.eye(self.n).to(misfit)
        root = torch.linalg.solve_triangular(factor, identity, upper=False) * both
        log_det = -2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return Precision(root, False, log_det)

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        seen = ~torch.isnan(misfit)
        if self.is_diagonal:
            std = self._given.to(misfit)
            # No NaN in the density: its gradient would be NaN where it does not count.
            density = -0.5 * (misfit.nan_to_num() / std).square() - std.log() - _HALF_LOG_2PI
            return torch.where(seen, density, 0.0).sum(-1)
        if seen.all():
            factor = self._factor.to(misfit)
            right = misfit.reshape(-1, len(factor)).T
            white = torch.linalg.solve_triangular(factor, right, upper=False)
            constant = factor.diagonal().log().sum() + len(factor) * _HALF_LOG_2PI
            return (-0.5 * white.square().sum(0) - constant).reshape(misfit.shape[:-1])
        flat, masks = misfit.reshape(-1, misfit.shape[-1]), seen.reshape(-1, seen.shape[-1])
        found, matrix = flat.new_empty(len(flat)), self._given.to(flat.device)
        for mask in masks.unique(dim=0):
            rows = (masks == mask).all(-1)
            factor = torch.linalg.cholesky(matrix[mask][:, mask]).to(misfit)
            white = torch.linalg.solve_triangular(factor, flat[rows][:, mask].T, upper=False)
            constant = factor.diagonal().log().sum() + int(mask.sum()) * _HALF_LOG_2PI
            found[rows] = -0.5 * white.square().sum(0) - constant
        return found.reshape(misfit.shape[:-1])

    def sample(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        normal = torch.randn(*shape, self.n, generator=generator, dtype=torch.float64)
        return self._given * normal if self.is_diagonal else normal @ self._factor.T


@dataclass(frozen=True)
class StudentT(Noise):
    """Independent std t_df.

    Attributes:
        std: scale, > 0, in the units of y (the standard deviation is larger).
        n: number of sensors.
        df: degrees of freedom, > 2.
    """

    std: float
    n: int
    df: float = 4.0

    def __post_init__(self) -> None:
        own_fields(self)
        check_count(1, n=self.n)
        check_real(0, **{"std of StudentT": self.std})
        check_real(2, **{"df of StudentT": self.df})

    def variance(self) -> Tensor:  # noqa: D102
        variance = self.std**2 * self.df / (self.df - 2)
        return torch.tensor(variance, dtype=torch.float64).expand(self.n)

    def widened(self, seen: Tensor, error: LowRank) -> Widened:  # noqa: D102
        return Rescaled.of(self.log_prob, self.std, seen, error)

    def square(self, misfit: Tensor) -> Tensor:  # noqa: D102
        # As unlikely as a standard normal value of this size; outliers are what this noise is for.
        size = misfit.nan_to_num().abs().cpu().numpy()
        tail = scipy.stats.t.sf(size / self.std, self.df)
        score = torch.from_numpy(scipy.stats.norm.isf(tail)).to(misfit)
        return score.clamp(max=_OUTLIER).square().sum(-1)

    def precision(self, misfit: Tensor) -> Precision:  # noqa: D102
        seen = ~torch.isnan(misfit)
        square = misfit.nan_to_num().square()
        return Precision.of_weights(seen * (self.df + 1) / (self.df * self.std**2 + square))

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        seen = ~torch.isnan(misfit)
        density = torch.distributions.StudentT(self.df, 0.0, self.std, validate_args=False)
        return torch.where(seen, density.log_prob(misfit.nan_to_num()), 0.0).sum(-1)

    def sample(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        size = (*shape, self.n)
        normal = torch.randn(size, generator=generator, dtype=torch.float64)
        half = torch.full(size, 0.5 * self.df, dtype=torch.float64)
        # No function of torch with a name of its own draws a Gamma from a generator.
        chi2 = 2 * torch._standard_gamma(half, generator=generator)
        return self.std * normal * (self.df / chi2).sqrt()


@dataclass(frozen=True)
class UnknownStd(Noise):
    """N(0, s^2 I) with log s ~ N(log scale, spread^2); its density has s integrated out.

    Attributes:
        scale: median of s, > 0, in the units of y.
        spread: standard deviation of log s, > 0.
        n: number of sensors.
    """

    scale: float
    spread: float
    n: int

    def __post_init__(self) -> None:
        own_fields(self)
        check_count(1, n=self.n)
        check_real(0, **{"scale of UnknownStd": self.scale, "spread of UnknownStd": self.spread})

    def variance(self) -> Tensor:  # noqa: D102
        return torch.tensor(self.scale**2, dtype=torch.float64).expand(self.n)

    def widened(self, seen: Tensor, error: LowRank) -> Widened:  # noqa: D102
        return Rescaled.of(self.log_prob, self.scale, seen, error)

    def square(self, misfit: Tensor) -> Tensor:  # noqa: D102
        # As unlikely, with s integrated out, as a chi-square of this size.
        count, square = self._count_and_square(misfit.cpu())
        n, ratio = count.clamp(min=1).numpy(), (square / self.scale**2).numpy()
        # The tail of the chi-square falls from 1 to 0 around the s that explains the misfits.
        centre = np.log(ratio / n) / (2 * self.spread)
        steep = centre + _STEEP / (self.spread * np.sqrt(2 * n))
        t = np.sort(
            np.concatenate([np.broadcast_to(_WIDE, (*n.shape[:-1], len(_WIDE))), steep], -1)
        )
        # One that overflows is infinitely surprising; its tail is zero.
        with np.errstate(over="ignore"):
            tail = scipy.stats.chi2.sf(ratio * np.exp(-2 * self.spread * t), n)
        tail = np.trapezoid(scipy.stats.norm.pdf(t) * tail, t).clip(_RAREST, 1.0)
        return torch.as_tensor(scipy.stats.chi2.isf(tail, n[..., 0])).to(misfit)

    def precision(self, misfit: Tensor) -> Precision:  # noqa: D102
        log_s, density = self._joint(misfit)
        # The mean of 1 / s^2 given the misfits.
        mean = (density.softmax(-1) * (-2 * log_s).exp()).sum(-1, keepdim=True).to(misfit)
        return Precision.of_weights(~torch.isnan(misfit) * mean)

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        return torch.logsumexp(self._joint(misfit)[1], dim=-1).to(misfit)

    def draw_levels(  # noqa: D102
        self, misfit: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        log_s, density = self._joint(misfit.detach().cpu())
        weights = density.softmax(-1)
        rows = weights.reshape(-1, weights.shape[-1]).multinomial(1, generator=generator)
        found = log_s.reshape(-1, log_s.shape[-1]).gather(-1, rows)
        return {"noise_std": found.exp().reshape(misfit.shape[:-1])}

    def _joint(self, misfit: Tensor) -> tuple[Tensor, Tensor]:
        """Points log s and log p(misfit, log s) with the weight of each, (..., n_points), float64.

        With log s = log scale + spread t the logarithm of the integrand, of n misfits, is

            -t^2 / 2 - n spread t - S exp(-2 spread t) / 2,     S = |misfit|^2 / scale^2,

        greatest where v exp(v) = 2 spread^2 S exp(2 n spread^2), v = 2 spread (t + n spread), and x
        from there no larger than -x^2 / 2 (1 + v), for x < 0, or -x^2 / 2 (1 + v / (1 + spread x)).
        The trapezoidal rule between the ends at which nothing is left converges geometrically.
        """
        count, square = self._count_and_square(misfit)
        with torch.no_grad():
            a = (2 * self.spread**2 * square / self.scale**2).log() + 2 * count * self.spread**2
            # wrightomega(a) exp(wrightomega(a)) = exp(a), which may overflow.
            v = torch.as_tensor(wrightomega(a.cpu().numpy())).to(a)
            # t = v / (2 spread) - n spread, of two numbers that cancel, by the logarithms.
            mode = (a - 2 * count * self.spread**2 - v.log()) / (2 * self.spread)
            left = _REACH / (1 + v).sqrt()
            b = self.spread * _REACH**2
            right = ((b + (b**2 + 4 * v * _REACH**2).sqrt()) / (2 * v)).clamp(max=_REACH)
            share = torch.linspace(0, 1, _N_POINTS, dtype=square.dtype, device=square.device)
            t = mode - left + (left + right) * share
            log_step = ((left + right) / (_N_POINTS - 1)).log()
        log_s = math.log(self.scale) + self.spread * t
        density = -0.5 * square * (-2 * log_s).exp() - count * (log_s + _HALF_LOG_2PI)
        return log_s, density - 0.5 * t.square() - _HALF_LOG_2PI + log_step

    def _count_and_square(self, misfit: Tensor) -> tuple[Tensor, Tensor]:
        """Number of misfits that are not missing and sum of their squares, (..., 1), float64."""
        count = (~torch.isnan(misfit)).sum(-1, keepdim=True).double()
        square = misfit.nan_to_num().double().square().sum(-1, keepdim=True)
        return count, square.clamp(min=_SMALLEST * self.scale**2)

    def sample(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        log_s = torch.randn(*shape, 1, generator=generator, dtype=torch.float64) * self.spread
        normal = torch.randn(*shape, self.n, generator=generator, dtype=torch.float64)
        return self.scale * log_s.exp() * normal


_OUTLIER = 3.0
"""Standard deviations that an outlier counts in the size of misfits at most."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_REACH, _N_POINTS = 9.0, 257
"""Standard deviations to each side where nothing is left of a density; points between."""
_WIDE = np.linspace(-9.0, 38.0, 2705)
_STEEP = np.linspace(-12.0, 12.0, 257)
_RAREST, _SMALLEST = 1e-300, 1e-200
