"""r and K of the mesh for a batch of parameters, at whatever states a refinement comes by.

Of a linear problem each K is assembled once; of any other it is what its pointwise tangents make.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.linear_terms import LinearValues
from pddlvm.weak.problem import Problem

__all__ = ["MeshOperators", "Stiffness"]

_MEMORY = 2**30
"""Bytes of matrices, strains and fluxes that are held at once, of at most so many samples."""
_MOST = 512


class Stiffness(ABC):
    """K of some samples at some states."""

    @abstractmethod
    def apply(self, p: Tensor) -> Tensor:
        """K p, (batch, n_free) -> the same."""

    @abstractmethod
    def of(self, rows: Tensor) -> "Stiffness":
        """That of some of them; rows are a mask."""


class MeshOperators(ABC):
    """Those of parameters z (batch, d), float64 on the CPU; rows say of which the states are."""

    @staticmethod
    def of(problem: Problem, z: Tensor) -> "MeshOperators":
        """Of any problem."""
        return _OfLinear(problem, z) if problem.is_linear else _OfAny(problem, z)

    @staticmethod
    def n_at_once(problem: Problem) -> int:
        """Parameters that there is room for."""
        if not problem.is_linear:
            return problem.solver.chunk
        n_strains = sum(t.region.weights.size * t.region.shape[2] for t in problem.terms)
        return max(1, min(_MOST, _MEMORY // (8 * (problem.linear.n_entries + 2 * n_strains))))

    @abstractmethod
    def residual(self, u: Tensor, rows: Tensor) -> Tensor:
        """r without the imbalance of the loads, (n, n_free), of u (n, n_dofs)."""

    @abstractmethod
    def stiffness(self, u: Tensor, rows: Tensor) -> Stiffness:
        """K there."""


class _OfAny(MeshOperators):
    def __init__(self, problem: Problem, z: Tensor) -> None:
        self._operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self._z = z

    def residual(self, u: Tensor, rows: Tensor) -> Tensor:
        return self._operators.balanced(self._operators.residual(u, self._z[rows]))

    def stiffness(self, u: Tensor, rows: Tensor) -> Stiffness:
        return _Pointwise(self._operators, self._operators.tangents(u, self._z[rows]))


class _OfLinear(_OfAny):
    def __init__(self, problem: Problem, z: Tensor) -> None:
        super().__init__(problem, z)
        self._linear = problem.linear
        self._made: dict[int, sp.csc_matrix] = {}

    @cached_property
    def _values(self) -> list[LinearValues]:
        return self._linear.at(self._z, n_checked=len(self._z))

    def stiffness(self, u: Tensor, rows: Tensor) -> Stiffness:
        return _Assembled([self._matrix(i) for i in rows.tolist()])

    def _matrix(self, sample: int) -> sp.csc_matrix:
        if sample not in self._made:
            self._made[sample] = self._linear.matrix(self._values, sample)
        return self._made[sample]


@dataclass(frozen=True)
class _Assembled(Stiffness):
    matrices: list[sp.csc_matrix]

    def apply(self, p: Tensor) -> Tensor:
        pairs = zip(self.matrices, p.numpy(), strict=True)
        return torch.stack([torch.from_numpy(k @ own) for k, own in pairs])

    def of(self, rows: Tensor) -> "_Assembled":
        return _Assembled([k for k, kept in zip(self.matrices, rows.tolist(), strict=True) if kept])


@dataclass(frozen=True)
class _Pointwise(Stiffness):
    operators: Discretisation
    tangents: list[Tensor]

    def apply(self, p: Tensor) -> Tensor:
        return self.operators.apply_tangents(self.tangents, p)

    def of(self, rows: Tensor) -> "_Pointwise":
        return _Pointwise(self.operators, [t[rows] for t in self.tangents])
