"""The likelihood of a zero residual, p(r^ = 0 | u, z) = N(0; r(u, z), Sigma), by its covariance.

    Isotropic    Sigma = eps^2 I        -|r|^2 / (2 eps^2)            the paper's; ill-conditioned
    Whitened     Sigma = eps^2 K0       -|V^T r|^2 / (2 eps^2)        any problem
    EnergyNorm   Sigma = eps^2 K(u, z)  -(Pi(u, z) - min Pi) / eps^2  needs a potential or a secant
    Natural      Sigma = eps^2 K X^{-1} K^T  -|c - c*(z)|^2 / (2 eps^2)      linear problems
    Dual         Sigma = eps^2 X        -|W^T r|^2 / (2 eps^2)        any problem

X is the norm of the problem and W its test functions (`pddlvm.reduced.reference`); where X is K0
and W is V, the dual norm is that of `Whitened`. c*(z) = (W^T K V)^+ W^T f solves the reduced
problem of each draw, whose inverse makes all directions of c alike.

EnergyNorm is exact where r is affine in u, the Gibbs likelihood otherwise; min Pi depends on
nothing that is learnt and is left out. Without a potential, but with r = K_s(u, z) u - f, it is
-r^T K_s^{-1} r / (2 eps^2) with u frozen inside of K_s; its gradient is -r / eps^2.

eps = tolerance * size of the problem: of the force vector, of c, and of the energy; the last two
follow z. That of `Natural` is |c*(z)| itself, which no smooth function of z follows near a pole.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.checks import check_share
from pddlvm.basics.errors import ProblemError
from pddlvm.galerkin.solved_draws import SolvedDraws, SolvedPool, SolvedSystems, n_systems
from pddlvm.latent.sites import Draws
from pddlvm.latent.size import LogQuadratic
from pddlvm.reduced.interpolated import Interpolated
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.problem import Problem

__all__ = [
    "Covariance",
    "Dual",
    "EnergyNorm",
    "Isotropic",
    "Likelihood",
    "Natural",
    "Scales",
    "Whitened",
    "default_covariance",
]


_BATCH, _LEAST_BATCH, _STRAINS_PER_STEP = 256, 64, 700_000
_DEAR_STRAINS, _LEAST_DRAWS = 16_384, 4096


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

    @property
    def draws(self) -> Draws:
        """Where training draws its standard parameters from."""
        return self.reduced.prior

    @property
    def batch_size(self) -> int:
        """Draws per step: fewer where their physics would cost more than all else in it."""
        most = max(_LEAST_BATCH, _STRAINS_PER_STEP // max(1, self.reduced.n_strains))
        return min(_BATCH, 2 ** int(math.log2(most)))

    def prepare(self) -> None:  # noqa: B027
        """What takes time, and is done before a training begins its schedule."""

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
    def likelihood(self, reduced: ReducedModel, few: Interpolated, scales: Scales) -> Likelihood:
        """The likelihood for a reduced model, and the same in float64 on the CPU."""


class EnergyNorm(Covariance):
    """Sigma = eps^2 K(u, z): the default wherever the problem has a potential or a secant."""

    def likelihood(  # noqa: D102
        self, reduced: ReducedModel, few: Interpolated, scales: Scales
    ) -> Likelihood:
        problem = reduced.representation.problem
        if reduced.representation.w is not None:
            raise ProblemError(
                "EnergyNorm needs an energy that has a minimum, a positive operator; this problem "
                "is measured in another norm: use Natural() where it is linear, else Dual()"
            )
        if _is_dear(reduced) and problem.is_linear and problem.is_coercive:
            return _SolvedEnergyLikelihood(reduced, few, scales, self.tolerance)
        if problem.has_potential:
            return _EnergyLikelihood(reduced, scales, self.tolerance)
        if problem.is_coercive:
            return _SecantLikelihood(reduced, scales, self.tolerance)
        raise ProblemError(
            "EnergyNorm needs energies, or fluxes with has_secant=True; use Whitened() instead"
        )


class Whitened(Covariance):
    """Sigma = eps^2 K0: for any problem."""

    def likelihood(  # noqa: D102
        self, reduced: ReducedModel, few: Interpolated, scales: Scales
    ) -> Likelihood:
        return _DualLikelihood(reduced, scales, self.tolerance)


class Dual(Covariance):
    """Sigma = eps^2 X: the default of nonlinear problems whose operator is not positive."""

    def likelihood(  # noqa: D102
        self, reduced: ReducedModel, few: Interpolated, scales: Scales
    ) -> Likelihood:
        return _DualLikelihood(reduced, scales, self.tolerance)


class Natural(Covariance):
    """Sigma = eps^2 K X^{-1} K^T: the default of linear problems whose operator is not positive."""

    def likelihood(  # noqa: D102
        self, reduced: ReducedModel, few: Interpolated, scales: Scales
    ) -> Likelihood:
        if not reduced.representation.problem.is_linear:
            raise ProblemError(
                "Natural is for problems that are linear in u; use Dual(), or Whitened()"
            )
        return _NaturalLikelihood(reduced, few, scales, self.tolerance)


class Isotropic(Covariance):
    """Sigma = eps^2 I: the paper's choice, for comparison; uses the full operator."""

    def likelihood(  # noqa: D102
        self, reduced: ReducedModel, few: Interpolated, scales: Scales
    ) -> Likelihood:
        return _IsotropicLikelihood(reduced, scales, self.tolerance)


class _EnergyLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        return -self.reduced.energy(c, z) / (self.tolerance**2 * self.scales.energy(xi))


class _PoolLikelihood(Likelihood):
    """One that takes its draws from a pool of solved ones."""

    _solved: SolvedPool

    @property
    def draws(self) -> Draws:
        return self._solved

    @property
    def batch_size(self) -> int:
        return _BATCH

    def prepare(self) -> None:
        self._solved.solve()


class _SolvedEnergyLikelihood(_PoolLikelihood):
    """(Pi(c) - min Pi) of a linear problem, from a pool of its matrices."""

    _solved: SolvedSystems

    def __init__(
        self, reduced: ReducedModel, few: Interpolated, scales: Scales, tolerance: float
    ) -> None:
        super().__init__(reduced, scales, tolerance)
        self._solved = SolvedSystems(few, reduced.representation.rows.dtype)

    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        energy = self._solved.energy(c, xi)
        return -energy / (self.tolerance**2 * self.scales.energy(xi))


def _is_dear(reduced: ReducedModel) -> bool:
    """Would the physics of a batch take many times what all else in a step does?"""
    room = n_systems(reduced.n_modes)
    return reduced.n_strains >= _DEAR_STRAINS and room >= _LEAST_DRAWS


class _SecantLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        with torch.no_grad():
            r = self.reduced.residual(c, z)
        work = (r * c).sum(-1)
        # The gradient is r; the value, which is only watched, takes K0 for K_s.
        value = work - work.detach() + 0.5 * r.square().sum(-1)
        return -value / (self.tolerance**2 * self.scales.energy(xi))


class _DualLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        eps = self.tolerance * self.scales.amplitude(xi)
        return -0.5 * self.reduced.residual(c, z).square().sum(-1) / eps**2


class _NaturalLikelihood(_PoolLikelihood):
    def __init__(
        self, reduced: ReducedModel, few: Interpolated, scales: Scales, tolerance: float
    ) -> None:
        super().__init__(reduced, scales, tolerance)
        self._solved = SolvedDraws(few, reduced.representation.rows.dtype)

    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        return self._solved.log_likelihood(c, xi, self.tolerance)


class _IsotropicLikelihood(Likelihood):
    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        representation = self.reduced.representation
        operators = representation.problem.discretisation(torch.float64, c.device)
        r = operators.residual(representation.expand(c, z), z) / self.scales.force
        return -0.5 * (r.square().sum(-1) / self.tolerance**2).to(c)


def default_covariance(problem: Problem, is_dual: bool) -> Covariance:
    """EnergyNorm with a potential or a secant; Natural or Dual in another norm than that of K0."""
    if is_dual:
        return Natural() if problem.is_linear else Dual()
    return EnergyNorm() if problem.is_coercive else Whitened()
