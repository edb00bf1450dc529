"""Is a reference operator positive? If it is not, what it probably is.

    K = P^T L D L^T P,    as many eigenvalues of K are negative as there are negative pivots D

(Sylvester's law of inertia). The norm |u|_K, the basis with V^T K V = I and the energy as a
likelihood all need K to be positive.
"""

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import spsolve_triangular
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.linalg.factors import SparseFactors, factorise

if TYPE_CHECKING:
    from pddlvm.weak.problem import Problem

__all__ = ["check_positive_at", "factorise_positive"]

Array = NDArray[np.float64]

_SINGULAR = 1e-13
"""A pivot relative to its diagonal entry: between round-off and thin shells (1e-10)."""
_WHY_SINGULAR = (
    "is a coefficient zero, can it move as a rigid body, or is the prior centred at a resonance?"
)


def factorise_positive(problem: "Problem", whole: sp.csr_matrix) -> SparseFactors:
    """Factors of the free rows and columns of a symmetric matrix on all degrees of freedom.

    Raises:
        ProblemError: it is not positive, or singular; says where, and what to look for.
    """
    matrix = whole[problem.free_dofs][:, problem.free_dofs].tocsc()
    start = f"the operator of problem {problem.name!r} at the centre of the prior"
    try:
        factors = factorise(matrix, symmetric=True)
    except RuntimeError as error:
        raise ProblemError(f"{start} is singular: {_WHY_SINGULAR}") from error
    pivots = relative_pivots(matrix, factors)
    n_negative = int((pivots < -_SINGULAR).sum())
    if n_negative:
        raise ProblemError(
            f"{start} is not positive: {n_negative} of its {len(pivots)} eigenvalues are negative, "
            f"and the energy is not bounded below. {_why_indefinite(problem, factors, pivots)} "
            "(problem.solve(z) does without a positive operator, a model does not)"
        )
    if not pivots.min() > _SINGULAR:
        raise ProblemError(f"{start} is singular: {_WHY_SINGULAR}")
    return factors


def check_positive_at(problem: "Problem", u: Tensor, z: Tensor, share: str) -> None:
    """Raise a ProblemError if K(u, z) of one sample is not positive, u (n_dofs,), z (d,)."""
    matrix = problem.solver.matrix(u, z)
    try:
        pivots = relative_pivots(matrix, factorise(matrix, symmetric=True))
    except RuntimeError:
        pivots = np.zeros(1)
    if not pivots.min() > _SINGULAR:
        raise ProblemError(
            f"the operator of problem {problem.name!r} loses its positivity within the prior, at "
            f"{share}, z = {[float(f'{value:.4g}') for value in z.tolist()]} for one: does a "
            "coefficient change its sign there (try a positive link, links.exp), or does the prior "
            "cross a resonance? Narrow the prior"
        )


def relative_pivots(matrix: sp.csc_matrix, factors: SparseFactors) -> Array:
    """D_i / |K_ii| of each row i, all negative where the pivots had to leave the diagonal."""
    if not np.array_equal(factors.lu.perm_r, factors.lu.perm_c):
        return np.full(matrix.shape[0], -np.inf)
    return factors.lu.U.diagonal()[factors.lu.perm_c] / np.abs(matrix.diagonal())


def _why_indefinite(problem: "Problem", factors: SparseFactors, pivots: Array) -> str:
    if (pivots < 0).all():
        return "All are: look for the wrong sign of an energy."
    # L^T P p = e_j gives p^T K p = D_j < 0.
    j = int(factors.lu.perm_c[int(pivots.argmin())])
    unit = np.zeros(len(pivots))
    unit[j] = 1.0
    p = spsolve_triangular(sp.csr_matrix(factors.lu.L.T), unit, lower=False)[factors.lu.perm_c]
    x = problem.space.dof_points[problem.free_dofs[int(np.abs(p).argmax())]]
    where = tuple(float(f"{v:.4g}") for v in x)
    return (
        f"One negative direction is largest at x = {where}: has an energy there the wrong sign, or "
        "is this a wave problem (Helmholtz) above its first resonance?"
    )
