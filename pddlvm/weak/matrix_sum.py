"""Matrices as a weak form: a symmetric matrix is a sum of squares over its graph.

    1/2 u . A u = sum_{i < j} 1/2 (-A_ij) (u_i - u_j)^2 + sum_i 1/2 (sum_j A_ij) u_i^2
    v . S u     = sum_{i < j} S_ij (v_i u_j - v_j u_i)        of a skew matrix, which has no energy

A term has a "point" for each pair and for each unknown, where it reads e = u_i - u_j or u_i, and in
the place of x the entries of all matrices there. So theta(z) . x is the coefficient of a square.
The skew parts have one for each pair, where it reads u_i and, as if it were a gradient, u_j.
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

from pddlvm.fem import FieldPart, Points, Region

__all__ = [
    "Coefficients",
    "Linear",
    "MatrixSum",
    "Skew",
    "Squares",
    "region_of_matrices",
    "region_of_skew",
    "region_of_vectors",
]

Array = NDArray[np.float64]
Coefficients = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MatrixSum:
    """A point function of parameters: the entries of sums of matrices.

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
class Squares(MatrixSum):
    """1/2 (theta(z) . x) e^2.

    Attributes:
        matrices: those that are summed.
    """

    matrices: tuple[sp.csr_matrix, ...]

    def __call__(self, u: Tensor, du: Tensor, x: Tensor, **values: Tensor) -> Tensor:
        """The density at a point."""
        return 0.5 * self.at(x, values) * u**2


@dataclass(frozen=True)
class Skew(MatrixSum):
    """(theta(z) . x) (u_j, -u_i), the forces of a pair."""

    def __call__(self, u: Tensor, du: Tensor, x: Tensor, **values: Tensor) -> tuple[Tensor, Tensor]:
        """Those on i and on j, of u = u_i and du = (u_j,)."""
        entry = self.at(x, values)
        return entry * du[0], -entry * u[None]


@dataclass(frozen=True)
class Linear(MatrixSum):
    """-(phi(z) . x) u."""

    def __call__(self, u: Tensor, du: Tensor, x: Tensor, **values: Tensor) -> Tensor:
        """The density at a point."""
        return -self.at(x, values) * u


def region_of_matrices(matrices: tuple[sp.csr_matrix, ...]) -> Region:
    """Pairs and unknowns of symmetric matrices (n, n)."""
    n = matrices[0].shape[0]
    pairs, shared = _pairs(matrices)
    sums = np.column_stack([np.asarray(a.sum(axis=1)).ravel() for a in matrices])
    alone = np.repeat(np.arange(n)[:, None], 2, axis=1)
    local = np.zeros((len(pairs) + n, 1, 1, 2))
    local[..., 0] = 1.0
    local[: len(pairs), ..., 1] = -1.0
    entries = np.concatenate([-shared, sums])
    return _region(local, np.concatenate([pairs, alone]), entries, n, "matrices")


def region_of_skew(matrices: tuple[sp.csr_matrix, ...]) -> Region:
    """Pairs of skew matrices (n, n)."""
    pairs, shared = _pairs(matrices)
    local = np.tile(np.eye(2), (len(pairs), 1, 1, 1))
    return _region(local, pairs, shared, matrices[0].shape[0], "skew parts")


def _pairs(matrices: tuple[sp.csr_matrix, ...]) -> tuple[NDArray[np.int64], Array]:
    """i < j that some matrix connects, (n_pairs, 2), and the entries of all, (n_pairs, q)."""
    sizes = reduce(operator.add, [abs(a) for a in matrices])
    graph = sp.triu(sizes, k=1, format="coo")
    pairs = np.column_stack([graph.row, graph.col]).astype(np.int64)
    if not graph.nnz:
        return pairs, np.zeros((0, len(matrices)))
    entries = [np.asarray(a[graph.row, graph.col]).ravel() for a in matrices]
    return pairs, np.column_stack(entries)


def region_of_vectors(vectors: tuple[Array, ...]) -> Region:
    """The unknowns, with the entries of vectors (n,)."""
    n = len(vectors[0])
    return _region(
        np.ones((n, 1, 1, 1)), np.arange(n)[:, None], np.column_stack(vectors), n, "loads"
    )


def _region(local: Array, dofs: NDArray[np.int64], entries: Array, n: int, name: str) -> Region:
    n_cells = len(dofs)
    points = Points(entries, np.arange(n_cells))
    # Values, and what stands in the place of gradients.
    part = FieldPart("u", (), (("gradient", (local.shape[2] - 1,)),))
    return Region(local, dofs, np.ones((n_cells, 1)), points, (part,), n, name)
