"""A PDE in weak form, as data: what operators and solvers are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.fem import FunctionSpace
from pddlvm.linalg.factorisation import Factorisation, LinearSolver, NearNullspace
from pddlvm.parameters.fields import Fields
from pddlvm.parameters.space import ParameterSpace
from pddlvm.weak.boundary import Dirichlet
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
    """

    prior: ParameterSpace
    space: FunctionSpace
    terms: tuple[Term, ...]
    fields: Fields
    dirichlet: tuple[Dirichlet, ...]
    free_dofs: NDArray[np.int64]
    solver: LinearSolver

    @property
    def n_dofs(self) -> int:
        """Degrees of freedom, Dirichlet ones included."""
        return self.space.n_dofs

    def factorise(
        self, matrix: sp.csc_matrix, *, symmetric: bool, many: bool = False
    ) -> Factorisation:
        """Prepare to solve with a matrix on the free degrees of freedom; see `LinearSolver`."""
        near = self.near_nullspace
        return self.solver.factorise(matrix, symmetric=symmetric, near_nullspace=near, many=many)

    @cached_property
    def near_nullspace(self) -> NearNullspace:
        """What the operator on the free degrees of freedom hardly resists."""
        nodes = np.cumsum(self.space.dof_components == 0) - 1
        return NearNullspace(self.space.near_nullspace[self.free_dofs], nodes[self.free_dofs])

    @property
    def has_potential(self) -> bool:
        """Is r the gradient of an energy?"""
        return all(isinstance(term, Energy) for term in self.terms)
