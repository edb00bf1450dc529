"""Is a reference operator positive? If it is not, what it probably is.

    p^T K p > 0 for all p

The norm |u|_K, the basis with V^T K V = I and the energy as a
likelihood all need K to be positive.
"""

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.fem import MixedSpace
from pddlvm.linalg.factorisation import (
    Definiteness,
    Factorisation,
    NotPositiveError,
    SingularMatrixError,
)

if TYPE_CHECKING:
    from pddlvm.weak.problem import Problem

__all__ = ["check_positive_at", "factorise_positive"]

_WHY_SINGULAR = (
    "is a coefficient zero, or does its prior change its sign (links.exp keeps a field positive), "
    "can it move as a rigid body, or is the prior centred at a resonance?"
)

_SOLVE = (
    "(problem.solve(z) does without a positive operator, a model needs one, or a norm of its "
    "solutions: inner_product=)"
)


def factorise_positive(problem: "Problem", whole: sp.csr_matrix) -> Factorisation:
    """Factors of the free rows and columns of a symmetric matrix on all degrees of freedom.

    Raises:
        ProblemError: it is not positive, or singular; says where, and what to look for.
    """
    matrix = whole[problem.free_dofs][:, problem.free_dofs].tocsc()
    start = f"the operator of problem {problem.name!r} at the centre of the prior"
    _check_not_a_saddle(problem, matrix, start)
    try:
        factors = problem.form.factorise(matrix, symmetric=True, many=True)
        found = factors.definiteness()
    except SingularMatrixError as error:
        raise ProblemError(f"{start} is singular: {_WHY_SINGULAR}") from error
    except NotPositiveError as error:
        found = Definiteness(1, False, error.direction, is_counted=False)
    if found.n_negative:
        least = "" if found.is_counted else "at least "
        raise ProblemError(
            f"{start} is not positive: {least}{found.n_negative} of its {problem.n_free} "
            "eigenvalues are negative, and the energy is not bounded below. "
            f"{_why_indefinite(problem, found)} {_SOLVE}"
        )
    if found.is_singular:
        raise ProblemError(f"{start} is singular: {_WHY_SINGULAR}")
    return factors


def check_positive_at(problem: "Problem", u: Tensor, z: Tensor, share: str) -> None:
    """Raise a ProblemError if K(u, z) of one sample is not positive, u (n_dofs,), z (d,)."""
    try:
        found = problem.form.factorise(problem.solver.matrix(u, z), symmetric=True).definiteness()
    except (SingularMatrixError, NotPositiveError):
        found = Definiteness(0, True)
    if found.n_negative or found.is_singular:
        raise ProblemError(
            f"the operator of problem {problem.name!r} loses its positivity within the prior, at "
            f"{share}, z = {[float(f'{value:.4g}') for value in z.tolist()]} for one: does a "
            "coefficient change its sign there (try a positive link, links.exp), or does the prior "
            "cross a resonance? Narrow the prior"
        )


def _check_not_a_saddle(problem: "Problem", matrix: sp.csc_matrix, start: str) -> None:
    """Refuse what is held by constraints, and fields that have no energy of their own."""
    if problem.constraints:
        raise ProblemError(
            f"{start} is positive only under its constraints ({problem.constraints[0]}). {_SOLVE}"
        )
    if not isinstance(problem.space, MixedSpace):
        return
    diagonal = np.zeros(problem.n_dofs)
    diagonal[problem.free_dofs] = matrix.diagonal()
    for name in problem.space.field_names:
        dofs, _ = problem.space.field(name)
        free = problem.free_dofs[
            (problem.free_dofs >= dofs.start) & (problem.free_dofs < dofs.stop)
        ]
        if (diagonal[free] <= 0).any():
            raise ProblemError(
                f"{start} is not positive: field {name!r} has no energy of its own, as a pressure "
                f"in a saddle point. {_SOLVE}"
            )


def _why_indefinite(problem: "Problem", found: Definiteness) -> str:
    if found.n_negative == problem.n_free:
        return "All are: look for the wrong sign of an energy."
    if found.direction is None:
        return "Has an energy the wrong sign, or is this a wave problem above its first resonance?"
    x = problem.space.dof_points[problem.free_dofs[int(np.abs(found.direction).argmax())]]
    where = tuple(float(f"{v:.4g}") for v in x)
    return (
        f"One negative direction is largest at x = {where}: has an energy there the wrong sign, or "
        "is this a wave problem (Helmholtz) above its first resonance?"
    )
