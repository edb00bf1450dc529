"""Reduced matrices of a linear problem for many z.

    W^T K(z) V = sum_x sum_k  D(x; z)_{own_k}  (B(x) W)^T F_k B(x) V

D has few entries that stand for all (`pddlvm.weak.slots`): what is multiplied by them is made
once for all z, where a product B^T D B for each z takes most of a set-up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.linear_terms import LinearTerm, LinearValues

__all__ = ["systems_of_many", "tangent_at", "tangent_of_many"]

_CHUNK = 64
"""Draws whose entries are evaluated at once."""
_MOST = 2**23
"""Numbers of B^T F B at some points that are in memory at once."""
_MANY = 8
"""Draws from which on it is worth it."""


def tangent_at(model: ReducedModel, c: Tensor, z: Tensor) -> Tensor:
    """`model.tangent(c, z)`, by the faster way; the model is of float64, on the CPU."""
    if len(z) >= _MANY and model.representation.problem.is_linear:
        return tangent_of_many(model, z)
    return model.tangent(c, z)


def tangent_of_many(model: ReducedModel, z: Tensor) -> Tensor:
    """W^T K (V, L) at parameters z (n, d), (n, n_tests, n_columns); entries hold at all of them.

    Args:
        model: of a linear problem, float64 on the CPU.
        z: parameters.
    """
    zero = z.new_zeros(len(z), model.n_modes)
    total = z.new_zeros(len(z), model.n_tests, len(model.representation.rows))
    for number, term in enumerate(model.terms):
        together = _Together.of(model, number, z)
        together = together if together and together.holds(z) else None
        total += model.tangent_of([term], zero, z) if together is None else together.tangent
    return total


def systems_of_many(model: ReducedModel, z: Tensor) -> tuple[Tensor, Tensor]:
    """The same without L, and W^T r at c = 0, (n, n_tests), for snapshots and trainings.

    That entries hold is seen at some of the draws: what comes of these systems is measured anyway.
    """
    m, zero = model.n_modes, z.new_zeros(len(z), model.n_modes)
    a, blocks = model.augment(zero, z), model.prior.split(z)
    k = z.new_zeros(len(z), model.n_tests, len(model.representation.rows))
    r = z.new_zeros(len(z), model.n_tests)
    for number, term in enumerate(model.terms):
        together = _Together.of(model, number, z)
        if together is None:
            k += model.tangent_of([term], zero, z)
            r += term.residual(a, blocks)[:, : model.n_tests]
        else:
            tangent = together.tangent
            k += tangent
            r += (tangent @ a[..., None])[..., 0] + together.load(z)
    return k[..., :m], r


@dataclass(frozen=True)
class _Together:
    """A term at points, of which few entries are needed.

    Attributes:
        model: the model.
        linear: the term.
        own: its entries, (n, n_points, n_own).
    """

    model: ReducedModel
    linear: LinearTerm
    own: Tensor

    @classmethod
    def of(cls, model: ReducedModel, number: int, z: Tensor) -> "_Together | None":
        """One of the terms, or None where it has too many entries."""
        term = model.terms[number]
        if isinstance(term, AffineTerm):
            return None
        linear = LinearTerm(term, model.prior)
        if len(linear.factors) > term.s:
            return None
        own = linear.own(z)
        return None if own is None else cls(model, linear, own)

    def holds(self, z: Tensor) -> bool:
        """Are the entries right at each of the draws?"""
        parts = zip(z.split(_CHUNK), self.own.split(_CHUNK), strict=True)
        return all(self.linear.holds(own, part, self.linear.at_zero(part)) for part, own in parts)

    @property
    def tangent(self) -> Tensor:
        """Its part of W^T K (V, L), (n, n_tests, n_columns)."""
        term, s = self.linear.term, self.linear.term.s
        assert isinstance(term.operator, ScaledOperator)
        assert isinstance(term.tests, ScaledOperator)
        columns = term.operator.columns.unflatten(0, (-1, s))
        rows = term.tests.columns[:, : self.model.n_tests].unflatten(0, (-1, s))
        size = rows.shape[2], columns.shape[2]
        total = self.own.new_zeros(len(self.own), size[0] * size[1])
        n_points = max(1, _MOST // total.shape[1])
        pieces = self.own.split(n_points, dim=1), rows.split(n_points), columns.split(n_points)
        for d, w, b in zip(*pieces, strict=True):
            for k, factor in enumerate(self.linear.factors):
                total.addmm_(d[..., k], (w.mT @ (factor @ b)).flatten(1))
        return total.unflatten(-1, size)

    def load(self, z: Tensor) -> Tensor:
        """Its part of W^T r at a = 0, (n or 1, n_tests)."""
        term, parts = self.linear.term, []
        assert isinstance(term.operator, ScaledOperator)
        offset = term.operator.offset.unflatten(0, (-1, term.s))
        if not offset.any():
            fluxes = self.linear.at_zero(z)
            return term.tests.adjoint(fluxes.flatten(-2))[:, : self.model.n_tests]
        for part, own in zip(z.split(_CHUNK), self.own.split(_CHUNK), strict=True):
            values = LinearValues(own, None, self.linear.at_zero(part))
            fluxes = self.linear.fluxes(offset.expand(len(part), -1, -1), values)
            parts.append(term.tests.adjoint(fluxes.flatten(-2)))
        return torch.cat(parts)[:, : self.model.n_tests]
