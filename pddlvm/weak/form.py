"""A PDE in weak form, as data: what operators and solvers are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.fem import FunctionSpace, MixedSpace
from pddlvm.linalg.bordered import Bordered
from pddlvm.linalg.factorisation import Factorisation, LinearSolver, NearNullspace
from pddlvm.parameters.fields import Fields
from pddlvm.parameters.space import ParameterSpace
from pddlvm.weak.boundary import Dirichlet
from pddlvm.weak.constraints import Constraints
from pddlvm.weak.terms import Energy, Term

__all__ = ["WeakForm"]


@dataclass(frozen=True)
class WeakForm:
    """r(u, z) = 0 on a space; see `Problem`, whose form it is.

    Attributes:
        prior: of z.
        space: where u lives.
        terms: energies and fluxes; r is their sum.
        fields: name -> field or number.
        dirichlet: prescribed values.
        free_dofs: sorted degrees of freedom that no condition fixes.
        solver: of linear systems on them.
        constraints: what makes the solution unique where these do not.
    """

    prior: ParameterSpace
    space: FunctionSpace
    terms: tuple[Term, ...]
    fields: Fields
    dirichlet: tuple[Dirichlet, ...]
    free_dofs: NDArray[np.int64]
    solver: LinearSolver
    constraints: Constraints | None = None

    @property
    def n_dofs(self) -> int:
        """Degrees of freedom, Dirichlet ones included."""
        return self.space.n_dofs

    @property
    def names_read(self) -> set[str]:
        """Names of the fields that terms and Dirichlet values read."""
        read = {name for term in self.terms for name in term.field_names}
        return read | {name for condition in self.dirichlet for name in condition.field_names}

    def factorise(
        self, matrix: sp.csc_matrix, *, symmetric: bool, many: bool = False
    ) -> Factorisation:
        """Prepare to solve with a matrix on the free degrees of freedom; see `LinearSolver`."""
        near = self.near_nullspace
        if self.constraints is not None:
            border = self.constraints.border[self.free_dofs]
            return Bordered(matrix, border, self.solver, symmetric, near, many)
        return self.solver.factorise(matrix, symmetric=symmetric, near_nullspace=near, many=many)

    @cached_property
    def near_nullspace(self) -> NearNullspace | None:
        """What the operator on the free degrees of freedom hardly resists; of one field only."""
        if isinstance(self.space, MixedSpace):
            return None
        nodes = np.cumsum(self.space.dof_components == 0) - 1
        return NearNullspace(self.space.near_nullspace[self.free_dofs], nodes[self.free_dofs])

    @property
    def is_symmetric(self) -> bool:
        """Are matrices symmetric, and positive where the problem is a usual one?

        Those of several fields may be of a saddle point, which factors without pivots are not for.
        """
        return self.has_potential and not isinstance(self.space, MixedSpace)

    @property
    def has_potential(self) -> bool:
        """Is r the gradient of an energy?"""
        return all(isinstance(term, Energy) for term in self.terms)
