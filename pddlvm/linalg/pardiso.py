"""Sparse direct solver of the Intel MKL: nested dissection, in parallel; the extra `pardiso`.

    S A S = L L^T,  L D L^T  or  L U,      S = |diag(A)|^{-1/2}

Cholesky where the matrix is positive; else with pivots, whose signs are those of the eigenvalues.
"""

import weakref
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, eigsh

from pddlvm.basics.errors import InputError
from pddlvm.linalg.factorisation import (
    Array,
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    SingularMatrixError,
    rough,
    scaled,
)
from pddlvm.linalg.memory import require_memory

__all__ = ["Pardiso", "PardisoFactors", "has_pardiso"]

_POSITIVE, _INDEFINITE, _GENERAL = 2, -2, 11
"""MKL's types of matrices."""
_ANALYSE, _FACTORISE, _SOLVE = 11, 22, 33
"""Its phases."""
_PERTURBED, _N_NEGATIVE = 14, 23
_MEMORY = (15, 16, 17)
"""Its parameters, counted from one: pivots that were moved, signs, KiB of analysis and factors."""
_OPERATIONS = (18, 19)
"""Entries of the factors, and millions of operations to find them."""
_WAITING = 12.0
_ACCURATE = 1e-6
_SINGULAR = 1e13


def has_pardiso() -> bool:
    """Is it installed?"""
    return find_spec("pypardiso") is not None


@dataclass(frozen=True)
class Pardiso(LinearSolver):
    """PARDISO.

    Raises:
        InputError: it is not installed.
    """

    def __post_init__(self) -> None:
        if not has_pardiso():
            raise InputError(
                "PARDISO is not installed: pip install 'pddlvm[pardiso]' (x86-64), or take "
                "solver=pddlvm.linalg.Multigrid() or pddlvm.linalg.SuperLU()"
            )

    def factorise(  # noqa: D102
        self,
        matrix: sp.csc_matrix,
        *,
        symmetric: bool,
        near_nullspace: NearNullspace | None = None,
        many: bool = False,
    ) -> "PardisoFactors":
        return PardisoFactors(matrix, symmetric)


class PardisoFactors(Factorisation):
    """Factors of one matrix.

    Args:
        matrix: square; kept.
        symmetric: is it?

    Raises:
        SingularMatrixError: it is singular.
        MemoryError: the factors do not fit.
    """

    def __init__(self, matrix: sp.csc_matrix, symmetric: bool) -> None:
        self._made_of = matrix, symmetric
        self._scale, a = scaled(matrix)
        a.eliminate_zeros()
        # It wants each diagonal entry, zero or not.
        a.setdiag(a.diagonal())
        if not symmetric:
            self._factorise(a, _GENERAL)
        elif not self._factorise(sp.csr_matrix(sp.triu(a)), _POSITIVE):
            self._factorise(sp.csr_matrix(sp.triu(a)), _INDEFINITE)
        if self._pardiso.get_iparm(_PERTURBED) > 0 and self._misses():
            raise SingularMatrixError("PARDISO finds no pivots")

    def _factorise(self, matrix: sp.csr_matrix, kind: int) -> bool:
        """Is there a factorisation of this kind?"""
        library = import_module("pypardiso")
        self._matrix, self._kind = matrix, kind
        self._pardiso: Any = _another(library.ps, kind)
        self._free = weakref.finalize(self, self._pardiso.free_memory, True)
        if kind != _POSITIVE:
            # Scalings and weighted matchings, on an ordering by nested dissection.
            given = {1: 1, 2: 2, 8: 2, 10: 13 if kind == _GENERAL else 8, 11: 1, 13: 1}
            for number, value in given.items():
                self._pardiso.set_iparm(number, value)
        nothing = np.zeros((matrix.shape[0], 1))
        try:
            self._call(_ANALYSE, nothing)
            peak, kept, factors = (1024.0 * self._pardiso.get_iparm(i) for i in _MEMORY)
            require_memory(
                max(peak, kept + factors),
                "PARDISO",
                "try solver=pddlvm.linalg.Multigrid() where the matrix is symmetric positive, or a "
                "coarser mesh",
            )
            self._call(_FACTORISE, nothing)
        except library.pardiso_wrapper.PyPardisoError as error:
            self._free()
            if kind == _POSITIVE:
                return False
            raise SingularMatrixError(str(error)) from error
        return True

    def _call(self, phase: int, b: Array) -> Array:
        self._pardiso.set_phase(phase)
        found: Array = self._pardiso._call_pardiso(self._matrix, np.asfortranarray(b))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return PardisoFactors, self._made_of

    def solve(self, b: Array, trans: str = "N") -> Array:  # noqa: D102
        if not b.size:
            return b.copy()
        scale = self._scale if b.ndim == 1 else self._scale[:, None]
        self._pardiso.set_iparm(12, 2 if trans == "T" else 0)
        return scale * self._call(_SOLVE, scale * b)

    @property
    def n_worth(self) -> int:
        """By the operations of both; those of a solve wait for the memory."""
        if self._kind != _POSITIVE:
            return 0
        entries, mega = (float(self._pardiso.get_iparm(i)) for i in _OPERATIONS)
        return int(1e6 * mega / (4 * entries) / _WAITING)

    def definiteness(self) -> Definiteness:
        """By the signs of the pivots, and by an inverse iteration from a rough vector."""
        n = len(self._scale)
        if self._kind == _POSITIVE:
            b = rough(n)
            size = np.linalg.norm(self._call(_SOLVE, b)) / np.linalg.norm(b)
            return Definiteness(0, bool(size > _SINGULAR))
        n_negative = int(self._pardiso.get_iparm(_N_NEGATIVE))
        if not n_negative:
            return Definiteness(0, True)
        if n_negative == n:
            return Definiteness(n, False, self._scale)
        inverse = LinearOperator((n, n), matvec=self.solve, dtype=np.float64)
        _, vectors = eigsh(inverse, 1, which="SA", v0=rough(n), tol=1e-2)
        return Definiteness(n_negative, False, np.asarray(vectors[:, 0]))

    def _misses(self) -> bool:
        """Does it fail to solve, where pivots were moved away from zero?"""
        matrix, _ = self._made_of
        b = rough(len(self._scale))
        r = b - self._scale * (matrix @ self.solve(b / self._scale))
        return not np.linalg.norm(r) <= _ACCURATE * np.linalg.norm(b)


def _another(first: Any, kind: int) -> Any:
    """One more solver: to construct it is to search all folders for the library again."""
    solver = copy(first)
    solver.pt, solver.iparm = np.zeros_like(first.pt), np.zeros_like(first.iparm)
    solver.set_matrix_type(kind)
    return solver
