"""Weighted tangents and fluxes at the points of a term, between a basis and test functions.

    matrix(D) = (B W)^T D (B V),      vector(F) = (B W)^T F

On a mesh D is assembled first, which takes a tenth of the work at its points; of a cubature B V and
B W are known at its points alone.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pddlvm.weak.assembly import Assembler
from pddlvm.weak.terms import TermEvaluator

__all__ = ["AtPoints", "OnMesh", "Projection"]

Array = NDArray[np.float64]

_ROUND_OFF = 1e-14


class Projection(Protocol):
    """See the module's docstring."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_columns) of a matrix."""

    def matrix(self, d: Array) -> Array:
        """Of D, (n_points, s, s)."""

    def vector(self, f: Array) -> Array:
        """Of F, (n_points, s): (n_rows,)."""


@dataclass(frozen=True)
class AtPoints:
    """By columns at some points.

    Attributes:
        columns: B V, (n_points, s, n_columns).
        tests: B W, (n_points, s, n_rows); by default the columns.
    """

    columns: Array
    tests: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:  # noqa: D102
        return self._rows.shape[2], self.columns.shape[2]

    def matrix(self, d: Array) -> Array:  # noqa: D102
        # Fields that are constant on parts of the mesh have functions of small support.
        size = np.abs(d).max(axis=(1, 2), initial=0.0)
        inside = np.flatnonzero(size > _ROUND_OFF * size.max(initial=0.0))
        strains = np.matmul(d[inside], self.columns[inside]).reshape(-1, self.shape[1])
        return np.asarray(self._rows[inside].reshape(-1, self.shape[0]).T @ strains)

    def vector(self, f: Array) -> Array:  # noqa: D102
        return np.asarray(f.ravel() @ self._rows.reshape(-1, self.shape[0]))

    @property
    def _rows(self) -> Array:
        return self.columns if self.tests is None else self.tests


@dataclass(frozen=True)
class OnMesh:
    """By assembly.

    Attributes:
        term: on all points of its region, float64.
        columns: V, (n_dofs, n_columns).
        tests: W, (n_dofs, n_rows); by default the columns.
    """

    term: TermEvaluator
    columns: Array
    tests: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:  # noqa: D102
        return self._rows.shape[1], self.columns.shape[1]

    def matrix(self, d: Array) -> Array:  # noqa: D102
        return np.asarray(self._rows.T @ (self._assembler([torch.from_numpy(d)]) @ self.columns))

    def vector(self, f: Array) -> Array:  # noqa: D102
        whole: Array = self.term.operator.adjoint(torch.from_numpy(f.reshape(1, -1)))[0].numpy()
        return whole @ self._rows

    @property
    def _rows(self) -> Array:
        return self.columns if self.tests is None else self.tests

    @cached_property
    def _assembler(self) -> Assembler:
        n = len(self.columns)
        return Assembler((self.term.term,), np.arange(n), n)
