"""What is asked of a solution, l(u) = L u: an average, a flux, a compliance.

Unlike an observation it has no noise: it is a property of u itself, and models answer it with an
error of its own (`pddlvm.galerkin.quantities`), which is far smaller than that of u.
"""

from typing import Any

import scipy.sparse as sp
from torch import Tensor

from pddlvm.basics.checks import check_kind, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.linalg.operators import SparseOperator
from pddlvm.parameters.identity import is_like
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.sensors.observation import LinearObservation, rows_of

__all__ = ["Quantity"]


class Quantity:
    """Linear functionals of a solution. Immutable.

    Args:
        problem: whose solutions are asked.
        functional: L, (n, n_dofs), or one row (n_dofs,), sparse or dense; `average_matrix` and
            `gradient_matrix` make some. Or a `LinearObservation`, whose matrix is taken.
        name: for messages and tables.

    Raises:
        InputError: a matrix of another size, without a row, or with values that are not finite; an
            observation of another problem.
    """

    def __init__(self, problem: ParametricProblem, functional: Any, name: str = "quantity") -> None:
        check_kind(ParametricProblem, problem=problem)
        check_kind(str, name=name)
        if isinstance(functional, LinearObservation):
            if not is_like(problem, functional.problem):
                raise InputError(
                    f"the observation is of problem {functional.problem.name!r}, the quantity "
                    f"{name!r} of {problem.name!r} or of one with another mesh or other fields"
                )
            functional = functional.matrix
        self.problem, self.name = problem, name
        self.matrix: sp.csr_matrix = rows_of(problem, functional)
        if not self.matrix.shape[0]:
            raise InputError(f"the quantity {name!r} has no row")

    def __repr__(self) -> str:
        return f"Quantity({self.name!r}, {self.n} of {self.problem.name!r})"

    @property
    def n(self) -> int:
        """Number of functionals."""
        n: int = self.matrix.shape[0]
        return n

    def apply(self, u: Tensor) -> Tensor:
        """L u, (..., n_dofs) -> (..., n), of trajectories (..., n_times, n_dofs) -> (..., n).

        Differentiable; dtype and device of u.
        """
        n_dofs = self.problem.n_dofs
        u = check_vectors(u, "u", n_dofs, f"have {n_dofs} values")
        u = u.flatten(-len(self.problem.solution_shape))
        found: Tensor = SparseOperator(self.matrix, u.dtype).to(u.device)(u)
        return found
