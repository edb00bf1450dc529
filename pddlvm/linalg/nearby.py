"""K x = b with the factors of a matrix A next to K: conjugate gradients, preconditioned by A^{-1}.

Each iteration solves once with A. It is worth trying where a factorisation costs as much as n_worth
solves, and given up

    after n_worth / 2 iterations, or as soon as the rate so far says that they will not do,

so that a try in vain costs half a factorisation at most.
"""

import numpy as np
import scipy.sparse as sp

from pddlvm.linalg.factorisation import Array, Factorisation

__all__ = ["solve_nearby"]

_TOLERANCE = 1e-6
"""Of a step of Newton's method: it converges faster than this only at its end."""
_FIRST_LOOK = 3


def solve_nearby(matrix: sp.csc_matrix, near: Factorisation, b: Array) -> Array | None:
    """x with |b - K x| <= 1e-6 |b|, K symmetric positive; None if it is not worth it.

    Args:
        matrix: K.
        near: of A.
        b: (n,).
    """
    n_most = near.n_worth // 2
    x, r = np.zeros_like(b), b
    p = w = near.solve(r) if n_most else r
    rho, start = r @ w, np.linalg.norm(b)
    for k in range(1, n_most + 1):
        q = matrix @ p
        curvature = p @ q
        if not curvature > 0:
            return None
        x, r = x + rho / curvature * p, r - rho / curvature * q
        left = float(np.linalg.norm(r) / start)
        if left <= _TOLERANCE:
            return x
        if k >= _FIRST_LOOK and left ** (n_most / k) > _TOLERANCE:
            return None
        w = near.solve(r)
        rho, before = r @ w, rho
        p = w + rho / before * p
    return None
