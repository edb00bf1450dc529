"""A discrepancy: what the model lacks, as a Gaussian field that is added to the data.

    y = h(u(z)) + d + e,    d ~ N(0, a^2 K),  K_ij = k(|x_i - x_j| / length),    e ~ N(0, s^2 C)

(Kennedy and O'Hagan, J. R. Stat. Soc. B 63, 2001). The covariance of the misfits y - h has a closed
form. Where a or s have priors they are integrated out: with C = L L^T and the eigenvectors V and
eigenvalues of L^{-1} K L^{-T},

    w = V^T L^{-1} (y - h),    w_i ~ N(0, s^2 + a^2 lambda_i)

costs n numbers for each pair (a, s). Given the misfits,

    d = L V m,    m_i ~ N(g_i w_i, g_i s^2),    g_i = a^2 lambda_i / (s^2 + a^2 lambda_i)
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.distributions import Distribution

from pddlvm.basics.checks import check_count, check_real, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision
from pddlvm.parameters.distributions import prior_of
from pddlvm.parameters.karhunen_loeve import Covariance, gaussian
from pddlvm.parameters.priors import LogNormal, Prior
from pddlvm.parameters.scales import positive
from pddlvm.sensors.levels import Levels
from pddlvm.sensors.noise import Gaussian, Noise, UnknownStd
from pddlvm.sensors.widened import Widened

__all__ = ["Discrepant", "ModelError"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_MOST = 2**23
"""Numbers that are held at a time."""
_N_DRAWN = 256
_RAREST = 1e-300


@dataclass(frozen=True)
class ModelError:
    """What the model lacks: a Gaussian field of mean zero that is added to the data.

    `PointObservation(problem, points, noise, model_error=ModelError(0.05, 0.3))`, or the noise of
    any sensors that have places: `LinearObservation(problem, matrix, error.at(points, noise))`.

    Attributes:
        std: of the field, > 0, in the units of y, or its prior: then it is inferred with z.
        length: correlation length, > 0, in units of the mesh.
        covariance: `gaussian`, `exponential`, `Matern(nu)` or any correlation function.

    Raises:
        InputError: numbers out of range, a prior of a std that is not positive.
    """

    std: "float | Prior | Distribution"
    length: float
    covariance: Covariance = gaussian

    def __post_init__(self) -> None:
        std = prior_of(self.std)
        object.__setattr__(self, "std", std)
        if isinstance(std, Prior):
            positive("std of ModelError", std)
        else:
            check_real(0, **{"std of ModelError": std})
        check_real(0, **{"length of ModelError": self.length})
        if not callable(self.covariance):
            raise InputError(
                "covariance of ModelError must be a function of an array of distances, such as "
                f"gaussian, exponential or Matern(1.5), got {self.covariance!r}"
            )

    def at(
        self,
        points: "ArrayLike | Tensor",
        noise_std: "float | Tensor | Noise",
        n_components: int = 1,
    ) -> Noise:
        """The noise of sensors at points, with the model error in it.

        Args:
            points: (n_points, dim), or a list of numbers in 1D.
            noise_std: as that of an observation; of `Noise` itself Gaussian and UnknownStd.
            n_components: values at each point, with independent errors.

        Raises:
            InputError: noise of another kind, or of another number of sensors.
        """
        check_count(1, n_components=n_components)
        x = numbers_of(points, "points")
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or not np.isfinite(x).all():
            raise InputError(f"points must be finite, (n_points, dim), got shape {x.shape}")
        n = len(x) * n_components
        noise = noise_std if isinstance(noise_std, Noise) else Gaussian(noise_std, n)
        if not isinstance(noise, Gaussian | UnknownStd):
            raise InputError(
                "a model error goes with Gaussian noise, a number for one, or with UnknownStd; "
                f"got {noise!r}"
            )
        if noise.n != n:
            raise InputError(f"the noise is that of {noise.n} sensors, and there are {n}")
        correlation = torch.from_numpy(self.covariance(cdist(x, x) / self.length))
        identity = torch.eye(n_components, dtype=torch.float64)
        return Discrepant(noise, torch.kron(correlation, identity), self)


class Discrepant(Noise):
    """Noise and model error; made by `ModelError.at`.

    Args:
        noise: s^2 C; of `UnknownStd` s is unknown and C = I.
        correlation: K, (n, n).
        error: what K is of.
    """

    def __init__(
        self, noise: "Gaussian | UnknownStd", correlation: Tensor, error: ModelError
    ) -> None:
        self.n, self.noise, self.error, self._correlation = noise.n, noise, error, correlation
        level: float | Prior = 1.0
        self._of_noise = torch.eye(self.n, dtype=torch.float64)
        if isinstance(noise, UnknownStd):
            level = LogNormal(math.log(noise.scale), noise.spread)
        else:
            self._of_noise = noise.covariance()
        assert not isinstance(error.std, Distribution)
        self.levels = Levels(level, error.std)
        self._everything = _Spectrum.of(self._of_noise, correlation, torch.ones(self.n).bool())

    def __repr__(self) -> str:
        return f"{self.error!r}.at({self.n} sensors, {self.noise!r})"

    def variance(self) -> Tensor:  # noqa: D102
        return self.covariance().diagonal()

    def covariance(self) -> Tensor:  # noqa: D102
        s, a = self.levels.middle
        return s**2 * self._of_noise + a**2 * self._correlation

    def sample(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        t = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
        s, a = self.levels.of(t)
        own = self._everything
        std = (s.square() + a.square() * own.values).sqrt()
        w = torch.randn(*shape, self.n, generator=generator, dtype=torch.float64)
        return (std * w) @ own.coloured.T

    def widened(self, seen: Tensor, error: LowRank) -> Widened:  # noqa: D102
        # In units of an unknown s its middle: s^2 (C + error / s_0^2).
        covariance = self._of_noise + error.dense() / self.levels.middle[0] ** 2
        return _WidenedDiscrepant(seen, self, _Spectrum.of(covariance, self._correlation, seen))

    def log_prob(self, misfit: Tensor) -> Tensor:  # noqa: D102
        flat = misfit.reshape(-1, self.n).cpu()
        size = max(1, _MOST // (self.n * self.levels.n_points))
        found = [self.spectral(part, self._of(part)) for part in flat.split(size)]
        return (torch.cat(found) if found else flat.sum(-1)).reshape(misfit.shape[:-1]).to(misfit)

    def spectral(self, misfit: Tensor, spectrum: "_Spectrum") -> Tensor:
        """Log density of misfits (..., batch, n), by the spectra of the batch."""
        square = spectrum.white(misfit).square()
        value = self.levels.joint(square, spectrum.values, spectrum.n_missing)[1]
        found: Tensor = value.logsumexp(-1)
        n_seen = self.n - spectrum.n_missing
        return found - spectrum.log_scale - n_seen * _HALF_LOG_2PI

    def precision(self, misfit: Tensor) -> Precision:  # noqa: D102
        spectrum, flat = self._of(misfit), misfit.double()
        square = spectrum.white(flat).square()
        t, value = self.levels.joint(square, spectrum.values, spectrum.n_missing)
        s, a = self.levels.of(t)
        v = s.square() + a.square() * spectrum.values[..., None, :]
        # The mean of 1 / v given the misfits.
        mean = (value.softmax(-1)[..., None] / v).sum(-2)
        root = mean.sqrt()[..., None] * spectrum.matrix
        # What is missing has s^2 alone in the place of a variance.
        missing = (value.softmax(-1) / s[..., 0].square()).sum(-1).log() * spectrum.n_missing
        log_det = mean.log().sum(-1) - missing - 2 * spectrum.log_scale
        return Precision(root.to(misfit), False, log_det.to(misfit))

    def square(self, misfit: Tensor) -> Tensor:
        """As unlikely, with unknown levels integrated out, as a chi-square of this size."""
        spectrum = self._of(misfit)
        square = spectrum.white(misfit.double()).square()
        s, a = self.levels.middle
        typical = s**2 + a**2 * spectrum.values
        t, weights = self.levels.prior_points
        s_all, a_all = self.levels.of(t)
        # Each level makes of the size a weighted sum of chi-squares, about c chi^2_m.
        ratio = s_all.square() + a_all.square() * spectrum.values[..., None, :]
        ratio, share = ratio / typical[..., None, :], spectrum.share[..., None, :]
        first, second = (ratio * share).sum(-1), (ratio.square() * share).sum(-1)
        size = (square / typical).sum(-1, keepdim=True) * first / second
        tails = scipy.stats.chi2.sf(size.cpu().numpy(), (first.square() / second).cpu().numpy())
        tail = (tails * weights.numpy()).sum(-1).clip(_RAREST, 1.0)
        n_seen = (self.n - spectrum.n_missing).cpu().numpy()
        return torch.as_tensor(scipy.stats.chi2.isf(tail, n_seen)).to(misfit)

    def draw_levels(  # noqa: D102
        self, misfit: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        s, a = self._drawn(misfit, generator)
        found = {"noise_std": (self.levels.noise, s), "model_error_std": (self.levels.field, a)}
        return {name: value for name, (prior, value) in found.items() if isinstance(prior, Prior)}

    def draw_error(self, misfit: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws of the model error at the sensors given misfits (..., n), (..., n), and of its std.

        At sensors that did not measure too.
        """
        s, a = self._drawn(misfit, generator)
        s, a = s[..., None], a[..., None]
        normal = torch.randn(2, *misfit.shape, generator=generator, dtype=torch.float64)
        # Matheron's rule: a draw of both, moved by what it differs from the misfits.
        own = self._everything
        field = a * (own.values.sqrt() * normal[0]) @ own.coloured.T
        noise = s * normal[1] @ torch.linalg.cholesky(self._of_noise).T
        left = misfit.double() - field - noise
        spectrum = self._of(misfit)
        white = spectrum.white(left) / (s.square() + a.square() * spectrum.values)
        weights = (white[..., None, :] @ spectrum.matrix)[..., 0, :]
        return field + a.square() * weights @ self._correlation, a[..., 0]

    def _drawn(self, misfit: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        flat, found = misfit.detach().double().cpu().reshape(-1, self.n), []
        for part in flat.split(_N_DRAWN):
            own = self._of(part)
            square = own.white(part).square()
            found.append(self.levels.drawn(square, own.values, own.n_missing, generator))
        s, a = self.levels.of(torch.cat(found).reshape(*misfit.shape[:-1], 2))
        return s[..., 0], a[..., 0]

    def _of(self, misfit: Tensor) -> "_Spectrum":
        """Of the values that misfits (..., n) have: one for all where none is missing."""
        seen = ~torch.isnan(misfit.detach().cpu())
        if seen.all():
            return self._everything
        masks, which = seen.reshape(-1, self.n).unique(dim=0, return_inverse=True)
        found = _Spectrum.of(self._of_noise, self._correlation, masks)
        return found.at(which.reshape(seen.shape[:-1]))


@dataclass(frozen=True)
class _Spectrum:
    """W = V^T L^{-1}, of a batch of noises.

    Attributes:
        matrix: W, (..., n, n); its rows and columns of missing values are zero.
        values: lambda, (..., n); zero of what is missing.
        log_scale: log |L|, (...,).
        n_missing: (...,).
        share: 1 of directions that measured, 0 of what is missing, (..., n).
    """

    matrix: Tensor
    values: Tensor
    log_scale: Tensor
    n_missing: Tensor
    share: Tensor

    @classmethod
    def of(cls, covariance: Tensor, correlation: Tensor, seen: Tensor) -> "_Spectrum":
        """Of C (..., n, n) and K (n, n), and which values count (..., n)."""
        both = seen[..., :, None] & seen[..., None, :]
        # The identity in the place of what is missing keeps the others' block apart.
        block = covariance * both + torch.diag_embed((~seen).double())
        factor = torch.linalg.cholesky(block)
        half = torch.linalg.solve_triangular(factor, correlation * both, upper=False)
        inner = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        values, vectors = torch.linalg.eigh(0.5 * (inner + inner.mT))
        matrix = (
            torch.linalg.solve_triangular(factor.mT, vectors, upper=True).mT * seen[..., None, :]
        )
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        share = (vectors.square() * seen[..., None]).sum(-2)
        return cls(matrix, values.clamp(min=0), log_scale, (~seen).sum(-1).double(), share)

    def at(self, index: Tensor) -> "_Spectrum":
        """Those of some of the batch."""
        parts = (self.matrix, self.values, self.log_scale, self.n_missing, self.share)
        return _Spectrum(*(part[index] for part in parts))

    def white(self, misfit: Tensor) -> Tensor:
        """W misfit, (..., n)."""
        return (self.matrix @ misfit.nan_to_num().double()[..., None])[..., 0]

    @property
    def coloured(self) -> Tensor:
        """The inverse of W, where nothing is missing."""
        return torch.linalg.inv(self.matrix)


@dataclass(frozen=True)
class _WidenedDiscrepant(Widened):
    noise: Discrepant
    spectrum: _Spectrum

    def at(self, index: Tensor) -> "_WidenedDiscrepant":
        return _WidenedDiscrepant(self.seen[index], self.noise, self.spectrum.at(index))

    def log_prob(self, misfit: Tensor) -> Tensor:
        found = self.noise.spectral(torch.where(self.seen, misfit, 0.0), self.spectrum)
        lost = (self.seen & ~torch.isfinite(misfit)).any(-1)
        return torch.where(lost, torch.nan, found)
