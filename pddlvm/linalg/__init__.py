"""Matrices: sparse operators and factorisations; nothing of a PDE.

`Problem(..., solver=linalg.Multigrid())` takes one of the solvers here.
"""

from pddlvm.linalg.automatic import Automatic
from pddlvm.linalg.factorisation import (
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    NotPositiveError,
    SingularMatrixError,
)
from pddlvm.linalg.multigrid import Multigrid
from pddlvm.linalg.pardiso import Pardiso
from pddlvm.linalg.petsc import Petsc
from pddlvm.linalg.superlu import SuperLU

__all__ = [
    "Automatic",
    "Definiteness",
    "Factorisation",
    "LinearSolver",
    "Multigrid",
    "NearNullspace",
    "NotPositiveError",
    "Pardiso",
    "Petsc",
    "SingularMatrixError",
    "SuperLU",
]
