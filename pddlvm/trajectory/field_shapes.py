"""Shapes of several fields: each field has its own, and pressures what tests them.

See `pddlvm.trajectory.fields`.
"""

import numpy as np
from numpy.typing import NDArray

from pddlvm.trajectory.fields import only_field, ordered, without_mass
from pddlvm.trajectory.reference import ReferenceMarch

__all__ = ["FieldShapes"]

Array = NDArray[np.float64]

_INDEPENDENT = 1e-10
"""Squared size, relative to the largest, below which a shape says nothing new."""


class FieldShapes:
    """Shapes of each field for itself; of one field there is nothing to do."""

    def __init__(self, reference: ReferenceMarch) -> None:
        self._reference, self._problem = reference, reference.problem
        self._n = len(reference.sizes)

    def parts(self, rows: Array) -> list[Array]:
        """Those of each field, of rows (n, n_free)."""
        if self._n == 1:
            return [rows]
        return [only_field(self._problem, rows.T, i).T for i in range(self._n)]

    def each(self, x: Array) -> Array:
        """The parts of columns (n_free, k), as columns."""
        return np.hstack([part.T for part in self.parts(x.T)])

    def tested(self, x: Array) -> Array:
        """Columns, and those that test the fields without a mass."""
        of_pressures = [only_field(self._problem, x, i) for i in without_mass(self._problem)]
        return np.hstack([x, *map(self._reference.tests_of, of_pressures)])

    def principal(self, v: Array, gram: Array) -> Array:
        """V anew, the shapes that matter most first, of the Gram matrix of trajectories in V."""
        norm = self._reference.norm
        if self._n == 1:
            return np.asarray(v @ np.linalg.eigh(gram)[1][:, ::-1])
        found: list[tuple[float, Array]] = []
        for i in range(self._n):
            own = only_field(self._problem, v, i)
            sizes, turned = np.linalg.eigh(own.T @ (norm @ own))
            shapes = ordered(norm, (own @ turned[:, sizes > _INDEPENDENT * sizes[-1]])[:, ::-1])
            into = shapes.T @ (norm @ v)
            values, vectors = np.linalg.eigh(into @ gram @ into.T)
            columns = shapes @ vectors
            groups = columns.T[:, :, None]
            if i in without_mass(self._problem):
                # What tests a shape comes right before it.
                groups = np.stack([self._reference.tests_of(columns).T, columns.T], axis=2)
            found += zip(values, groups, strict=True)
        found.sort(key=lambda pair: -pair[0])
        return ordered(norm, np.hstack([group for _, group in found]))
