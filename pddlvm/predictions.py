"""What the maps return: Gaussians over solutions and over parameters.

Everything beyond the mean coefficients is computed when it is asked for, and kept.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal
from torch.special import ndtr, ndtri

from pddlvm.memory import multiply
from pddlvm.parameters import ParameterSpace
from pddlvm.priors import LogNormal
from pddlvm.representation import Representation

__all__ = ["Forward", "Inverse"]

_RELATIVE_FLOOR = 1e-7


@dataclass(frozen=True)
class Forward:
    """q(u | z) = N(V mean_c + L a(z), V diag(var_c) V^T + diag(var_rest)).

    Attributes:
        c: mean coefficients, (..., n_modes).
        representation: V and L.
    """

    c: Tensor
    representation: Representation
    _augmented: Tensor
    _variances: Callable[[], tuple[Tensor, Tensor]]
    _residual_norm: Callable[[], Tensor]
    _dtype: torch.dtype

    @cached_property
    def mean(self) -> Tensor:
        """Mean solution, (..., n_dofs)."""
        return multiply(self._augmented, self.representation.rows).to(self._dtype)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation, (..., n_dofs); zero on the Dirichlet boundary."""
        var_c, var_rest = self._both_variances
        return (var_c @ self.representation.vectors.square().T + var_rest).sqrt().to(self._dtype)

    @cached_property
    def residual_norm(self) -> Tensor:
        """Certificate |r| / |u| of the mean, in the norms of K0^{-1} and K0, (...,).

        Where K(z) is close to K0 this is the relative error of the mean in the energy norm.
        """
        return self._residual_norm()

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Solutions, (*shape, ..., n_dofs)."""
        generator = None if seed is None else torch.Generator(self.c.device).manual_seed(seed)
        var_c, var_rest = self._both_variances
        mean = self.mean.to(var_c)

        def noise(like: Tensor) -> Tensor:
            return torch.randn(
                (*shape, *like.shape), generator=generator, dtype=like.dtype, device=like.device
            )

        u = mean + (var_c.sqrt() * noise(var_c)) @ self.representation.vectors.T
        return (u + var_rest.sqrt() * noise(var_rest)).to(self._dtype)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of the free degrees of freedom of u, (...,)."""
        var_c, var_rest = (v.double() for v in self._both_variances)
        free = torch.from_numpy(self.representation.problem.free_dofs).to(u.device)
        mean = (self._augmented.double() @ self.representation.basis.double().T)[..., free]
        floor = (_RELATIVE_FLOOR * mean.square().mean(-1, keepdim=True).sqrt()).square()
        factor = self.representation.vectors.double()[free] * var_c.sqrt()[..., None, :]
        density = LowRankMultivariateNormal(mean, factor, var_rest[..., free] + floor)
        return density.log_prob(u.double()[..., free]).to(self._dtype)

    @cached_property
    def _both_variances(self) -> tuple[Tensor, Tensor]:
        return self._variances()


@dataclass(frozen=True)
class Inverse:
    """p(z | u): Gaussian in the standard coordinates xi of the prior, truncated to its support.

        p(xi | u) = N(xi; m, s^2) / (Phi(beta) - Phi(alpha)),   alpha, beta = (bounds - m) / s

    Only Uniform blocks have bounds. Known parameters have s = 0 and are certain.

    Attributes:
        xi_mean, xi_std: m and s, (..., d); m lies in the support.
    """

    xi_mean: Tensor
    xi_std: Tensor
    prior: ParameterSpace

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
        return self._quantile(torch.full_like(self.xi_mean, 0.5))

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Parameters, (*shape, ..., d), all in the support of the prior."""
        generator = None if seed is None else torch.Generator(self.xi_mean.device).manual_seed(seed)
        size = (*shape, *self.xi_mean.shape)
        return self._quantile(
            torch.rand(size, generator=generator, dtype=torch.float64, device=self.xi_mean.device)
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,): -inf outside the support; known parameters are left out."""
        inside = self.prior.contains(z)
        # Something harmless where z is outside, so that no NaN arises.
        z = torch.where(inside, z, self.median.to(z))
        xi = self.prior.standardise(z)
        unknown = self.xi_std > 0
        std = torch.where(unknown, self.xi_std, 1.0)
        density = torch.distributions.Normal(self.xi_mean, std).log_prob(xi)
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

    def _quantile(self, p: Tensor) -> Tensor:
        """z below which a parameter lies with probability p, (..., d)."""
        cdf = ndtr(self._limits[0])
        score = ndtri(cdf + p * self._mass).clamp(*self._limits)
        xi = self.xi_mean.double() + self.xi_std.double() * score
        return self.prior.unstandardise(self.prior.clamp_standard(xi.to(self.xi_mean)))

    @cached_property
    def _limits(self) -> tuple[Tensor, Tensor]:
        """alpha and beta, (..., d), float64."""
        m, s = self.xi_mean.double(), self.xi_std.double().clamp(min=1e-300)
        low, high = self.prior.standard_bounds(m)
        return ((low - m) / s).clamp(max=0), ((high - m) / s).clamp(min=0)

    @property
    def _mass(self) -> Tensor:
        """Phi(beta) - Phi(alpha), at least about a half because m lies in the support."""
        alpha, beta = self._limits
        return ndtr(beta) - ndtr(alpha)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        alpha, beta = self._limits
        # Mean and variance of the truncated standard normal.
        at_alpha, at_beta = (_density(x) / self._mass for x in (alpha, beta))
        shift = at_alpha - at_beta
        ends = _times(alpha, at_alpha) - _times(beta, at_beta)
        spread = (1 + ends - shift.square()).clamp(min=0).sqrt()
        m = self.xi_mean + self.xi_std * shift.to(self.xi_mean)
        s = self.xi_std * spread.to(self.xi_std)
        means, stds = [], []
        at_mean = self.prior.split(self.prior.unstandardise(m))
        above = self.prior.split(self.prior.unstandardise(m + s))
        for name, part in self.prior.split(s).items():
            prior = self.prior.blocks[name].prior
            if isinstance(prior, LogNormal):
                variance = (prior.std * part).square()
                means.append(at_mean[name] * (0.5 * variance).exp())
                stds.append(means[-1] * torch.expm1(variance).sqrt())
            else:
                means.append(at_mean[name])
                stds.append((above[name] - at_mean[name]).abs())
        return torch.cat(means, dim=-1), torch.cat(stds, dim=-1)


def _density(x: Tensor) -> Tensor:
    """Standard normal density."""
    return (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)


def _times(x: Tensor, density: Tensor) -> Tensor:
    """x phi(x), zero at infinity."""
    return torch.where(density > 0, x, 0.0) * density
