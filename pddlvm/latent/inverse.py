"""What the inverse maps return: distributions of parameters.

Intervals have the shape that errors were found to have (`ErrorShape`).
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine
from torch.special import ndtr, ndtri

from pddlvm.basics.checks import broadcast_batch, check_level, check_shape
from pddlvm.basics.random import generator_of
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.prediction import unflatten
from pddlvm.latent.widths import verdict_on_width
from pddlvm.parameters.space import ParameterSpace

__all__ = ["Inverse", "known_inverse"]

_FARTHEST = 9.0
"""Standard deviations beyond which a normal number has no weight in float64."""
_N_NODES = 6
_N_PAIRS, _INSIDE = 512, 1e-9
"""Of even draws; and the ends of their levels."""
_ROUNDING = 1e-6
_SURPRISING = 1e-3
_UNKNOWN = "reject: nothing is known of the errors of this map; train it, or call model.calibrate()"


@dataclass(frozen=True)
class Inverse:
    """p(z | u): m + s T(g) in the standard coordinates xi of the prior, truncated to its reach.

        xi = m + s T(g),   g ~ N(0, 1) between alpha and beta,   xi(alpha), xi(beta) the bounds

    Where the support has no end, the bounds are those beyond which 3e-7 of the prior lies. Known
    parameters have s = 0 and are certain. Moments and quantiles of parameters that the prior
    correlates, functions of several xi, are those of draws.

    Attributes:
        xi_mean, xi_std: m and s, (..., d); m lies in the support.
        prior: of z.
        shape: T, by default the identity; one for all, or one for each member of the batch.
        misfit: of u, at the most probable z, (...,).
        p_value: probability that a true solution (with the noise that was given) has a larger
            misfit, (...,); None before a calibration.
        advice: what to try where it is small.
        told: to what the forward map tells xi, (d,), where that is known: see `Widths`.
    """

    xi_mean: Tensor
    xi_std: Tensor
    prior: ParameterSpace
    shape: ErrorShape = field(default_factory=lambda: ErrorShape.gaussian(torch.empty(())))
    misfit: Tensor | None = None
    p_value: Tensor | None = None
    advice: str = ""
    told: Tensor | None = None

    @property
    def verdict(self) -> list[str] | str:
        """Accept, refine or reject with the reason and what to try; a list for a batch."""
        if self.p_value is None:
            texts = [_UNKNOWN] * self.xi_mean.shape[:-1].numel()
        else:
            stds = self.xi_std.reshape(-1, self.xi_std.shape[-1])
            pairs = zip(self.p_value.flatten().tolist(), stds, strict=True)
            texts = [self._verdict(p, std) for p, std in pairs]
        return texts if self.xi_mean.ndim > 1 else texts[0]

    def _verdict(self, p_value: float, std: Tensor) -> str:
        if p_value >= _SURPRISING:
            return "accept" if self.told is None else verdict_on_width(std, self.told)
        return f"reject: these parameters do not explain u (p = {p_value:.1e}); {self.advice}"

    @property
    def mean(self) -> Tensor:
        """Mean of z, (..., d)."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of z, (..., d)."""
        return self._moments[1]

    @property
    def median(self) -> Tensor:
        """Median of each parameter, (..., d)."""
        return self._marginal(0.5)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each parameter, (..., d) each.

        Args:
            level: probability with which it holds the parameter, between 0 and 1.
        """
        tail = 0.5 - 0.5 * check_level(level)
        return self._marginal(tail), self._marginal(1 - tail)

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Parameters, (*shape, ..., d), all in the support of the prior."""
        generator = None if seed is None else generator_of(seed)
        size = (*check_shape(shape), *self.xi_mean.shape)
        # On every device the same: drawn on the CPU.
        level = torch.rand(size, generator=generator, dtype=torch.float64)
        return self._quantile(level.to(self.xi_mean.device))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,): -inf beyond the bounds; known parameters are left out."""
        z = self.prior.vectors(z).to(self.xi_mean.device)
        broadcast_batch(z=z, mean=self.xi_mean)
        inside = self.prior.contains(z)
        # Something harmless where z is outside, so that no NaN arises.
        z = torch.where(inside, z, self.median.to(z))
        xi = self.prior.standardise(z)
        low, high = self._ends
        inside = inside & (xi > low - _ROUNDING) & (xi < high + _ROUNDING)
        unknown = self.xi_std > 0
        std = torch.where(unknown, self.xi_std, 1.0)
        density = self._shape.log_prob((xi - self.xi_mean) / std) - std.log()
        density = density - self._mass.log().to(density)
        # d xi / d z, from the ratio of the two densities of the prior.
        density = density + self._log_jacobian(z, xi)
        return torch.where(inside, torch.where(unknown, density, 0.0), -torch.inf).sum(-1)

    def _log_jacobian(self, z: Tensor, xi: Tensor) -> Tensor:
        z_parts, xi_parts = self.prior.split(z), self.prior.split(xi)
        return torch.cat(
            [
                block.prior.log_prob(z_parts[name]) - block.prior.standard_log_prob(xi_parts[name])
                for name, block in self.prior.blocks.items()
            ],
            dim=-1,
        )

    def _marginal(self, p: float) -> Tensor:
        """z below which a parameter lies with probability p, (..., d)."""
        found = self._quantile(torch.full_like(self.xi_mean, p))
        if self._is_mixed is None:
            return found
        ordered, at = self._draws.sort(dim=0).values, p * len(self._draws) - 0.5
        left = min(max(int(at), 0), len(ordered) - 2)
        own = ordered[left].lerp(ordered[left + 1], min(max(at - left, 0.0), 1.0))
        return torch.where(self._is_mixed, own, found)

    @property
    def _is_mixed(self) -> Tensor | None:
        """Which parameters the prior correlates, (d,), where it does."""
        mixing = self.prior.mixing
        if mixing is None:
            return None
        return (mixing != torch.eye(len(mixing))).any(-1).to(self.xi_mean.device)

    @cached_property
    def _draws(self) -> Tensor:
        """Even draws of z, (n, ..., d), each with its mirror image."""
        half = SobolEngine(self.prior.size, scramble=True, seed=0).draw(_N_PAIRS)
        levels = torch.cat([half, 1 - half]).to(self.xi_mean.device, torch.float64)
        levels = levels.reshape(-1, *[1] * (self.xi_mean.ndim - 1), levels.shape[-1])
        return self._quantile(levels.clamp(_INSIDE, 1 - _INSIDE))

    def _quantile(self, p: Tensor) -> Tensor:
        """z of xi that each lie below with probability p, (..., d)."""
        alpha, beta = self._limits
        return self._z_of((ndtri(ndtr(alpha) + p * self._mass)).clamp(alpha, beta))

    def _z_of(self, g: Tensor) -> Tensor:
        xi = self.xi_mean.double() + self.xi_std.double() * self._shape(g)
        return self.prior.unstandardise(self.prior.clamp_standard(xi.to(self.xi_mean)))

    @cached_property
    def _shape(self) -> ErrorShape:
        return ErrorShape(self.shape.values.to(self.xi_mean.device, torch.float64))

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest xi, (..., d), float64: as far as the prior reaches, and m +- s.

        Tails of errors are fitted to all draws: those of a wide s would leave the prior.
        """
        m, s = self.xi_mean.double(), self.xi_std.double()
        (first, last), (low, high) = self.prior.standard_bounds(m), self.prior.reach(m)
        return (m - s).minimum(low).maximum(first), (m + s).maximum(high).minimum(last)

    @cached_property
    def _limits(self) -> tuple[Tensor, Tensor]:
        """alpha and beta, (..., d), float64."""
        m, s = self.xi_mean.double(), self.xi_std.double().clamp(min=1e-300)
        low, high = self._ends
        ends = ((low - m) / s).clamp(max=0), ((high - m) / s).clamp(min=0)
        alpha, beta = (self._shape.inverse(end)[0] for end in ends)
        return alpha, beta

    @property
    def _mass(self) -> Tensor:
        """Phi(beta) - Phi(alpha), at least about a half because m lies in the support."""
        alpha, beta = self._limits
        return ndtr(beta) - ndtr(alpha)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z by quadrature over g, between the knots of T."""
        alpha, beta = (limit.clamp(-_FARTHEST, _FARTHEST) for limit in self._limits)
        edges = self._shape.edges(_FARTHEST)
        edges = edges.reshape(-1, *[1] * alpha.ndim).clamp(alpha, beta)
        middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * edges.diff(dim=0)
        total = first = second = torch.zeros_like(alpha)
        centre = self._z_of(torch.zeros_like(alpha)).double()
        for node, weight in zip(*np.polynomial.legendre.leggauss(_N_NODES), strict=True):
            g = middle + node * half
            mass = weight * half * (-0.5 * g.square()).exp()
            z = self._z_of(g).double() - centre
            total = total + mass.sum(0)
            first = first + (mass * z).sum(0)
            second = second + (mass * z.square()).sum(0)
        mean = first / total
        variance = (second / total - mean.square()).clamp(min=0)
        certain, is_mixed = self.xi_std == 0, self._is_mixed
        mean = centre + torch.where(certain, 0.0, mean)
        std = torch.where(certain, 0.0, variance.sqrt())
        if is_mixed is not None:
            z = self._draws.double()
            mean, std = (
                torch.where(is_mixed, own, found)
                for own, found in ((z.mean(0), mean), (z.std(0, correction=0), std))
            )
        return mean.to(self.xi_mean), std.to(self.xi_mean)


def known_inverse(
    mean: Tensor,
    std: Tensor,
    shape: ErrorShape,
    xi_known: Tensor,
    known: Tensor,
    batch: torch.Size,
    prior: ParameterSpace,
) -> Inverse:
    """An `Inverse` with the known parameters in place, without spread."""
    unknown = 1 - known
    mean, std = mean * unknown + xi_known, std * unknown
    shape = ErrorShape(unflatten(shape.values, batch))
    return Inverse(unflatten(mean, batch), unflatten(std, batch), prior, shape)
