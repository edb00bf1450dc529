"""Matrices as a weak form: a symmetric matrix is a sum of squares over its graph.

    1/2 u . A u = sum_{i < j} 1/2 (-A_ij) (u_i - u_j)^2 + sum_i 1/2 (sum_j A_ij) u_i^2

A term has a "point" for each pair and for each unknown, where it reads e = u_i - u_j or u_i, and in
the place of x the entries of all matrices there. So theta(z) . x is the coefficient of a square.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from inspect import Parameter, Signature

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.fem import Points, Region

__all__ = ["Coefficients", "Linear", "Squares", "region_of_matrices", "region_of_vectors"]

Array = NDArray[np.float64]
Coefficients = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Sum:
    """A point function of parameters.

    Attributes:
        coefficients: of z (..., d), (..., n); None: ones.
        names: of the parameters, in the order of z; none where they are not read.
    """

    coefficients: Coefficients | None
    names: tuple[str, ...]

    @property
    def __signature__(self) -> Signature:
        return Signature(
            [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in ("u", "du", "x", *self.names)]
        )

    def at(self, x: Tensor, values: dict[str, Tensor]) -> Tensor:
        """The entry of the sum at a point."""
        if self.coefficients is None:
            return x.sum()
        z = torch.stack([values[name] for name in self.names], dim=-1)
        return self.coefficients(z) @ x


@dataclass(frozen=True)
class Squares(_Sum):
    """1/2 (theta(z) . x) e^2.

    Attributes:
        matrices: those that are summed.
    """

    matrices: tuple[sp.csr_matrix, ...]

    def __call__(self, u: Tensor, du: Tensor, x: Tensor, **values: Tensor) -> Tensor:
        """The density at a point."""
        return 0.5 * self.at(x, values) * u**2


@dataclass(frozen=True)
class Linear(_Sum):
    """-(phi(z) . x) u."""

    def __call__(self, u: Tensor, du: Tensor, x: Tensor, **values: Tensor) -> Tensor:
        """The density at a point."""
        return -self.at(x, values) * u


def region_of_matrices(matrices: tuple[sp.csr_matrix, ...]) -> Region:
    """Pairs and unknowns of symmetric matrices (n, n)."""
    n = matrices[0].shape[0]
    sizes = reduce(operator.add, [abs(a) for a in matrices])
    graph = sp.triu(sizes, k=1, format="coo")
    pairs = np.column_stack([graph.row, graph.col]).astype(np.int64)
    entries = []
    for a in matrices:
        shared = np.asarray(a[graph.row, graph.col]).ravel() if graph.nnz else np.zeros(0)
        entries.append(np.concatenate([-shared, np.asarray(a.sum(axis=1)).ravel()]))
    alone = np.repeat(np.arange(n)[:, None], 2, axis=1)
    local = np.zeros((len(pairs) + n, 1, 1, 2))
    local[..., 0] = 1.0
    local[: len(pairs), ..., 1] = -1.0
    return _region(local, np.concatenate([pairs, alone]), np.column_stack(entries), n, "matrices")


def region_of_vectors(vectors: tuple[Array, ...]) -> Region:
    """The unknowns, with the entries of vectors (n,)."""
    n = len(vectors[0])
    return _region(
        np.ones((n, 1, 1, 1)), np.arange(n)[:, None], np.column_stack(vectors), n, "loads"
    )


def _region(local: Array, dofs: NDArray[np.int64], entries: Array, n: int, name: str) -> Region:
    n_cells = len(dofs)
    points = Points(entries, np.arange(n_cells))
    return Region(local, dofs, np.ones((n_cells, 1)), points, (), (0,), n, name)
