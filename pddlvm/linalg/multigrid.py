"""Algebraic multigrid for symmetric positive matrices: time and memory in proportion to the size.

    conjugate gradients on  S A S,  S = diag(A)^{-1/2},  preconditioned by a V-cycle of
    smoothed aggregation,  A_c = P^T A P,  P = (1 - omega D^{-1} A) T,  T the near-nullspace, cut to
    aggregates and orthonormal there

(Vanek, Mandel and Brezina, Computing 56, 1996); pyamg finds the aggregates. Smoothers are Chebyshev
polynomials, so that all right-hand sides of a block go through a cycle together, which is in
float32: it preconditions, the residual is in float64. The scaling makes units irrelevant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from torch import Tensor

from pddlvm.basics.checks import check_count, check_share
from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.linalg.factorisation import (
    Array,
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    NotPositiveError,
    rough,
    scaled,
)
from pddlvm.linalg.operators import to_torch_csr

__all__ = ["Multigrid", "MultigridFactors"]

_COARSEST, _LARGEST_DENSE = 800, 4000
_COARSER = 0.7
_OMEGA = 4 / 3
_POWER_STEPS, _MARGIN = 15, 1.1
_LOWEST = 0.25
"""Part of the spectrum that is left to the coarser levels; contracts up to 1.25 times its end."""
_BLOCK = 16
_N_RESTARTS = 3
_SINGULAR = 1e13
_ROUGH = 1e-5
"""Residual of a solve that need not be exact."""


@dataclass(frozen=True)
class Multigrid(LinearSolver):
    """Conjugate gradients with algebraic multigrid.

    Attributes:
        tolerance: of |b - A x| / |b|, both scaled by diag(A)^{-1/2}; or round-off, if that is more.
        max_iterations: of a right-hand side.
    """

    tolerance: float = 1e-11
    max_iterations: int = 200

    def __post_init__(self) -> None:
        check_share(tolerance=self.tolerance)
        check_count(1, max_iterations=self.max_iterations)

    def factorise(  # noqa: D102
        self,
        matrix: sp.csc_matrix,
        *,
        symmetric: bool,
        near_nullspace: NearNullspace | None = None,
        many: bool = False,
    ) -> "MultigridFactors":
        if not symmetric:
            raise InputError(
                "multigrid solves symmetric positive systems, and this one is not symmetric; try "
                "solver=pddlvm.linalg.SuperLU(), pddlvm.linalg.Pardiso() or pddlvm.linalg.Petsc()"
            )
        return MultigridFactors(matrix, near_nullspace, self)


@dataclass(frozen=True)
class _Level:
    """A, P, P^T, 1 / diag(A) (n, 1), and a bound on the spectrum of D^{-1} A."""

    a: Tensor
    p: Tensor
    p_transposed: Tensor
    inverse_diagonal: Tensor
    bound: float

    def smooth(self, b: Tensor, x: Tensor | None) -> Tensor:
        """x after a Chebyshev polynomial of degree two; from zero if there is none yet."""
        middle, half = 0.5 * (1 + _LOWEST) * self.bound, 0.5 * (1 - _LOWEST) * self.bound
        r = b if x is None else b - self.a @ x
        d = self.inverse_diagonal * r / middle
        x = d if x is None else x + d
        rho = half / middle
        rho_next = 1 / (2 / rho - rho)
        r = self.inverse_diagonal * (b - self.a @ x)
        return x + rho_next * rho * d + (2 * rho_next / half) * r


class MultigridFactors(Factorisation):
    """The levels of one matrix.

    Args:
        matrix: symmetric positive; kept.
        near_nullspace: see there.
        settings: tolerance and number of iterations.

    Raises:
        NotPositiveError: a diagonal entry is not positive, or the coarsest matrix.
    """

    def __init__(
        self, matrix: sp.csc_matrix, near_nullspace: NearNullspace | None, settings: Multigrid
    ) -> None:
        self._made_of = matrix, near_nullspace, settings
        n, diagonal = matrix.shape[0], matrix.diagonal()
        if not diagonal.min() > 0:
            raise NotPositiveError(np.eye(1, n, int(diagonal.argmin()))[0])
        scale, a = scaled(matrix)
        a.eliminate_zeros()
        near = near_nullspace or NearNullspace(np.ones((n, 1)), np.arange(n))
        self._scale = torch.from_numpy(scale)[:, None]
        self._a = to_torch_csr(a, torch.float64)
        self._levels: list[_Level] = []
        nodes, candidates = near.nodes, near.vectors / scale[:, None]
        while a.shape[0] > _COARSEST:
            bound = _spectral_bound(a)
            found = _prolongation(a, candidates, nodes, bound)
            if found is None:
                break
            p, candidates = found
            down = sp.csr_matrix(p.T)
            self._levels.append(_level(a, p, down, bound))
            a = sp.csr_matrix(down @ (a @ p))
            nodes = np.arange(a.shape[0]) // candidates.shape[1]
        try:
            self._coarsest = _inverse(a)
        except NotPositiveError as error:
            # The quadratic form of a coarser level is that of what it stands for.
            direction = torch.from_numpy(error.direction).float()[:, None]
            for level in reversed(self._levels):
                direction = level.p @ direction
            raise NotPositiveError((self._scale * direction)[:, 0].numpy()) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return MultigridFactors, self._made_of

    def solve(self, b: Array, trans: str = "N") -> Array:  # noqa: D102
        return self._in_blocks(self._solve, b.reshape(len(b), -1)).reshape(b.shape)

    def approximate(self, b: Array) -> Array:  # noqa: D102
        return self._in_blocks(self._approximate, b)

    def _in_blocks(self, solve: Callable[[Tensor], Tensor], b: Array) -> Array:
        columns = torch.from_numpy(np.ascontiguousarray(b))
        parts = [solve(part) for part in (self._scale * columns).split(_BLOCK, dim=1)]
        found = torch.cat(parts, dim=1) if parts else columns
        return (self._scale * found).numpy()

    @property
    def preconditioner(self) -> Callable[[Array], Array]:  # noqa: D102
        return self._one_cycle

    def _one_cycle(self, b: Array) -> Array:
        rows = self._scale * torch.from_numpy(np.ascontiguousarray(b))
        return (self._scale * self._precondition(rows)).numpy()

    def definiteness(self) -> Definiteness:
        """By a solve with a rough right-hand side, to which all eigenvectors contribute."""
        b = torch.from_numpy(rough(len(self._scale)))[:, None]
        try:
            x = self._solve(b)
        except NotPositiveError as error:
            return Definiteness(1, False, error.direction, is_counted=False)
        bound = self._levels[0].bound if self._levels else 1.0
        return Definiteness(0, float(x.norm()) * bound > _SINGULAR * float(b.norm()))

    def _solve(self, b: Tensor) -> Tensor:
        """Of the scaled system, (n, k)."""
        settings, size = self._made_of[2], b.norm(dim=0)
        epsilon = float(torch.finfo(b.dtype).eps)
        x, r, used = torch.zeros_like(b), b, 0
        for _ in range(_N_RESTARTS):
            step, n = self._conjugate_gradients(r, settings.tolerance * size)
            x, used = x + step, used + n
            # What is accumulated in the iteration drifts from the residual.
            r = b - self._a @ x
            enough = torch.maximum(2 * settings.tolerance * size, 4 * epsilon * x.norm(dim=0))
            if (r.norm(dim=0) <= enough).all():
                return x
        worst = float((r.norm(dim=0) / size.clamp(min=1e-300)).max())
        raise ConvergenceError(
            f"multigrid did not converge: relative residual {worst:.1e} after {used} iterations, "
            f"expected {settings.tolerance:.1e}. Is the matrix nearly singular, or do its "
            "coefficients jump by many powers of ten? Try solver=pddlvm.linalg.Pardiso() or "
            "pddlvm.linalg.SuperLU(), or Multigrid with a larger tolerance or more max_iterations"
        )

    def _approximate(self, b: Tensor) -> Tensor:
        target = max(_ROUGH, self._made_of[2].tolerance) * b.norm(dim=0)
        x, _ = self._conjugate_gradients(b, target)
        is_good = ((b - self._a @ x).norm(dim=0) <= 2 * target).all()
        return x if is_good else self._solve(b)

    def _conjugate_gradients(self, b: Tensor, target: Tensor) -> tuple[Tensor, int]:
        """x with |b - A x| <= target of each column, or what there is in the end."""
        x, r = torch.zeros_like(b), b.clone()
        p = w = self._precondition(r)
        rho = (r * w).sum(0)
        for k in range(self._made_of[2].max_iterations):
            active = r.norm(dim=0) > target
            if not active.any():
                return x, k
            q = self._a @ p
            curvature = (p * q).sum(0)
            bad = active & ~(curvature > 0)
            if bad.any():
                raise NotPositiveError((self._scale * p)[:, int(bad.int().argmax())].numpy())
            alpha = torch.where(active, rho / curvature, 0.0)
            x, r = x + alpha * p, r - alpha * q
            w = self._precondition(r)
            rho_new = (r * w).sum(0)
            p = w + torch.where(active, rho_new / rho, 0.0) * p
            rho = torch.where(active, rho_new, rho)
        return x, self._made_of[2].max_iterations

    def _precondition(self, r: Tensor) -> Tensor:
        """A V-cycle in float32, whose range the size of r may leave."""
        size = r.norm(dim=0).clamp(min=1e-300)
        return self._cycle((r / size).float(), 0).double() * size

    def _cycle(self, b: Tensor, k: int) -> Tensor:
        if k == len(self._levels):
            return self._coarsest @ b
        level = self._levels[k]
        x = level.smooth(b, None)
        x = x + level.p @ self._cycle(level.p_transposed @ (b - level.a @ x), k + 1)
        return level.smooth(b, x)


def _level(a: sp.csr_matrix, p: sp.csr_matrix, down: sp.csr_matrix, bound: float) -> _Level:
    inverse = _inverse_diagonal(a)
    a32, p32, down32 = (to_torch_csr(m, torch.float32) for m in (a, p, down))
    return _Level(a32, p32, down32, torch.from_numpy(inverse).float()[:, None], bound)


def _spectral_bound(a: sp.csr_matrix) -> float:
    """About the largest eigenvalue of D^{-1} A, from a rough start by the power method."""
    inverse = _inverse_diagonal(a)
    v, size = rough(len(inverse)), 1.0
    for _ in range(_POWER_STEPS):
        v = inverse * (a @ v)
        size = float(np.linalg.norm(v))
        v /= size
    return _MARGIN * size


def _prolongation(
    a: sp.csr_matrix, candidates: Array, nodes: np.ndarray, bound: float
) -> tuple[sp.csr_matrix, Array] | None:
    """P and the candidates of the coarser level, None where that is not much coarser."""
    # It takes 0.6 s to import, and small problems need none.
    aggregation = import_module("pyamg.aggregation")
    n, k = candidates.shape
    numbers, first = np.unique(nodes, return_index=True)
    n_nodes, node = len(numbers), np.repeat(np.arange(len(numbers)), np.diff([*first, n]))
    of_node = sp.csr_matrix((np.ones(n), (np.arange(n), node)), shape=(n, n_nodes))
    graph = sp.csr_matrix(of_node.T @ abs(a) @ of_node)
    aggregates = aggregation.standard_aggregation(graph)[0]
    if k * aggregates.shape[1] > _COARSER * n:
        return None
    # Nodes of which some unknowns are prescribed are filled up.
    place = np.arange(n) - first[node]
    rows = node * (place.max() + 1) + place
    filled = np.zeros((n_nodes * (place.max() + 1), k))
    filled[rows] = candidates
    tentative, coarse = aggregation.fit_candidates(sp.csr_matrix(aggregates), filled)
    t = sp.csr_matrix(tentative)[rows]
    smoothed = sp.diags(_OMEGA / bound * _inverse_diagonal(a)) @ (a @ t)
    return sp.csr_matrix(t - smoothed), coarse


def _inverse_diagonal(a: sp.csr_matrix) -> Array:
    """Zero in the rows of candidates that were dropped."""
    diagonal = a.diagonal()
    return np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)


def _inverse(a: sp.csr_matrix) -> Tensor:
    """A^{-1} of the coarsest level; rows of candidates that were dropped are zero.

    Raises:
        NotPositiveError, InputError: it is not positive, or not coarse.
    """
    if a.shape[0] > _LARGEST_DENSE:
        raise InputError(
            f"multigrid finds no coarser levels than one of {a.shape[0]} unknowns: are most of "
            "them not connected? Try solver=pddlvm.linalg.SuperLU()"
        )
    dense = a.toarray()
    empty = np.flatnonzero(dense.diagonal() == 0)
    dense[empty, empty] = 1.0
    try:
        inverse = cho_solve(cho_factor(dense), np.eye(len(dense)))
    except LinAlgError as error:
        raise NotPositiveError(np.linalg.eigh(dense)[1][:, 0]) from error
    return torch.from_numpy(inverse).float()
