"""Linear problems, step by step: one factorisation for each pair of diagonal entries.

    (Ta_kk M + Tb_kk K) u_k = - sum_{j<k} (Ta_kj M + Tb_kj K) u_j - sum_{j<=k} Tb_kj g_j

on the free degrees of freedom, with r(u, z, t) = K(z) u + g(z, t). Samples of equal K are
right-hand sides of the same factors.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.linalg.factorisation import Factorisation
from pddlvm.transient.schemes import Scheme

__all__ = ["combined", "march"]

Array = NDArray[np.float64]


def march(
    scheme: Scheme,
    operators: tuple[sp.csr_matrix, sp.csr_matrix],
    factorise: Callable[[sp.csc_matrix], Factorisation],
    u: Array,
    loads: Array,
    free: NDArray[np.int64],
) -> None:
    """Fill in the free degrees of freedom of all states but the history.

    Args:
        scheme: of N steps and h history states.
        operators: M and K, on all degrees of freedom.
        factorise: prepares to solve with a matrix on the free degrees of freedom.
        u: history, and prescribed values of all states, zero elsewhere; (h + N, n_dofs, batch).
        loads: g on the free degrees of freedom, (h + N, n_free, batch).
        free: those that are.
    """
    m, k = (sp.csr_matrix(whole[free]) for whole in operators)
    own_m, own_k = m[:, free].tocsc(), k[:, free].tocsc()
    factors: dict[tuple[float, float], Factorisation] = {}
    for step, (of_m, of_k) in enumerate(scheme.diagonals.tolist()):
        if (of_m, of_k) not in factors:
            factors[of_m, of_k] = factorise((of_m * own_m + of_k * own_k).tocsc())
        # The state of this step has its prescribed values already.
        b = m @ combined(scheme.ta, step, u) + combined(scheme.tb, step, loads)
        seen = combined(scheme.tb, step, u)
        if seen.any():
            b = b + k @ seen
        u[scheme.n_history + step, free] = factors[of_m, of_k].solve(np.ascontiguousarray(-b))


def combined(rows: sp.csr_matrix, step: int, states: Array) -> Array:
    """sum_j rows[step, j] states[j]."""
    part = slice(rows.indptr[step], rows.indptr[step + 1])
    found: Array = np.tensordot(rows.data[part], states[rows.indices[part]], axes=1)
    return found
