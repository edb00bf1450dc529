"""Few functions whose combinations are a whole family, by values at few entries.

    f(x; z) = sum_q f(x_q; z) cardinal_q(x)

Discrete empirical interpolation (Chaturantabut and Sorensen, SIAM J. Sci. Comput. 32, 2010).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lu_factor

__all__ = ["Interpolation", "find_interpolation"]

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Interpolation:
    """Empirical interpolation f(x; z) = sum_q f(x_q; z) cardinal_q(x).

    Attributes:
        index: flat indices of the magic entries, (rank,).
        cardinal: cardinal functions at all entries, (n_entries, rank).
        spread: F, (n_own, s), where the s entries at a point are combinations of n_own of them:
            cardinal functions are then those of the latter, (n_points * n_own, rank).
    """

    index: NDArray[np.int64]
    cardinal: NDArray[np.float64]
    spread: NDArray[np.float64] | None = None

    def function(self, q: int) -> NDArray[np.float64]:
        """A cardinal function at all entries, (n_entries,)."""
        own = np.ascontiguousarray(self.cardinal[:, q])
        return (
            own
            if self.spread is None
            else (own.reshape(-1, len(self.spread)) @ self.spread).ravel()
        )


def find_interpolation(
    snapshots: NDArray[np.float64],
    max_rank: int,
    sizes: NDArray[np.float64] | None = None,
    tolerance: float = _TOLERANCE,
) -> Interpolation | None:
    """Interpolate the rows of (n_snapshots, n_entries); None if it takes more than max_rank.

    The rank is the number of singular values above a part of the largest. All-zero snapshots give
    rank 0.

    Args:
        snapshots: values of the family.
        max_rank: largest rank.
        sizes: positive factors that make entries of other units comparable, repeated along them.
        tolerance: the part.
    """
    if sizes is not None:
        weights = np.tile(sizes, snapshots.shape[1] // len(sizes))
        found = find_interpolation(snapshots * weights, max_rank, tolerance=tolerance)
        if found is None:
            return None
        cardinal = found.cardinal * (weights[found.index] / weights[:, None])
        return Interpolation(found.index, cardinal)
    is_used = np.asarray(snapshots.any(axis=0))
    if not is_used.all() and is_used.any():
        found = find_interpolation(snapshots[:, is_used], max_rank, tolerance=tolerance)
        if found is None:
            return None
        cardinal = np.zeros((len(is_used), len(found.index)))
        cardinal[is_used] = found.cardinal
        return Interpolation(np.flatnonzero(is_used)[found.index], cardinal)
    size = np.abs(snapshots).max(initial=0.0)
    snapshots = snapshots / size if size > 0 else snapshots
    gram = snapshots @ snapshots.T
    values, vectors = np.linalg.eigh(gram)
    # Singular values by way of the Gram matrix resolve only half of the digits.
    rank = int((values > tolerance**1.5 * values[-1]).sum())
    if rank > max_rank or rank == len(snapshots):
        return None
    leading = vectors[:, ::-1][:, :rank]
    modes = snapshots.T @ leading / np.sqrt(values[::-1][:rank])
    # The largest entry of what a mode leaves of the interpolation by those before: a pivot.
    order = np.arange(len(modes))
    for q, pivot in enumerate(lu_factor(modes)[1] if rank else ()):
        order[[q, pivot]] = order[[pivot, q]]
    index = order[:rank]
    cardinal = np.linalg.solve(modes[index].T, modes.T).T if rank else modes
    return Interpolation(index, cardinal)
