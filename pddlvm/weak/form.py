"""A PDE in weak form, as data: what operators and solvers are made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pddlvm.fem import FunctionSpace
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
    """

    prior: ParameterSpace
    space: FunctionSpace
    terms: tuple[Term, ...]
    fields: Fields
    dirichlet: tuple[Dirichlet, ...]
    free_dofs: NDArray[np.int64]

    @property
    def n_dofs(self) -> int:
        """Degrees of freedom, Dirichlet ones included."""
        return self.space.n_dofs

    @property
    def has_potential(self) -> bool:
        """Is r the gradient of an energy?"""
        return all(isinstance(term, Energy) for term in self.terms)
