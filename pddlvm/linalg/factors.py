"""Sparse direct factorisations that can be copied and pickled.

    A = L U,    x = A^{-1} b

SuperLU's own factors are bound to the memory of their process: a copy is made of the matrix.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import SuperLU, splu

__all__ = ["SparseFactors", "factorise"]


class SparseFactors:
    """Sparse LU; without pivoting, and on a symmetric ordering, where the matrix is symmetric.

    Args:
        matrix: square, without stored zeros; kept.
        symmetric: is it?

    Attributes:
        lu: L and U with their permutations.

    Raises:
        RuntimeError: it is singular.
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
        self.lu: SuperLU = splu(matrix, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return SparseFactors, (self._matrix, self._symmetric)

    def solve(self, b: NDArray[np.float64], trans: str = "N") -> NDArray[np.float64]:
        """A^{-1} b, (n,) or (n, k); with A^T where trans is "T"."""
        solve: Any = self.lu.solve
        found: NDArray[np.float64] = solve(b, trans)
        return found


def factorise(matrix: sp.csc_matrix, *, symmetric: bool) -> SparseFactors:
    """Factors of a matrix, whose stored zeros are left out.

    Stored zeros (right angles) cost SuperLU up to eight times the time.
    """
    matrix = matrix.copy()
    matrix.eliminate_zeros()
    return SparseFactors(matrix, symmetric)
