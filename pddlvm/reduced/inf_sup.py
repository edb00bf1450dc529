"""Lower bounds of the inf-sup constant of linear problems that are measured in another norm.

    beta(z) = inf_u sup_v v.K(z) u / |u|_X |v|_X,     |r|_X' / continuity <= |e|_X <= |r|_X' / beta

Saddle points, K = [[A(z), B^T], [+-B, 0]], whose X is (A(z0), mu M) with b_min = 1 the inf-sup
constant of B in it (`pddlvm.weak.inner_product`), alpha A0 <= A(z) <= gamma A0 at all points:

    beta(z) >= min(alpha, (sqrt(gamma^2 + 4 b_min^2) - gamma) / 2)
    continuity <= (gamma + sqrt(gamma^2 + 4 b_max^2)) / 2

(Rusten and Winther, SIAM J. Matrix Anal. Appl. 13, 1992.) Sums of few parts, K(z) = sum_j w_j K_j,
by the natural norm at the centres (Sen, Veroy, Huynh, Deparis, Nguyen and Patera, J. Comput. Phys.
217, 2006):

    beta(z) >= max_k beta(z_k) (1 - s_k),     continuity <= min_k continuity(z_k) (1 + s_k)
    s_k = sum_j |w_j(z) - w_j(z_k)| |K(z_k)^{-1} K_j|_X

Both are rigorous up to the eigenvalues that they are made of, whose tolerance is taken off.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from pddlvm.fem import MixedSpace
from pddlvm.reduced.reference import Reference
from pddlvm.weak.affine_parts import AffineParts, affine_parts
from pddlvm.weak.coercivity import Pencil, Region, extremes, pointwise
from pddlvm.weak.inner_product import schur_values
from pddlvm.weak.problem import Problem

__all__ = ["NaturalNorm", "Saddle", "inf_sup_of"]

Array = NDArray[np.float64]

_N_PROBES, _SAME = 3, 1e-10
_MOST_PARTS = 12
_TOLERANCE = 1e-3
"""Of eigenvalues by Lanczos' method."""
_PERCENT = 0.01
"""Of those of many pressures, and more than the rounding of few."""
_UNSEEN = 1e-8


class Saddle:
    """Bounds of a saddle point, from the pointwise physics of its first block.

    Args:
        problem: the problem.
        regions: terms by region.
        coupling: b_min and b_max.
    """

    def __init__(
        self, problem: Problem, regions: list[Region], coupling: tuple[float, float]
    ) -> None:
        self._prior, self._coupling = problem.prior, coupling
        z0 = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
        self._pencils = [
            Pencil(terms, problem.prior.split(z0), _first_field(terms)) for terms in regions
        ]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Beta and the continuity constant, (batch, d) -> (batch,) each; 0 and inf without."""
        alpha, gamma = extremes(self._pencils, self._prior, z)
        least, most = self._coupling
        beta = torch.minimum(alpha, 0.5 * ((gamma.square() + 4 * least**2).sqrt() - gamma))
        continuity = 0.5 * (gamma + (gamma.square() + 4 * most**2).sqrt())
        is_bound = (beta > 0) & (gamma < torch.inf)
        return torch.where(is_bound, beta, 0.0), torch.where(is_bound, continuity, torch.inf)


class NaturalNorm:
    """Bounds of a sum of few parts, from the centres.

    Args:
        parts: of the problem.
        weights: w at the centres, (n_centres, n_parts).
        constants: beta and the continuity constant there, (n_centres,) each.
        sizes: |K(z_k)^{-1} K_j|_X, (n_centres, n_parts).
    """

    def __init__(
        self, parts: AffineParts, weights: Tensor, constants: tuple[Tensor, Tensor], sizes: Tensor
    ) -> None:
        self._parts, self._weights, self._sizes = parts, weights, sizes
        self._beta, self._continuity = constants

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Beta and the continuity constant, (batch, d) -> (batch,) each; 0 where it is no bound."""
        moved = (self._parts.weights(z)[:, None] - self._weights).abs()
        s = (moved * self._sizes).sum(-1)
        beta = (self._beta * (1 - s)).amax(1).clamp(min=0)
        return beta, (self._continuity * (1 + s)).amin(1)


def inf_sup_of(problem: Problem, reference: Reference) -> Saddle | NaturalNorm | None:
    """Those of a linear problem in another norm than K0; None where there are none.

    Args:
        problem: the problem.
        reference: its norm and centres.
    """
    if not reference.is_dual or not problem.is_linear:
        return None
    return _saddle(problem, reference) or _natural_norm(problem, reference)


def _saddle(problem: Problem, reference: Reference) -> Saddle | None:
    if not isinstance(problem.space, MixedSpace) or len(problem.fields_of_u) != 2:
        return None
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    z = problem.prior.sample((_N_PROBES,), seed=0)
    blocks = problem.prior.split(z)
    groups: dict[int, Region] = {}
    for term in operators.terms:
        groups.setdefault(id(term.operator), []).append(term)
    regions = []
    for terms in groups.values():
        d, inside = pointwise(terms, len(z), blocks), _first_field(terms)
        own, rest = d[:, :, inside, inside], slice(inside.stop, None)
        up, pu, pp = d[:, :, inside, rest], d[:, :, rest, inside], d[:, :, rest, rest]
        size = _SAME * float(d.abs().max())
        fits = [
            pp.abs().max() <= size,
            (own - own.mT).abs().max() <= size,
            (pu - pu[:1]).abs().max() <= size,
            min((up - pu.mT).abs().max(), (up + pu.mT).abs().max()) <= size,
        ]
        if not all(fits):
            return None
        if own.abs().max() > 0:
            regions.append(terms)
    coupling = _coupling(problem, reference)
    return None if coupling is None or not regions else Saddle(problem, regions, coupling)


def _coupling(problem: Problem, reference: Reference) -> tuple[float, float] | None:
    """b_min and b_max of B in X; None where X is not K0 in the first field."""
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    z = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
    rest = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
    k0 = problem.solver.assembler([t[0] for t in operators.tangents(rest, z)])
    n = int((problem.free_dofs < next(iter(problem.fields_of_u.values())).stop).sum())
    x = reference.matrix
    if abs(x[:n, :n] - k0[:n, :n]).max() > _SAME * abs(k0).max() or x[:n, n:].nnz:
        return None
    factors = problem.linear_solver.factorise(sp.csc_matrix(x[:n, :n]), symmetric=True, many=True)
    m = sp.csc_matrix(x[n:, n:])
    values = schur_values(sp.csr_matrix(k0[n:, :n]), factors, m, len(problem.constraints) + 1)
    seen = values[values > _UNSEEN * values.max()]
    return float(seen.min()) ** 0.5 * (1 - _PERCENT), float(seen.max()) ** 0.5 * (1 + _PERCENT)


def _first_field(terms: Region) -> slice:
    return slice(0, terms[0].term.region.columns()[-1].stop)


def _natural_norm(problem: Problem, reference: Reference) -> NaturalNorm | None:
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    parts = affine_parts(problem.form, operators, matrices_only=True)
    if parts is None or problem.form.constraints is not None:
        return None
    matrices = {j: m for j, m in enumerate(_matrices(problem, parts)) if m.nnz and j}
    if len(matrices) > _MOST_PARTS:
        return None
    z = problem.prior.unstandardise(reference.xi)
    norms = [_Norms(reference, k) for k in range(len(z))]
    constants = (
        torch.tensor([norm.beta() for norm in norms], dtype=torch.float64),
        torch.tensor([norm.continuity() for norm in norms], dtype=torch.float64),
    )
    weights = parts.weights(z)
    sizes = torch.zeros_like(weights)
    for j, matrix in matrices.items():
        sizes[:, j] = torch.tensor([norm.of(matrix) for norm in norms])
    return NaturalNorm(parts, weights, constants, sizes)


def _matrices(problem: Problem, parts: AffineParts) -> list[sp.csc_matrix]:
    """K_j on the free degrees of freedom."""
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    found = []
    for j in range(parts.weights.n):
        own = {id(r[0]): t[j] for r, t in zip(parts.regions, parts.tangents, strict=True)}
        tangents = [
            own.get(id(term), term.weights.new_zeros(len(term.weights), term.s, term.s))
            for term in operators.terms
        ]
        matrix = problem.solver.assembler(tangents)
        matrix.eliminate_zeros()
        found.append(matrix)
    return found


@dataclass(frozen=True)
class _Norms:
    """Norms of operators with K(z_k)^{-1}, by Lanczos' method on T* T, which is X-symmetric."""

    reference: Reference
    k: int

    def beta(self) -> float:
        """1 / |K(z_k)^{-1} X|_X, less its tolerance."""
        return (1 - _TOLERANCE) / self._norm(self.reference.matrix)

    def continuity(self) -> float:
        """|X^{-1} K(z_k)|_X, and its tolerance."""
        matrix, riesz = self.reference.centres[self.k].matrix, self.reference.factors.solve

        def squared(y: Array) -> Array:
            return np.asarray(matrix.T @ riesz(np.ascontiguousarray(matrix @ y)))

        return (1 + _TOLERANCE) * self._root(squared)

    def of(self, matrix: sp.csc_matrix) -> float:
        """|K(z_k)^{-1} K_j|_X, and its tolerance."""
        return (1 + _TOLERANCE) * self._norm(matrix)

    def _norm(self, matrix: sp.csc_matrix) -> float:
        x, factors = self.reference.matrix, self.reference.centres[self.k].factors

        def squared(y: Array) -> Array:
            there = x @ factors.solve(np.ascontiguousarray(matrix @ y))
            return np.asarray(matrix.T @ factors.solve(np.ascontiguousarray(there), "T"))

        return self._root(squared)

    def _root(self, squared: Callable[[Array], Array]) -> float:
        """Root of the largest eigenvalue of T^T X T against X."""
        x, riesz = self.reference.matrix, self.reference.factors.solve
        operator = LinearOperator(x.shape, matvec=squared, dtype=np.float64)
        inverse = LinearOperator(x.shape, matvec=riesz, dtype=np.float64)
        start = np.ones(x.shape[0])
        value = eigsh(operator, 1, M=x, Minv=inverse, which="LA", tol=_TOLERANCE, v0=start)[0]
        return float(np.sqrt(value[0]))
