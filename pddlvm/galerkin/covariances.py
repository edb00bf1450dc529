"""The likelihood of a zero residual, p(r^ = 0 | u, z) = N(0; r(u, z), Sigma), by its covariance.

    Isotropic    Sigma = eps^2 I        -|r|^2 / (2 eps^2)            the paper's; ill-conditioned
    Whitened     Sigma = eps^2 K0       -|V^T r|^2 / (2 eps^2)        any problem
    EnergyNorm   Sigma = eps^2 K(u, z)  -(Pi(u, z) - min Pi) / eps^2  needs a potential or a secant

The last is exact where r is affine in u, the Gibbs likelihood otherwise; min Pi depends on nothing
that is learnt and is left out. Without a potential, but with r = K_s(u, z) u - f, it is
-r^T K_s^{-1} r / (2 eps^2) with u frozen inside of K_s; its gradient is -r / eps^2.

eps = tolerance * size of the problem: of the force vector, of c, and of the energy; the last two
follow z.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.checks import check_share
from pddlvm.basics.errors import ProblemError
from pddlvm.latent.size import LogQuadratic
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.problem import Problem

__all__ = ["Covariance", "EnergyNorm", "Isotropic", "Likelihood", "Scales", "Whitened"]


@dataclass(frozen=True)
class Scales:
    """Sizes over the prior: of c (amplitude), of c^T K c (energy), of r at c = 0 (force)."""

    amplitude: LogQuadratic
    energy: LogQuadratic
    force: float


class Likelihood(ABC):
    """log p(r^ = 0 | c, z) up to a constant."""

    def __init__(self, reduced: ReducedModel, scales: Scales, tolerance: float) -> None:
        self.reduced = reduced
        self.scales = scales
        self.tolerance = tolerance

    @abstractmethod
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        """Log likelihood, (batch,), of coefficients c at parameters z = z(xi)."""


@dataclass(frozen=True)
class Covariance(ABC):
    """A prescribed covariance of the residual.

    Attributes:
        tolerance: eps relative to the size of the problem.
    """

    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_share(tolerance=self.tolerance)

    @abstractmethod
    def likelihood(self, reduced: ReducedModel, scales: Scales) -> Likelihood:
        """The likelihood for a reduced model."""


class EnergyNorm(Covariance):
    """Sigma = eps^2 K(u, z): the default wherever the problem has a potential or a secant."""

    def likelihood(self, reduced: ReducedModel, scales: Scales) -> Likelihood:  # noqa: D102
        problem = reduced.representation.problem
        if problem.has_potential:
            return _EnergyLikelihood(reduced, scales, self.tolerance)
        if problem.is_coercive:
            return _SecantLikelihood(reduced, scales, self.tolerance)
        raise ProblemError(
            "EnergyNorm needs energies, or fluxes with has_secant=True; use Whitened() instead"
        )


class Whitened(Covariance):
    """Sigma = eps^2 K0: for any problem."""

    def likelihood(self, reduced: ReducedModel, scales: Scales) -> Likelihood:  # noqa: D102
        return _WhitenedLikelihood(reduced, scales, self.tolerance)


class Isotropic(Covariance):
    """Sigma = eps^2 I: the paper's choice, for comparison; uses the full operator."""

    def likelihood(self, reduced: ReducedModel, scales: Scales) -> Likelihood:  # noqa: D102
        return _IsotropicLikelihood(reduced, scales, self.tolerance)


class _EnergyLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        return -self.reduced.energy(c, z) / (self.tolerance**2 * self.scales.energy(xi))


class _SecantLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        with torch.no_grad():
            r = self.reduced.residual(c, z)
        work = (r * c).sum(-1)
        # The gradient is r; the value, which is only watched, takes K0 for K_s.
        value = work - work.detach() + 0.5 * r.square().sum(-1)
        return -value / (self.tolerance**2 * self.scales.energy(xi))


class _WhitenedLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        eps = self.tolerance * self.scales.amplitude(xi)
        return -0.5 * self.reduced.residual(c, z).square().sum(-1) / eps**2


class _IsotropicLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        representation = self.reduced.representation
        operators = representation.problem.discretisation(torch.float64, c.device)
        r = operators.residual(representation.expand(c, z), z) / self.scales.force
        return -0.5 * (r.square().sum(-1) / self.tolerance**2).to(c)


def default_covariance(problem: Problem) -> Covariance:
    """EnergyNorm where there is a potential or a secant, else Whitened."""
    return EnergyNorm() if problem.is_coercive else Whitened()
