"""Direct solves of small symmetric systems of one sparsity pattern: Cholesky within a band.

    P K P^T = L L^T,     K_ij = 0 for |i - j| > width in the order P

On a plane mesh of a thousand nodes the band is so narrow that LAPACK needs a third of the time of a
sparse factorisation, whose bookkeeping costs more than its arithmetic.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded
from scipy.sparse.csgraph import reverse_cuthill_mckee

from pddlvm.linalg.factorisation import Definiteness, Factorisation

__all__ = ["Band", "BandedFactors", "find_band"]

_MAX_WIDTH = 100

Index = NDArray[np.int64]


@dataclass(frozen=True)
class BandedFactors(Factorisation):
    """L of one matrix.

    Attributes:
        lower: L in LAPACK's band storage, (width + 1, n).
        order: P, as the old number of each row.
    """

    lower: NDArray[np.float64]
    order: Index

    def solve(self, b: NDArray[np.float64], trans: str = "N") -> NDArray[np.float64]:
        """K^{-1} b, (n,) or (n, k); the transposed system is the same."""
        found = np.empty_like(b)
        found[self.order] = cho_solve_banded((self.lower, True), b[self.order], check_finite=False)
        return found

    def definiteness(self) -> Definiteness:
        """Cholesky's factors are of a positive matrix."""
        return Definiteness(0, False)


@dataclass(frozen=True)
class Band:
    """Where the entries of a pattern stand in band storage.

    Attributes:
        order: P.
        lower: numbers of the entries on and below the diagonal, in the order of the pattern.
        rows, columns: their places.
        width: of the band.
    """

    order: Index
    lower: Index
    rows: Index
    columns: Index
    width: int

    def factorise(self, data: NDArray[np.float64]) -> BandedFactors | None:
        """Factors of the matrix with these entries; None where it is not positive definite."""
        band = np.zeros((self.width + 1, len(self.order)), order="F")
        band[self.rows, self.columns] = data[self.lower]
        try:
            lower = cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
        except LinAlgError:
            return None
        return BandedFactors(lower, self.order)


def find_band(pattern: sp.csc_matrix) -> Band | None:
    """The narrowest band found for a symmetric pattern; None where it is wide."""
    n = pattern.shape[0]
    entries = pattern.tocoo()
    bands = []
    for order in (np.arange(n), reverse_cuthill_mckee(pattern.tocsr(), symmetric_mode=True)):
        number = np.empty(n, dtype=np.int64)
        number[order] = np.arange(n)
        i, j = number[entries.row], number[entries.col]
        lower = np.flatnonzero(i >= j)
        rows = (i - j)[lower]
        bands.append(Band(order.astype(np.int64), lower, rows, j[lower], int(rows.max())))
    best = min(bands, key=lambda band: band.width)
    return best if best.width <= _MAX_WIDTH else None
