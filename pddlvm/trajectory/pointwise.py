"""Terms that are not linear in u, in a basis, at few points with weights.

    f(a, z) = sum_p w_p (B_p W)^T flux(B_p T a, x_p; z),      df/da = sum_p w_p (B_p W)^T D_p B_p T

T are trial and W test functions, which may be others at each point: points of space and time have
those of their time (`pddlvm.trajectory.cubature` chooses points and weights).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.links import identity
from pddlvm.parameters.fields import FieldAtPoints
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.terms import Term, TermEvaluator

__all__ = ["AtPoints", "PointTerm", "PointTerms", "rows_at"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_CACHE = 2**21
"""Numbers of one row of strain matrices that are formed at once."""


@dataclass(frozen=True)
class AtPoints:
    """Where a term is evaluated.

    Attributes:
        number: of the term in the problem.
        points: of its region, (n,).
        weights: of the cubature, without those of the region, (n,).
        times: of the points, (n,); None where they are those of the state.
    """

    number: int
    points: Index
    weights: Array
    times: Array | None = None


@dataclass(frozen=True)
class PointTerm:
    """One of the terms.

    Attributes:
        at: where it is evaluated.
        trial: B_p T, (n, s, n_columns).
        tests: w_p B_p W, those of the region among the weights, (n, s, n_tests).
    """

    at: AtPoints
    trial: Tensor
    tests: Tensor


class PointTerms:
    """f and df/da, float64 on the CPU.

    Args:
        problem: in time.
        terms: its nonlinear terms.
    """

    def __init__(self, problem: TransientProblem, terms: tuple[PointTerm, ...]) -> None:
        self.problem, self.terms = problem, terms
        self._evaluators = [_evaluator(problem, one.at) for one in terms]
        self._prior = problem.steady.prior
        self._single = [
            tuple(x.float().transpose(0, 1).contiguous() for x in (one.trial, one.tests))
            for one in terms
        ]

    def residual(self, a: Tensor, rows: Tensor) -> Tensor:
        """f of a (batch, n_columns) at z of the steady problem (batch, d), (batch, n_tests)."""
        blocks = self._blocks(rows)
        found = [
            own.fluxes_of(_strains(one, a), blocks).flatten(1) @ one.tests.flatten(0, 1)
            for one, own in zip(self.terms, self._evaluators, strict=True)
        ]
        return reduce(torch.add, found)

    def tangent(self, a: Tensor, rows: Tensor, n: int) -> Tensor:
        """df/da of the first n columns, to the digits of float32, (batch, n_tests, n)."""
        largest = max(one.trial[:, 0, :n].numel() for one in self.terms)
        chunk = max(1, _CACHE // largest)
        parts = [
            self._tangent(*part, n) for part in zip(a.split(chunk), rows.split(chunk), strict=True)
        ]
        return torch.cat(parts) if parts else a.new_zeros(0, self.terms[0].tests.shape[2], n)

    def _tangent(self, a: Tensor, rows: Tensor, n: int) -> Tensor:
        blocks, found = self._blocks(rows), a.new_zeros(len(a), self.terms[0].tests.shape[2], n)
        for one, own, (trial, tests) in zip(
            self.terms, self._evaluators, self._single, strict=True
        ):
            d = own.tangents_of(_strains(one, a), blocks)
            # Most entries are zero: a flux of the gradient has no rows of values, for one.
            seen = d.flatten(0, 1).count_nonzero(0).bool()
            d = d.float()
            for i in seen.any(1).nonzero()[:, 0].tolist():
                columns = [
                    d[:, :, i, j, None] * trial[j, :, :n] for j in seen[i].nonzero()[:, 0].tolist()
                ]
                found += (tests[i].T @ reduce(torch.add, columns)).double()
        return found

    def columns(self, trial: list[int], tests: list[int]) -> "PointTerms":
        """The same of some columns."""
        terms = [
            PointTerm(
                one.at, one.trial[..., trial].contiguous(), one.tests[..., tests].contiguous()
            )
            for one in self.terms
        ]
        return PointTerms(self.problem, tuple(terms))

    def _blocks(self, rows: Tensor) -> Mapping[str, Tensor]:
        blocks, time = dict(self._prior.split(rows)), self.problem.moving_terms.time
        if time is not None and any(one.at.times is not None for one in self.terms):
            # Points of space and time have times of their own, as shapes of the field.
            blocks[time] = torch.ones_like(blocks[time])
        return blocks


def rows_at(term: Term, points: Index, columns: Array) -> Tensor:
    """B_p of columns on all degrees of freedom (n_dofs, n), (n_points, s, n)."""
    region = term.region
    n_quadrature, s, n_local = region.shape[1:]
    local = region.local.reshape(-1, s, n_local)[points]
    return torch.from_numpy(local @ columns[region.dofs[points // n_quadrature]])


def _strains(one: PointTerm, a: Tensor) -> Tensor:
    return (a @ one.trial.flatten(0, 1).T).unflatten(1, one.trial.shape[:2])


def _evaluator(problem: TransientProblem, at: AtPoints) -> TermEvaluator:
    """Fluxes and tangents of strains at the points, without weights."""
    term, time = problem.steady.terms[at.number], problem.moving_terms.time
    made = TermEvaluator.at_points(term, term.region.points.take(at.points), problem.steady.fields)
    if at.times is not None and time is not None and time in made.fields:
        shapes = torch.from_numpy(at.times)[:, None]
        made.fields[time] = FieldAtPoints(shapes, 0.0, identity)
    return made
