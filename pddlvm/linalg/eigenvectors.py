"""Eigenvectors that are the same ones each time, on any machine and any number of threads.

A sign is arbitrary, and so is the basis of the eigenvectors of equal eigenvalues (the domain has a
symmetry). With psi the eigenvectors of such a cluster and p fixed functions, the rotation

    psi <- psi Q,      p^T psi Q lower triangular, its diagonal positive

is decided by values well above round-off, where "the largest entry is positive" is a tie for every
antisymmetric one. The functions p_j(x) = exp(-|x - c_j|) have no symmetry, as their centres have
none, and their cusps keep enough of each wave number.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["canonical_rotation"]

Array = NDArray[np.float64]

_EQUAL = 1e-6
"""Gap relative to the eigenvalue, below which two are equal: round-off turns them further."""


def canonical_rotation(values: Array, functions: Array, x: Array, n: int) -> Array:
    """Q of the first n: eigenvectors @ Q is one fixed choice of them.

    Args:
        values: positive eigenvalues, descending, (k,), k >= n; with those beyond n that equal the
            last.
        functions: the eigenvectors at points, times the points' weights in a scalar product,
            (n_points, k).
        x: the points, (n_points, dim).
        n: how many are wanted.

    Returns:
        (k, n), with orthonormal columns; zero between different eigenvalues.
    """
    rotation = np.zeros((len(values), len(values)))
    ends = 1 + np.flatnonzero(values[:-1] - values[1:] > _EQUAL * values[:-1])
    for cluster in np.split(np.arange(len(values)), ends):
        if cluster[0] >= n:
            break
        probes = _cusps(x, len(cluster)).T @ functions[:, cluster]
        q, r = np.linalg.qr(probes.T)
        rotation[np.ix_(cluster, cluster)] = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return rotation[:, :n]


def _cusps(x: Array, n: int) -> Array:
    """exp(-|x - c_j|) in units of the box, (n_points, n); c_j of an additive recurrence.

    Its steps are the powers of the root of g^(d + 1) = g + 1, the golden ratio of d dimensions.
    """
    low, extent = x.min(axis=0), np.ptp(x, axis=0)
    dim = x.shape[1]
    golden = max(np.roots([1.0, *np.zeros(dim - 1), -1.0, -1.0]).real)
    centres = low + extent * (np.outer(1 + np.arange(n), golden ** -(1.0 + np.arange(dim))) % 1)
    distance = np.linalg.norm(x[:, None] - centres, axis=-1)
    return np.exp(-distance / (extent.max() or 1.0))
