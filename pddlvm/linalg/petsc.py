"""Krylov methods and multigrid of PETSc; the extra `petsc`.

A x = b,   by conjugate gradients where A is symmetric, by GMRES where it is not,
preconditioned by GAMG (smoothed aggregation) or by BoomerAMG of hypre
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from pddlvm.basics.checks import check_count, check_share
from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.linalg.factorisation import (
    Array,
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    NotPositiveError,
    rough,
    scaled,
)

__all__ = ["Petsc", "PetscFactors", "has_petsc"]


def has_petsc() -> bool:
    """Is it installed?"""
    return find_spec("petsc4py") is not None


@dataclass(frozen=True)
class Petsc(LinearSolver):
    """PETSc in one process.

    Attributes:
        preconditioner: `gamg`, or `hypre` where PETSc was built with it.
        tolerance: of |b - A x| / |b|, scaled by |diag(A)|^{-1/2}.
        max_iterations: of a right-hand side.

    Raises:
        InputError: it is not installed.
    """

    preconditioner: Literal["gamg", "hypre"] = "gamg"
    tolerance: float = 1e-11
    max_iterations: int = 500

    def __post_init__(self) -> None:
        check_share(tolerance=self.tolerance)
        check_count(1, max_iterations=self.max_iterations)
        if self.preconditioner not in ("gamg", "hypre"):
            raise InputError(
                f"the preconditioner is 'gamg' or 'hypre', got {self.preconditioner!r}"
            )
        if not has_petsc():
            raise InputError(
                "PETSc is not installed: pip install 'pddlvm[petsc]' builds it, or take "
                "solver=pddlvm.linalg.Multigrid()"
            )

    def factorise(  # noqa: D102
        self,
        matrix: sp.csc_matrix,
        *,
        symmetric: bool,
        near_nullspace: NearNullspace | None = None,
        many: bool = False,
    ) -> "PetscFactors":
        return PetscFactors(matrix, symmetric, near_nullspace, self)


class PetscFactors(Factorisation):
    """A matrix of PETSc with its preconditioner.

    Args:
        matrix: square; kept.
        symmetric: is it?
        near_nullspace: see there.
        settings: the rest.
    """

    def __init__(
        self,
        matrix: sp.csc_matrix,
        symmetric: bool,
        near_nullspace: NearNullspace | None,
        settings: Petsc,
    ) -> None:
        self._made_of = matrix, symmetric, near_nullspace, settings
        petsc: Any = import_module("petsc4py.PETSc")
        self._scale, a = scaled(matrix)
        index = petsc.IntType
        csr = a.indptr.astype(index), a.indices.astype(index), a.data
        self._a: Any = petsc.Mat().createAIJ(a.shape, csr=csr, comm=petsc.COMM_SELF)
        if near_nullspace is not None:
            columns, _ = np.linalg.qr(near_nullspace.vectors / self._scale[:, None])
            vectors = [
                petsc.Vec().createWithArray(v.copy(), comm=petsc.COMM_SELF) for v in columns.T
            ]
            self._a.setNearNullSpace(
                petsc.NullSpace().create(vectors=vectors, comm=petsc.COMM_SELF)
            )
        self._ksp: Any = petsc.KSP().create(petsc.COMM_SELF)
        self._ksp.setOperators(self._a)
        self._ksp.setType("cg" if symmetric else "gmres")
        self._ksp.setNormType(petsc.KSP.NormType.UNPRECONDITIONED)
        if not symmetric:
            self._ksp.setPCSide(petsc.PC.Side.RIGHT)
        self._ksp.getPC().setType(settings.preconditioner)
        self._ksp.setTolerances(rtol=settings.tolerance, max_it=settings.max_iterations)
        self._ksp.setUp()
        self._indefinite = petsc.KSP.ConvergedReason.DIVERGED_INDEFINITE_MAT

    def __reduce__(self) -> tuple[Any, ...]:
        return PetscFactors, self._made_of

    def solve(self, b: Array, trans: str = "N") -> Array:  # noqa: D102
        columns = (self._scale * b.reshape(len(b), -1).T).copy()
        found = [self._scale * self._solve(column, trans) for column in columns]
        return np.stack(found, axis=1).reshape(b.shape) if found else b.copy()

    def _solve(self, b: Array, trans: str) -> Array:
        x, right = self._a.createVecs()
        right.setArray(b)
        (self._ksp.solveTranspose if trans == "T" else self._ksp.solve)(right, x)
        reason = self._ksp.getConvergedReason()
        if reason == self._indefinite:
            raise NotPositiveError(None)
        if reason < 0:
            raise ConvergenceError(
                f"PETSc did not converge: residual {self._ksp.getResidualNorm():.1e} for a "
                f"right-hand side of norm {np.linalg.norm(b):.1e} after "
                f"{self._ksp.getIterationNumber()} iterations (reason {reason}); try another "
                "preconditioner, more max_iterations, or solver=pddlvm.linalg.SuperLU()"
            )
        return np.array(x.getArray())

    def definiteness(self) -> Definiteness:
        """By a solve with a rough right-hand side, to which all eigenvectors contribute."""
        try:
            self._solve(rough(len(self._scale)), "N")
        except NotPositiveError:
            return Definiteness(1, False, is_counted=False)
        return Definiteness(0, False)
