"""Sparse LU by SuperLU: always there, best where the factors are small.

    A = L U,      symmetric: P A P^T = L D L^T, as many D < 0 as A has negative eigenvalues

(Sylvester's law of inertia). Without pivoting that is safe where A is positive. Where it is not,
the first solution tells: if |A x - b| is more than rounding, A is factorised again, with pivoting.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu, spsolve_triangular

from pddlvm.linalg.factorisation import (
    Array,
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    SingularMatrixError,
)
from pddlvm.linalg.memory import predict_fill, require_memory

__all__ = ["BYTES_PER_ENTRY", "SuperLU", "SuperLUFactors"]

BYTES_PER_ENTRY = 12.0
"""Of L and U: a number and, as supernodes share them, a part of an index."""
_LARGE = 20_000
"""Unknowns from which the memory is asked for: fewer take some hundred MiB at most."""
_SINGULAR = 1e-13
"""A pivot relative to its diagonal entry: between round-off and thin shells (1e-10)."""
_ROUNDING = 1e-10
"""Of a residual relative to |A| |x| + |b|: far above that of a stable factorisation."""


@dataclass(frozen=True)
class SuperLU(LinearSolver):
    """Sparse LU."""

    def factorise(  # noqa: D102
        self,
        matrix: sp.csc_matrix,
        *,
        symmetric: bool,
        near_nullspace: NearNullspace | None = None,
        many: bool = False,
    ) -> "SuperLUFactors":
        if matrix.shape[0] > _LARGE:
            require_memory(
                BYTES_PER_ENTRY * predict_fill(matrix),
                "SuperLU",
                "try solver=pddlvm.linalg.Multigrid() where the matrix is symmetric positive, "
                "pddlvm.linalg.Pardiso(), or a coarser mesh",
            )
        # Stored zeros (right angles) cost up to eight times the time.
        matrix = matrix.copy()
        matrix.eliminate_zeros()
        return SuperLUFactors(matrix, symmetric)


class SuperLUFactors(Factorisation):
    """L and U; without pivoting, and on a symmetric ordering, where the matrix is symmetric.

    Args:
        matrix: square, without stored zeros; kept.
        symmetric: is it?

    Raises:
        SingularMatrixError: it is singular.
    """

    def __init__(self, matrix: sp.csc_matrix, symmetric: bool) -> None:
        self._matrix, self._symmetric = matrix, symmetric
        options: dict[str, Any] = {}
        if symmetric:
            options = {
                "permc_spec": "MMD_AT_PLUS_A",
                "diag_pivot_thresh": 0.0,
                "options": {"SymmetricMode": True},
            }
        self._lu = _factors(matrix, **options)
        self._solver = self._lu
        self._is_stable = not symmetric

    def __reduce__(self) -> tuple[Any, ...]:
        # SuperLU's own factors are bound to the memory of their process.
        return SuperLUFactors, (self._matrix, self._symmetric)

    def solve(self, b: Array, trans: str = "N") -> Array:  # noqa: D102
        found: Array = self._solver.solve(b, trans)
        if not self._is_stable:
            self._is_stable = True
            if self._misses(found, b):
                self._solver = _factors(self._matrix)
                found = self._solver.solve(b, trans)
        return found

    def _misses(self, x: Array, b: Array) -> bool:
        """Is |A x - b| more than rounding?"""
        missed = np.abs(self._matrix @ x - b).max(initial=0.0)
        size = abs(self._matrix).sum(axis=0).max() * np.abs(x).max(initial=0.0)
        return not missed <= _ROUNDING * (size + np.abs(b).max(initial=0.0))

    def definiteness(self) -> Definiteness:
        """By the pivots D_i / |A_ii|; all count as negative where they had to leave the diagonal.

        L^T P p = e_j gives p^T A p = D_j.
        """
        if not np.array_equal(self._lu.perm_r, self._lu.perm_c):
            return Definiteness(self._matrix.shape[0], False)
        order = self._lu.perm_c
        pivots = self._lu.U.diagonal()[order] / np.abs(self._matrix.diagonal())
        n_negative = int((pivots < -_SINGULAR).sum())
        if not n_negative:
            return Definiteness(0, not pivots.min() > _SINGULAR)
        unit = np.zeros(len(pivots))
        unit[order[int(pivots.argmin())]] = 1.0
        p = spsolve_triangular(sp.csr_matrix(self._lu.L.T), unit, lower=False)[order]
        return Definiteness(n_negative, False, p)


def _factors(matrix: sp.csc_matrix, **options: Any) -> Any:
    try:
        return splu(matrix, **options)
    except RuntimeError as error:
        raise SingularMatrixError(str(error)) from error
