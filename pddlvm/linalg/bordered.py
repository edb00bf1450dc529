"""A matrix that is singular by itself, and regular with a border of few dense rows and columns.

    [[K, C], [C^T, 0]] [x; lambda] = [b; 0]

One unknown for each row of the border is taken out of K with it, so that what is factorised, A,
stays sparse and is regular. With the columns P, the rows Q and the corner D of what was taken out:

    y = A^{-1} b_A,    t = (D - Q A^{-1} P)^{-1} (b_rest - Q y),    x_A = y - A^{-1} P t
"""

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from pddlvm.linalg.factorisation import (
    Array,
    Definiteness,
    Factorisation,
    LinearSolver,
    NearNullspace,
    SingularMatrixError,
)

__all__ = ["Bordered"]

_SINGULAR = 1e10
"""Condition of the corner without units: it is that of a few numbers of size one."""


class Bordered(Factorisation):
    """Factors of a matrix with a border, for right-hand sides that are zero there.

    Args:
        matrix: K, square.
        border: C, (n, k).
        solver: of A.
        symmetric: is K?
        near_nullspace: of K.
        many: see `LinearSolver.factorise`.

    Raises:
        SingularMatrixError: it is singular with its border, or A is.
    """

    def __init__(
        self,
        matrix: sp.csc_matrix,
        border: Array,
        solver: LinearSolver,
        symmetric: bool,
        near_nullspace: NearNullspace | None,
        many: bool,
    ) -> None:
        self._made_of = matrix, border, solver, symmetric, near_nullspace, many
        n, k = border.shape
        border = border / np.abs(border).sum(axis=0)
        self._out = np.abs(border).argmax(axis=0)
        self._kept = np.setdiff1d(np.arange(n), self._out)
        rows, columns = matrix[self._kept], matrix[:, self._out].toarray()
        self._p = np.hstack([columns[self._kept], border[self._kept]])
        self._q = np.vstack([matrix[self._out][:, self._kept].toarray(), border[self._kept].T])
        corner = np.zeros((2 * k, 2 * k))
        corner[:k, :k] = columns[self._out]
        corner[:k, k:] = border[self._out]
        corner[k:, :k] = border[self._out].T
        near = near_nullspace
        if near is not None:
            nodes = np.unique(near.nodes[self._kept], return_inverse=True)[1]
            near = NearNullspace(near.vectors[self._kept], nodes)
        self._inner = solver.factorise(
            rows[:, self._kept].tocsc(), symmetric=symmetric, near_nullspace=near, many=many
        )
        self._forward = self._inner.solve(self._p)
        schur = corner - self._q @ self._forward
        # Unknowns that were taken out and multipliers have units of their own.
        units = np.sqrt(np.abs(schur.diagonal()[k:]))
        self._units = np.concatenate([units, 1 / np.where(units > 0, units, 1.0)])
        self._schur = self._units[:, None] * schur * self._units
        if not np.linalg.cond(self._schur) < _SINGULAR:
            raise SingularMatrixError("the matrix is singular with its border")

    def __reduce__(self) -> tuple[Any, ...]:
        return Bordered, self._made_of

    @cached_property
    def _backward(self) -> Array:
        return self._inner.solve(np.ascontiguousarray(self._q.T), "T")

    def solve(self, b: Array, trans: str = "N") -> Array:
        """x for b, (n,) or (n, k)."""
        y = self._inner.solve(np.ascontiguousarray(b[self._kept]), trans)
        rows, moved, schur = self._q, self._forward, self._schur
        if trans == "T":
            rows, moved, schur = self._p.T, self._backward, self._schur.T
        rest = -(rows @ y)
        rest[: len(self._out)] += b[self._out]
        units = self._units.reshape(-1, *(1 for _ in b.shape[1:]))
        t = units * np.linalg.solve(schur, units * rest)
        x = np.empty_like(b)
        x[self._kept], x[self._out] = y - moved @ t, t[: len(self._out)]
        return x

    def definiteness(self) -> Definiteness:
        """A border has a negative eigenvalue for each of its rows at least."""
        return Definiteness(len(self._out), False, is_counted=False)
