"""Least squares with few weights, none of them negative.

    min_w |A w - b|,   w >= 0,   until  |A w - b| <= tolerance |b|

Columns enter in blocks, those that fit the rest best first; what a block makes negative leaves
again, by steps like those of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23).
It is the greedy choice of empirical cubature (Hernández, Caicedo, Ferrer, Comput. Methods Appl.
Mech. Eng. 313, 2017). After a block that was little help comes one of half its size.
"""

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray

__all__ = ["few_weights"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_BLOCK, _SHARE = 16, 5
"""Columns of a round at least, and one for so many that there are."""
_RIDGE, _QUARTER = 1e-13, 4
_HELPS = 0.998


def few_weights(a: Array, b: Array, tolerance: float, n_most: int) -> tuple[Index, Array]:
    """Columns of A (n_rows, n) and their positive weights, (k,) each.

    Args:
        a: A.
        b: what it is to give, (n_rows,).
        tolerance: share of |b| that may be left.
        n_most: columns, about.
    """
    size = np.linalg.norm(a, axis=0)
    size = np.where(size > 0, size, np.inf)
    chosen, w = np.zeros(0, dtype=np.int64), np.zeros(0)
    columns, gram = np.zeros((len(b), 0)), np.zeros((0, 0))
    r, left, most = b, float(np.linalg.norm(b)), n_most
    enough = tolerance * left
    while left > enough and len(chosen) < n_most and most:
        gain = (r @ a) / size
        gain[chosen] = 0.0
        new = np.argsort(-gain)[: min(most, max(_BLOCK, len(chosen) // _SHARE))]
        new = new[gain[new] > 0]
        more = a[:, new] / size[new]
        between = columns.T @ more
        gram = np.block([[gram, between], [between.T, more.T @ more]])
        columns, chosen = np.hstack([columns, more]), np.append(chosen, new)
        w = np.append(w, np.zeros(len(new)))
        kept, w = _nonnegative(gram, columns.T @ b, w)
        gram, columns, chosen = gram[np.ix_(kept, kept)], columns[:, kept], chosen[kept]
        r = b - columns @ w
        norm = float(np.linalg.norm(r))
        most = n_most if norm < _HELPS * left else len(new) // 2
        left = norm
    return chosen, w / size[chosen]


def _nonnegative(gram: Array, moments: Array, w: Array) -> tuple[Index, Array]:
    """Which columns stay, and their weights, from weights w >= 0 of all."""
    kept = np.arange(len(w))
    gram = gram + _RIDGE * np.eye(len(w))
    while len(kept):
        factor = sl.cho_factor(gram[np.ix_(kept, kept)], check_finite=False)
        best = sl.cho_solve(factor, moments[kept], check_finite=False)
        falls = best <= 0
        if not falls.any():
            return kept, best
        # As far as the first weights that become zero, a quarter of all that would.
        room = np.maximum(w[falls] - best[falls], np.finfo(float).tiny)
        ratios = np.sort(w[falls] / room)
        w = w + float(ratios[len(ratios) // _QUARTER]) * (best - w)
        stays = ~(falls & (w <= _RIDGE * w.max(initial=0.0)))
        kept, w = kept[stays], w[stays]
    return kept, w
