"""The solver that is taken where none is given: by size, by dimension and by what is installed.

| matrix | one right-hand side | hundreds |
| --- | --- | --- |
| few predicted entries of L and U | SuperLU | SuperLU |
| symmetric, as in the plane | PARDISO or else multigrid | PARDISO or else SuperLU |
| symmetric, as in space | multigrid | PARDISO or else multigrid |
| not symmetric | PARDISO or else SuperLU | PARDISO or else SuperLU |

"As in the plane": the factors have few entries for each of the matrix, and solve faster than the
cycles of multigrid. PARDISO gives way to multigrid where they are far too many. A symmetric matrix
on which multigrid fails, since it is not positive or badly conditioned, is factorised in the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.sparse as sp

from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg.factorisation import (
    Array,
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    NotPositiveError,
)
from pddlvm.linalg.memory import available_memory, predict_fill
from pddlvm.linalg.multigrid import Multigrid
from pddlvm.linalg.pardiso import Pardiso, has_pardiso
from pddlvm.linalg.superlu import BYTES_PER_ENTRY, SuperLU

__all__ = ["Automatic"]

_FEW_UNKNOWNS = 10_000
_FEW, _MANY = 1.5e7, 5e8
"""Entries from which SuperLU takes seconds, and PARDISO minutes."""
_CHEAP = 25
"""Entries of the factors for each of the matrix, up to which it is as in the plane."""


@dataclass(frozen=True)
class Automatic(LinearSolver):
    """SuperLU for small systems, PARDISO or multigrid for large ones."""

    def factorise(  # noqa: D102
        self,
        matrix: sp.csc_matrix,
        *,
        symmetric: bool,
        near_nullspace: NearNullspace | None = None,
        many: bool = False,
    ) -> Factorisation:
        fill = 0.0 if matrix.shape[0] < _FEW_UNKNOWNS else predict_fill(matrix)
        if fill < _FEW:
            return SuperLU().factorise(matrix, symmetric=symmetric)
        direct = Pardiso() if has_pardiso() else SuperLU()
        if symmetric and self._is_for_multigrid(matrix, fill, many):
            return _Hedged(matrix, near_nullspace, direct)
        return direct.factorise(matrix, symmetric=symmetric)

    def _is_for_multigrid(self, matrix: sp.csc_matrix, fill: float, many: bool) -> bool:
        is_plane = fill < _CHEAP * matrix.nnz
        if has_pardiso():
            return fill > _MANY or not (many or is_plane)
        fits = BYTES_PER_ENTRY * fill < 0.5 * available_memory()
        return not (many and is_plane and fits)


class _Hedged(Factorisation):
    """Multigrid, and a direct solver once that has failed."""

    def __init__(
        self, matrix: sp.csc_matrix, near_nullspace: NearNullspace | None, direct: LinearSolver
    ) -> None:
        self._made_of = matrix, near_nullspace, direct
        self._direct: Factorisation | None = None
        try:
            self._multigrid = Multigrid().factorise(
                matrix, symmetric=True, near_nullspace=near_nullspace
            )
        except NotPositiveError:
            self._give_up()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hedged, self._made_of

    def solve(self, b: Array, trans: str = "N") -> Array:
        return self._hedged(lambda factors: factors.solve(b, trans))

    def approximate(self, b: Array) -> Array:
        return self._hedged(lambda factors: factors.approximate(b))

    def _hedged(self, ask: Callable[[Factorisation], Array]) -> Array:
        if self._direct is None:
            try:
                return ask(self._multigrid)
            except (NotPositiveError, ConvergenceError):
                self._give_up()
        assert self._direct is not None
        return ask(self._direct)

    @property
    def preconditioner(self) -> Callable[[Array], Array] | None:
        return self._multigrid.preconditioner if self._direct is None else None

    def definiteness(self) -> Definiteness:
        """Of the one that is used."""
        if self._direct is None:
            try:
                found = self._multigrid.definiteness()
                if not found.n_negative:
                    return found
                self._give_up()
            except ConvergenceError:
                self._give_up()
        assert self._direct is not None
        return self._direct.definiteness()

    def _give_up(self) -> None:
        matrix, _, direct = self._made_of
        self._direct = direct.factorise(matrix, symmetric=True)
