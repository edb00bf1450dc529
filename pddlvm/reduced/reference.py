"""The reference operators of a problem: the norm, the lifting of boundary values, nearby inverses.

    |u|_X^2 = u^T X u,     X = K0, the symmetric part of K at the centre of the prior,

where K0 is positive. Where it is not (saddle points, waves), X is an inner product of its own
(`pddlvm.weak.inner_product`), residuals are measured in the dual norm of X, and their test
functions are not those of the basis. Where K is not symmetric and positive, a few K(z_k) stand for
K(z)^{-1}: the one with z_k next to z.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.linalg.factorisation import Factorisation
from pddlvm.weak.definite import factorise_positive
from pddlvm.weak.inner_product import energy_on_mean_free, inner_product
from pddlvm.weak.problem import Problem

__all__ = ["Centre", "Reference", "by_rows", "orthonormalise"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_N_LIFT_DRAWS = 64
_RANK_TOLERANCE, _ROUND_OFF = 1e-10, 1e-14
_N_CENTRES = 16


@dataclass(frozen=True)
class Centre:
    """K at one z_k.

    Attributes:
        matrix: K(u_k, z_k) on the free degrees of freedom.
        factors: of it.
        state: u_k, (n_dofs,): the solution, or any u where K does not depend on it.
    """

    matrix: sp.csc_matrix
    factors: Factorisation
    state: Tensor


@dataclass(frozen=True)
class Reference:
    """X, factorised, the lifting of boundary values, and K at a few z.

    Attributes:
        matrix: X on the free degrees of freedom, symmetric positive.
        coupling: X between free and fixed degrees of freedom, (n_free, n_fixed).
        whole: X on all degrees of freedom.
        factors: of X.
        lifts: L, (n_dofs, 1 + rank): harmonic extension of the mean boundary values, then of Phi.
        phi: orthonormal directions of the boundary values, (n_fixed, rank).
        is_dual: is X another one than K0?
        xi: standard parameters of the centres, (n_centres, d); none where K is positive.
        centres: K there.
    """

    matrix: sp.csc_matrix
    coupling: sp.csc_matrix
    whole: sp.csr_matrix
    factors: Factorisation
    lifts: Array
    phi: Array
    is_dual: bool
    xi: Tensor
    centres: tuple[Centre, ...]

    @classmethod
    def of(cls, problem: Problem, *, is_dual: bool = False) -> "Reference":
        """Choose X and factorise it, and find the directions of the boundary data.

        Args:
            problem: the problem.
            is_dual: do not take K0, though it may be positive at the centre of the prior.

        Raises:
            ProblemError: K0 is not positive, and there is no other X.
        """
        operators = problem.discretisation(torch.float64, torch.device("cpu"))
        free, fixed = problem.free_dofs, problem.fixed_dofs
        generator = torch.Generator().manual_seed(0)
        xi = problem.prior.sample_standard((_N_LIFT_DRAWS,), generator=generator)
        z0 = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
        boundary = operators.lift(problem.prior.unstandardise(xi)).numpy()[:, fixed]
        mean = boundary.mean(axis=0)
        _, values, directions = np.linalg.svd(boundary - mean, full_matrices=False)
        # Their spread counts, as far as it is not the rounding of their mean.
        noise = _ROUND_OFF * float(np.linalg.norm(boundary))
        rank = int((values > max(_RANK_TOLERANCE * values.max(initial=0.0), noise)).sum())
        phi = directions[:rank].T

        whole, factors, is_dual = _norm(problem, problem.reference_stiffness, is_dual)
        matrix, coupling = whole[free][:, free].tocsc(), whole[free][:, fixed].tocsc()
        columns = np.column_stack([mean, phi])
        lifts = np.zeros((problem.n_dofs, 1 + rank))
        lifts[fixed] = columns
        lifts[free] = -factors.solve(coupling @ columns)
        if not is_dual:
            # Once more without the rounding of K0, so that a lift which is a solution leaves no
            # more than its own.
            tangents = [0.5 * (t + t.mT) for t in operators.tangents(operators.lift(z0), z0)]
            left = [operators.times(tangents, u[None])[0] for u in torch.from_numpy(lifts.T)]
            lifts[free] -= factors.solve(torch.stack(left, dim=1).numpy()[free])
        xi = xi[: _N_CENTRES if is_dual or not problem.is_coercive else 0]
        centres = _centres(problem, xi, torch.from_numpy(lifts[:, 0]), is_dual)
        return cls(matrix, coupling, whole, factors, lifts, phi, is_dual, xi, centres)

    def energy_norm(self, u: Tensor) -> Tensor:
        """|u|_X, boundary values included, (batch, n_dofs) -> (batch,), float64 on the CPU."""
        xu = torch.from_numpy((self.whole @ u.numpy().T).T)
        return (u * xu).sum(-1).clamp(min=0).sqrt()

    def dual_norm(self, r: Tensor) -> Tensor:
        """|r|_X', (batch, n_free) -> (batch,), float64 on the CPU; to some six digits."""
        return torch.from_numpy(self.factors.squared_norms(_columns(r))).clamp(min=0).sqrt()

    def solve(self, r: Tensor) -> Tensor:
        """X^{-1} r for a batch, (batch, n_free), float64 on the CPU inside."""
        return by_rows(self.factors.solve, r)

    def approximate(self, r: Tensor) -> Tensor:
        """The same to some five digits, where more would take longer."""
        return by_rows(self.factors.approximate, r)

    @property
    def preconditioner(self) -> Callable[[Tensor], Tensor] | None:
        """r (batch, n_free) -> about X^{-1} r, where that is much cheaper than a solve."""
        rough = self.factors.preconditioner
        return None if rough is None else lambda r: by_rows(rough, r)

    def solve_near(self, r: Tensor, xi: Tensor) -> Tensor:
        """About K(z)^{-1} r: K(z_k)^{-1} r with the nearest centre, or K0^{-1} r without centres.

        Args:
            r: (batch, n_free).
            xi: standard parameters, (batch, d).
        """
        if not len(self.centres):
            return self.approximate(r)
        w = torch.empty_like(r)
        nearest = self.nearest(xi)
        for k in nearest.unique().tolist():
            w[nearest == k] = by_rows(self.centres[k].factors.solve, r[nearest == k])
        return w

    def nearest(self, xi: Tensor) -> Tensor:
        """Number of the centre next to each xi, (batch,)."""
        return torch.cdist(xi.double().cpu(), self.xi).argmin(dim=1)


def orthonormalise(v: Array, w: Array, x: sp.csc_matrix) -> Array:
    """V extended by the X-orthonormalised columns of W; dependent columns are dropped."""
    w = w / np.sqrt((w * (x @ w)).sum(axis=0))
    for _ in range(2):
        w = w - v @ (v.T @ (x @ w))
    values, vectors = np.linalg.eigh(w.T @ (x @ w))
    keep = values > 1e-8
    w = w @ (vectors[:, keep] / np.sqrt(values[keep]))
    w = w - v @ (v.T @ (x @ w))
    # Once more: eigenvalues of a Gram matrix leave half the digits.
    factor = np.linalg.cholesky(w.T @ (x @ w))
    return np.column_stack([v, np.linalg.solve(factor, w.T).T])


def _norm(
    problem: Problem, k0: sp.csr_matrix, is_dual: bool
) -> tuple[sp.csr_matrix, Factorisation, bool]:
    """X on all degrees of freedom, its factors on the free ones, and whether it is not K0."""
    if not is_dual:
        whole = energy_on_mean_free(problem, k0)
        if whole is not None:
            return whole, _factorise(problem, whole), False
    whole = inner_product(problem) if is_dual or problem.inner_product else None
    if whole is None:
        try:
            return k0, factorise_positive(problem, k0), False
        except ProblemError:
            whole = inner_product(problem)
            if whole is None:
                raise
    return whole, _factorise(problem, whole), True


def _factorise(problem: Problem, whole: sp.csr_matrix) -> Factorisation:
    matrix = sp.csc_matrix(whole[problem.free_dofs][:, problem.free_dofs])
    return problem.linear_solver.factorise(matrix, symmetric=True, many=True)


def _centres(problem: Problem, xi: Tensor, lift: Tensor, is_dual: bool) -> tuple[Centre, ...]:
    """K at the centres: at solutions, where it depends on u and W is made of it."""
    z = problem.prior.unstandardise(xi)
    states = lift.expand(len(z), -1)
    if is_dual and len(z) and not problem.is_linear:
        states = problem.solver.solve(z)
    found = []
    for u, own in zip(states, z[:, None], strict=True):
        matrix = problem.solver.matrix(u, own[0])
        factors = problem.form.factorise(matrix, symmetric=False, many=True)
        found.append(Centre(matrix, factors, u))
    return tuple(found)


def by_rows(solve: Callable[[Array], Array], r: Tensor) -> Tensor:
    """What a factorisation does to columns, of the rows of r (batch, n)."""
    return torch.from_numpy(solve(_columns(r)).T).to(r)


def _columns(r: Tensor) -> Array:
    return np.ascontiguousarray(r.detach().cpu().double().numpy().T)
