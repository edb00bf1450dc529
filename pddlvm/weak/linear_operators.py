"""The residual and the matrix of a linear problem, from few entries at each point.

    r(u, z) = sum_terms B^T (D(x; z) B u + f(x; z)),        K(z) = sum_terms B^T D(x; z) B

What z says is evaluated once (`LinearTerm.at`), for however many u. Where a cell has one point, its
matrix is a sum of few that are the same for all z, times the entries there: then the entries of K
are a sparse matrix times those of D.
"""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.weak.assembly import Assembler
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.linear_terms import LinearTerm, LinearValues

__all__ = ["LinearOperators"]


class LinearOperators:
    """Those of a discretisation.

    Args:
        operators: of a linear problem, float64 on the CPU.
        assembler: of its matrices.

    Attributes:
        terms: the terms, in its order.
    """

    def __init__(self, operators: Discretisation, assembler: Assembler) -> None:
        self._operators, self._assembler = operators, assembler
        self.terms = [LinearTerm(term, operators.prior) for term in operators.terms]
        self._maps: dict[int, sp.csc_matrix] = {}

    @property
    def n_entries(self) -> int:
        """Of a matrix."""
        return self._assembler.n_entries

    @property
    def n_numbers(self) -> int:
        """How many are in memory for each z of `at`, of many z."""
        return sum(term.n_numbers for term in self.terms)

    def at(self, z: Tensor, n_checked: int = 1) -> list[LinearValues]:
        """Of each term, at parameters z (batch, d); see `LinearTerm.at`."""
        return [term.at(z, n_checked) for term in self.terms]

    def residual(self, u: Tensor, values: list[LinearValues]) -> Tensor:
        """r without the imbalance of the loads, (batch, n_free), of u (batch, n_dofs)."""
        full, is_zero = torch.zeros_like(u), not u.any()
        for linear, own in zip(self.terms, values, strict=True):
            # At zero there is often one flux for all z.
            fluxes = own.at_zero if is_zero else linear.fluxes(linear.term.strains(u), own)
            if fluxes.any():
                full = full + linear.term.operator.adjoint(fluxes.flatten(-2))
        return self._operators.balanced(full[:, self._operators.free])

    def matrix(self, values: list[LinearValues], sample: int) -> sp.csc_matrix:
        """K of one sample, on the free degrees of freedom."""
        elements: list[Tensor | None] = []
        entries: list[NDArray[np.float64]] = []
        for number, (term, at_z) in enumerate(zip(self.terms, values, strict=True)):
            own = None if at_z.own is None else at_z.own[sample]
            is_sum = own is not None and own.any() and term.has_few_elements
            elements.append(None if is_sum else term.elements(at_z, sample))
            if is_sum and own is not None:
                entries.append(self._map(number) @ own.T.flatten().numpy())
        return self._assembler.matrix(sum(entries, self._assembler.entries(elements)))

    def _map(self, number: int) -> sp.csc_matrix:
        """From the entries of D that stand for all, of one term, to those of K."""
        if number not in self._maps:
            units = self.terms[number].unit_elements()
            self._maps[number] = self._assembler.scattered(number, units)
        return self._maps[number]
