"""The terms of a steady problem at many times: which of them move, and which are loads.

r(u, z, t) = K(z, t) u + g(z, t),     g = r(0, z, t), of linear problems
"""

from collections.abc import Iterator
from functools import cached_property

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.weak.problem import Problem
from pddlvm.weak.terms import TermEvaluator

__all__ = ["MovingTerms"]


class MovingTerms:
    """The terms of a steady problem, float64 on the CPU; z below is that of the steady problem.

    Args:
        problem: the steady one.
        time: the name of its field of time, or None.

    Attributes:
        is_linear: is K the same whatever u is?
        time: the name of the field of time, or None.
        moves: does it read the time, of each term.
    """

    def __init__(self, problem: Problem, time: str | None) -> None:
        self._problem, self.time = problem, time
        self.operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self.is_linear = problem.is_linear
        self.moves = [time in term.term.field_names for term in self.operators.terms]
        self._is_load = [_is_load(term) for term in self.operators.terms]

    @cached_property
    def nonlinear(self) -> tuple[int, ...]:
        """Numbers of the terms whose tangents depend on u."""
        return self.operators.nonlinear_terms

    def loads(self, rows: Tensor) -> Tensor:
        """g on the free degrees of freedom, (n, n_times, d) -> (n, n_times, n_free)."""
        n, n_times, d = rows.shape
        g = torch.zeros(n, n_times, self._problem.n_dofs, dtype=torch.float64)
        for term, moves in zip(self.operators.terms, self.moves, strict=True):
            asked = rows if moves else rows[:, :1]
            parts = [self._at_rest(term, part) for part in self._chunks(asked.reshape(-1, d))]
            g += torch.cat(parts).reshape(n, asked.shape[1], -1)
        return g[..., self.operators.free]

    def stiffness(self, rows: Tensor) -> list[Tensor] | None:
        """Pointwise tangents of one sample at its times, (n_times, d); None if they move.

        They are (n_points, s, s) of each term.
        """
        return self.stiffness_of_each(rows[None])[0]

    def stiffness_of_each(self, rows: Tensor) -> list[list[Tensor] | None]:
        """The same of several samples, (n, n_times, d)."""
        found: list[list[Tensor] | None] = [[] for _ in rows]
        terms = zip(self.operators.terms, self.moves, self._is_load, strict=True)
        for term, moves, is_load in terms:
            if is_load:
                size = term.weights.numel()
                first = torch.zeros(len(rows), size, term.s, term.s, dtype=torch.float64)
            else:
                first = torch.cat([self._tangents(term, z) for z in self._chunks(rows[:, 0])])
            for i, of_sample in enumerate(found):
                if of_sample is None:
                    continue
                later = self._chunks(rows[i, 1:]) if moves and not is_load else ()
                if any((self._tangents(term, part) != first[i]).any() for part in later):
                    found[i] = None
                else:
                    of_sample.append(first[i])
        return found

    def residuals(self, u: Tensor, rows: Tensor) -> Tensor:
        """r of one sample on the free degrees of freedom, (n_times, n_dofs) -> (n_times, n_free).

        Where K stays the same it is a matrix for all states.
        """
        tangents = self.stiffness(rows) if self.is_linear else None
        if tangents is None:
            parts = zip(self._chunks(u), self._chunks(rows), strict=True)
            return torch.cat([self.operators.residual(*part) for part in parts])
        k = self.assemble(tangents)[self.operators.free.numpy()]
        return torch.from_numpy((k @ u.T.numpy()).T) + self.loads(rows[None])[0]

    def assemble(self, tangents: list[Tensor]) -> sp.csr_matrix:
        """K on all degrees of freedom."""
        return sp.csr_matrix(self._problem.solver.assemble_unconstrained(tangents))

    def _tangents(self, term: TermEvaluator, rows: Tensor) -> Tensor:
        rest = torch.zeros(len(rows), self._problem.n_dofs, dtype=torch.float64)
        return term.tangents(rest, self._problem.prior.split(rows))

    def _at_rest(self, term: TermEvaluator, rows: Tensor) -> Tensor:
        rest = torch.zeros(len(rows), self._problem.n_dofs, dtype=torch.float64)
        return term.residual(rest, self._problem.prior.split(rows))

    def _chunks(self, rows: Tensor) -> Iterator[Tensor]:
        yield from rows.split(self._problem.solver.chunk)


def _is_load(term: TermEvaluator) -> bool:
    """Does the flux not depend on u at all, as it is written?

    Asked of its graph and not of its values, which may depend on u elsewhere, or later.
    """
    with torch.enable_grad():
        e = torch.linspace(0.1, 0.2, term.s, dtype=torch.float64).requires_grad_()
        x = term.x[0]
        values = {k: torch.tensor(0.5, dtype=torch.float64) for k in term.fields}
        return not term.term.flux(e, x, {**values, **term.numbers}).requires_grad
