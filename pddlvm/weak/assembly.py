"""Sparse matrices of a weak form, from its pointwise tangents.

K = sum_terms B^T (w D) B,    on the free degrees of freedom
"""

from functools import reduce

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.weak.terms import Term

__all__ = ["Assembler", "element_matrices"]

Array = NDArray[np.float64]


class Assembler:
    """Sparse tangent matrices on the free degrees of freedom, in one fixed pattern.

    Args:
        terms: the terms, whose regions give the evaluation matrices of every element.
        free_dofs: sorted free degrees of freedom.
        n_dofs: number of all degrees of freedom.
    """

    def __init__(self, terms: tuple[Term, ...], free_dofs: NDArray[np.int64], n_dofs: int) -> None:
        self._regions = [term.region for term in terms]
        n = len(free_dofs)
        number = np.full(n_dofs, -1, dtype=np.int64)
        number[free_dofs] = np.arange(n)
        # Terms on the same degrees of freedom are added up per element first.
        groups: dict[int, list[int]] = {}
        for i, region in enumerate(self._regions):
            groups.setdefault(id(region.dofs), []).append(i)
        self._groups = list(groups.values())
        keys = []
        for first, *_ in self._groups:
            dofs = number[self._regions[first].dofs]
            rows = np.broadcast_to(dofs[:, :, None], (*dofs.shape, dofs.shape[1]))
            columns = np.broadcast_to(dofs[:, None, :], rows.shape)
            keys.append(np.where((rows < 0) | (columns < 0), -1, columns * n + rows).ravel())
        unique, position = np.unique(np.concatenate(keys), return_inverse=True)
        self._drop = bool(unique[0] < 0)
        entries = unique[1:] if self._drop else unique
        self._position = np.split(position, np.cumsum([len(k) for k in keys])[:-1])
        self._size = len(unique)
        self._indices = (entries % n).astype(np.int32)
        pointers = np.searchsorted(entries, np.arange(n + 1) * n)
        self._indptr = pointers.astype(np.int32)
        self._shape = (n, n)

    @property
    def n_entries(self) -> int:
        """Of a matrix."""
        return len(self._indices)

    def __call__(self, tangents: list[Tensor]) -> sp.csc_matrix:
        """K of one sample, from its pointwise tangents (n_points, s, s) of each term."""
        elements = [
            element_matrices(region.local, t) if t.any() else None
            for region, t in zip(self._regions, tangents, strict=True)
        ]
        return self.matrix(self.entries(elements))

    def entries(self, elements: list[Tensor | None]) -> Array:
        """Of K, from matrices of all elements of each term; None of one that has no part in it."""
        data = np.zeros(self._size)
        for terms, position in zip(self._groups, self._position, strict=True):
            parts = [part for i in terms if (part := elements[i]) is not None]
            if parts:
                values = reduce(torch.add, parts).numpy().ravel()
                data += np.bincount(position, weights=values, minlength=self._size)
        return data

    def scattered(self, term: int, elements: Tensor) -> sp.csc_matrix:
        """The map from weights of element matrices of a term to the `entries` of their sum.

        Args:
            term: its number.
            elements: (n_sets, n_cells, n_local, n_local); a column is one of these.
        """
        n_sets, n_cells, n_local, _ = elements.shape
        group = next(g for g, terms in enumerate(self._groups) if term in terms)
        columns = np.arange(n_sets * n_cells + 1) * n_local**2
        parts = elements.numpy().ravel(), np.tile(self._position[group], n_sets), columns
        return sp.csc_matrix(parts, shape=(self._size, n_sets * n_cells))

    def matrix(self, data: Array) -> sp.csc_matrix:
        """K of these `entries`."""
        data = data[1:] if self._drop else data
        return sp.csc_matrix((data, self._indices, self._indptr), shape=self._shape)


def element_matrices(local: NDArray[np.float64], tangent: Tensor) -> Tensor:
    """B^T (w D) B of each cell, (n_cells, n_local, n_local).

    Args:
        local: B, (n_cells, n_quadrature, s, n_local).
        tangent: w D, (n_points, s, s).
    """
    b = torch.from_numpy(local)
    d = tangent.reshape(*b.shape[:3], b.shape[2])
    return b.flatten(1, 2).mT @ (d @ b).flatten(1, 2)
