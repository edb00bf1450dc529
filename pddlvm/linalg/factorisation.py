"""One seam for linear systems: a solver makes a factorisation of a matrix, and that solves.

    A x = b,      one A, many b

A `LinearSolver` is a small frozen object that says how: `Problem(..., solver=linalg.Multigrid())`.
What it makes can be copied and pickled; the copy is made anew of the matrix.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Definiteness",
    "Factorisation",
    "LinearSolver",
    "NearNullspace",
    "NotPositiveError",
    "SingularMatrixError",
    "rough",
    "scaled",
]

Array = NDArray[np.float64]


class SingularMatrixError(RuntimeError):
    """A matrix is singular to working precision."""


class NotPositiveError(RuntimeError):
    """A symmetric matrix is not positive, p^T A p <= 0, where a method needs it to be."""

    def __init__(self, direction: Array | None) -> None:
        super().__init__(
            "the matrix is not positive definite, which multigrid needs it to be; "
            "try solver=pddlvm.linalg.SuperLU() or pddlvm.linalg.Pardiso()"
        )
        self.direction = direction

    def __reduce__(self) -> tuple[type["NotPositiveError"], tuple[Array | None]]:
        return NotPositiveError, (self.direction,)


@dataclass(frozen=True)
class NearNullspace:
    """What an elliptic operator hardly resists: constants, and rigid motions of a body.

    Attributes:
        vectors: (n, k).
        nodes: number of the node of each unknown, ascending, (n,).
    """

    vectors: Array
    nodes: NDArray[np.int64]


@dataclass(frozen=True)
class Definiteness:
    """Of a symmetric matrix.

    Attributes:
        n_negative: negative eigenvalues.
        is_singular: is there one next to zero, relative to the diagonal?
        direction: p with p^T A p < 0, where n_negative > 0 and one was found.
        is_counted: is n_negative all of them? Else there are at least so many.
    """

    n_negative: int
    is_singular: bool
    direction: Array | None = None
    is_counted: bool = True


class Factorisation(ABC):
    """Something that solves with one matrix."""

    @abstractmethod
    def solve(self, b: Array, trans: str = "N") -> Array:
        """A^{-1} b, (n,) or (n, k); with A^T where trans is "T".

        Raises:
            ConvergenceError: an iteration did not reach its tolerance.
        """

    def approximate(self, b: Array) -> Array:
        """A^{-1} b of b (n, k), A positive; to some five digits where more would take longer."""
        return self.solve(b)

    def squared_norms(self, b: Array) -> Array:
        """b^T A^{-1} b of each column of b (n, k), (k,), of a positive A; to some six digits.

        What an iteration leaves of them is the square of its error.
        """
        found: Array = (b * self.approximate(b)).sum(axis=0)
        return found

    @property
    def n_worth(self) -> int:
        """About how many solves cost as much as the factorisation of a positive matrix.

        Zero: they are few, or nobody knows. See `pddlvm.linalg.nearby`.
        """
        return 0

    @property
    def preconditioner(self) -> Callable[[Array], Array] | None:
        """b (n, k) -> about A^{-1} b: linear, symmetric, positive, and much cheaper than a solve.

        None where there is none.
        """
        return None

    @abstractmethod
    def definiteness(self) -> Definiteness:
        """Is the matrix, which is symmetric, positive?"""


class LinearSolver(ABC):
    """How to solve; its subclasses are frozen dataclasses."""

    @abstractmethod
    def factorise(
        self,
        matrix: sp.csc_matrix,
        *,
        symmetric: bool,
        near_nullspace: NearNullspace | None = None,
        many: bool = False,
    ) -> Factorisation:
        """Prepare to solve with a matrix.

        Args:
            matrix: square, float64.
            symmetric: is it?
            near_nullspace: default: constants, each unknown a node.
            many: will it solve for hundreds of right-hand sides? Only `Automatic` asks.

        Raises:
            SingularMatrixError: it is singular.
            MemoryError: it takes more than there is; says how much.
        """


def rough(n: int) -> Array:
    """A vector (n,) to which all eigenvectors contribute, the same one each time."""
    found: Array = np.cos(np.arange(n, dtype=np.float64) ** 2)
    return found


def scaled(matrix: sp.csc_matrix) -> tuple[Array, sp.csr_matrix]:
    """S = |diag(A)|^{-1/2}, (n,), one where the diagonal is zero, and S A S: free of units."""
    diagonal = np.abs(matrix.diagonal())
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return scale, sp.csr_matrix(sp.diags(scale) @ matrix @ sp.diags(scale))
