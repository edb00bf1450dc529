"""Rigorous bounds of the error of a mean, where the problem is linear and K(z) can be bounded.

    K(z) e = -r(m),   e = u - m,        lower K0 <= K(z) <= upper K0  (`pddlvm.weak.coercivity`)
    |r|_{K0'} / upper  <=  |e|_{K0}  <=  |r|_{K0'} / lower,             |r|_{K0'}^2 = r . K0^{-1} r

For any approximation d of e, a few steps of conjugate gradients for one, the same holds of what it
leaves, and is sharper than that, by a factor of three or so:

    | |e|_{K0} - |d|_{K0} |  <=  |e - d|_{K0}  <=  |r(m + d)|_{K0'} / lower

In another norm than that of K0 the lower bound is that of the inf-sup constant
(`pddlvm.reduced.inf_sup`), and d are a few steps of GMRES. m is the mean as it is returned,
rounded, with rounded boundary values: d begins with what makes these exact. The rounding of r
widens the bounds.
"""

from dataclasses import dataclass
from functools import cached_property

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.random import generator_of, normal_like
from pddlvm.galerkin.mesh_operators import MeshOperators, Stiffness
from pddlvm.galerkin.refinement import refine
from pddlvm.linalg.factorisation import Factorisation
from pddlvm.linalg.krylov import conjugate_gradients
from pddlvm.reduced.inf_sup import inf_sup_of
from pddlvm.reduced.reduction import Reduction
from pddlvm.reduced.reference import Reference, by_rows
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.problem import Problem

__all__ = ["Certifier", "ErrorBounds", "Improved", "reduced_coercivity"]

_N_STEPS = 4
"""Of conjugate gradients, each as dear as a certificate."""
_ROUNDINGS = 4.0
"""How many times the rounding of r may be as large as estimated."""
_SOLVED = 1e-6
"""Relative error of |r| and |d|, far above that of linear systems."""


@dataclass(frozen=True)
class ErrorBounds:
    """Of |u - m| in the norm of K0, in the units of the problem; float64, (batch,) each.

    Attributes:
        near: |d|_{K0}.
        left: |r(m + d)|_{K0'}.
        rounding: what that may be wrong by.
        moved: |d'|_{K0}, at most, of what rounding changes beside.
        coercivity, continuity: lower and upper bound of K(z) against K0; zero and infinity where
            there are none.
    """

    near: Tensor
    left: Tensor
    rounding: Tensor
    moved: Tensor
    coercivity: Tensor
    continuity: Tensor

    @cached_property
    def upper(self) -> Tensor:
        """Of the error; infinite where there is none."""
        found = self.near + self.moved + (self.left + self.rounding) / self.coercivity
        return torch.where(self.coercivity > 0, found, torch.inf)

    @cached_property
    def lower(self) -> Tensor:
        """Of the error."""
        most, least = self.left + self.rounding, self.left - self.rounding
        near, far = most / self.coercivity, least / self.continuity
        found = torch.maximum(self.near - near, far - self.near) - self.moved
        return torch.where(self.coercivity > 0, found, 0.0).clamp(min=0)


@dataclass(frozen=True)
class Improved:
    """m + d, and what bounds the rest of the error; float64, a row for each sample.

    Attributes:
        u: m + d, with the boundary values of a solution, (batch, n_dofs).
        left: |r(u)|_{K0'}, (batch,).
        rounding: what |r| may be wrong by, (batch,).
        coercivity, continuity: as in `ErrorBounds`.
    """

    u: Tensor
    left: Tensor
    rounding: Tensor
    coercivity: Tensor
    continuity: Tensor


class Certifier:
    """Bounds for a problem, from the residual on the mesh.

    Args:
        problem: the problem.
        reduction: supplies K0 and a solution that is typical.
        exact: the reduced model of it, float64 on the CPU.
    """

    def __init__(self, problem: Problem, reduction: Reduction, exact: ReducedModel) -> None:
        self._problem, self._reference, self._exact = problem, reduction.reference, exact
        is_dual = reduction.reference.is_dual
        self._coercivity = (
            inf_sup_of(problem, reduction.reference) if is_dual else problem.coercivity
        )
        # The norm of a model on which K0 sees no constants is not that of K0 alone.
        is_singular = bool(problem.constraints) and not is_dual
        self.norm = _Energy.of(problem) if is_singular else reduction.reference
        self._operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self._typical = reduction.xi[:1], reduction.c[:1] / reduction.units.energy**0.5

    def __call__(self, mean: Tensor, z: Tensor) -> ErrorBounds | None:
        """Bounds of means (batch, n_dofs) at z (batch, d), both float64 on the CPU.

        None where the problem has none.
        """
        found = self.improve(mean, z)
        if found is None:
            return None
        near = self.norm.energy_norm(found.u - mean)
        # Where d is all of e, whatever is compared with has its own rounding.
        moved, ends = _SOLVED * near, (found.coercivity, found.continuity)
        return ErrorBounds(near, found.left, found.rounding, moved, *ends)

    def improve(self, mean: Tensor, z: Tensor) -> Improved | None:
        """A few steps towards the solution, and what they leave; arguments as those of a call."""
        if self._coercivity is None:
            return None
        lower, upper = self._coercivity(z)
        chunk = MeshOperators.n_at_once(self._problem)
        parts = [self._near(*part) for part in zip(mean.split(chunk), z.split(chunk), strict=True)]
        better, r = (torch.cat(part) for part in zip(*parts, strict=True))
        rounding = _SOLVED * r + self.rounding(mean.norm(dim=1), upper)
        return Improved(better, r, rounding, lower, upper)

    def rounding(self, size: Tensor, upper: Tensor) -> Tensor:
        """What |K u|_{K0'} may be wrong by, for u of Euclidean sizes, (batch,)."""
        share, at = self._rounded
        return share * size * upper / at

    def _near(self, mean: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """m + d and |r(m + d)|_{K0'}."""
        held = self._operators.held(mean, z)
        if self._reference.is_dual:
            found = refine(
                self._exact, self._reference, held, z, tolerance=0.0, max_iterations=_N_STEPS
            )
            return found.u, found.residual_norm * self._reference.energy_norm(found.u)
        r = self._operators.residual(held, z)
        stiffness = MeshOperators.of(self._problem, z).stiffness(held, torch.arange(len(z)))
        budget = torch.full((len(z),), _N_STEPS)
        system = _System(stiffness, self.norm)
        step, _ = conjugate_gradients(system, -r, r.new_zeros(len(z)), budget)
        better = held.index_add(1, self._operators.free, step)
        left = self._operators.residual(better, z)
        # To all digits: what is wrong with d is in it, what is wrong with it would be in no bound.
        return better, (left * self.norm.solve(left)).sum(-1).clamp(min=0).sqrt()

    @cached_property
    def _rounded(self) -> tuple[float, float]:
        """What the rounding of u changes of |r|, over |u|, of a solution; upper there."""
        assert self._coercivity is not None
        xi, c = self._typical
        z = self._exact.prior.unstandardise(xi)
        u = self._exact.representation.expand(c, z)
        epsilon = torch.finfo(u.dtype).eps
        rounded = u + epsilon * u.abs() * normal_like(u, (), generator_of(0))
        change = self._operators.residual(rounded, z) - self._operators.residual(u, z)
        size = (change * self.norm.solve(change)).sum().clamp(min=0).sqrt()
        return _ROUNDINGS * float(size / u.norm()), float(self._coercivity(z)[1])


@dataclass(frozen=True)
class _Energy:
    """|.|_{K0} of a problem in which a mean value is held to zero, for K0 sees no constants."""

    problem: Problem
    factors: Factorisation

    @classmethod
    def of(cls, problem: Problem) -> "_Energy":
        free = problem.free_dofs
        matrix = sp.csc_matrix(problem.reference_stiffness[free][:, free])
        return cls(problem, problem.form.factorise(matrix, symmetric=True, many=True))

    def energy_norm(self, u: Tensor) -> Tensor:
        return self.problem.energy_norm(u)

    def solve(self, r: Tensor) -> Tensor:
        """K0^{-1} r of balanced r (batch, n_free)."""
        return by_rows(self.factors.solve, r)

    def approximate(self, r: Tensor) -> Tensor:
        """The same to some digits."""
        return by_rows(self.factors.approximate, r)


@dataclass(frozen=True)
class _System:
    """K(z) of a linear problem, with K0 as its preconditioner; vectors are (batch, n_free)."""

    stiffness: Stiffness
    norm: "Reference | _Energy"

    def of(self, rows: Tensor) -> "_System":
        """That of some samples."""
        return _System(self.stiffness.of(rows), self.norm)

    def apply(self, p: Tensor) -> Tensor:
        return self.stiffness.apply(p)

    def precondition(self, r: Tensor) -> tuple[Tensor, Tensor]:
        w = self.norm.approximate(r)
        return w, (r * w).sum(-1).clamp(min=0).sqrt()


def reduced_coercivity(exact: ReducedModel, c: Tensor, z: Tensor) -> Tensor:
    """Least singular value of W^T K V, V and W orthonormal in X, (batch,): an estimate of K's."""
    return torch.linalg.svdvals(exact.stiffness(c, z))[:, -1]
