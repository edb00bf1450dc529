"""Pointwise tangents of terms that are linear in u, from few of their rows.

    D(x; z)_ij = sum_k D(x; z)_{own_k} F_k,ij

Of an elastic stiffness all entries are multiples of two or three (`pddlvm.reduced.slots`), and
these stand in a few rows: one derivative of the flux for each of these, where all of D takes one
for each strain. That the factors hold is seen at two draws, and at the first of each batch again,
by the change of the flux in a random direction; where they do not, D is taken whole.
"""

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of, normal_like
from pddlvm.parameters.space import ParameterSpace
from pddlvm.reduced.slots import Slots
from pddlvm.weak.terms import TermEvaluator

__all__ = ["LinearTangents"]

_N_PROBES = 2
_RIGHT = 1e-10


class LinearTangents:
    """w * d flux/de of parameters z, (batch, n_points, s, s).

    Args:
        term: linear in u, at its points.
        prior: of z.
    """

    def __init__(self, term: TermEvaluator, prior: ParameterSpace) -> None:
        self.term, self.prior, s = term, prior, term.s
        z = prior.sample((_N_PROBES,), seed=0)
        self._slots = Slots.of(self._all(z).flatten(2))
        self._rows = (self._slots.own // s).unique()
        places = torch.searchsorted(self._rows, self._slots.own // s)
        self._own = places * s + self._slots.own % s
        self._direction = normal_like(z.new_zeros(s), (), generator_of(0))

    def __call__(self, z: Tensor) -> Tensor:
        """Those of z (batch, d)."""
        if len(self._rows) < self.term.s:
            found = self._from_rows(z)
            if self._is_right(found, z):
                return found
        return self._all(z)

    def _all(self, z: Tensor) -> Tensor:
        return self.term.tangents_of(self._zero(z), self.prior.split(z))

    def _from_rows(self, z: Tensor) -> Tensor:
        zero, latents = self._zero(z), self.term.latents(self.prior.split(z))
        rows = []
        for i in self._rows.tolist():
            row = zero.clone()
            row[..., i] = 1.0
            rows.append(self.term.tangent_rows(row, latents))
        own = torch.cat(rows, dim=-1)[..., self._own] * self.term.weights[:, None]
        return (own @ self._slots.factors).unflatten(-1, (self.term.s, self.term.s))

    def _is_right(self, found: Tensor, z: Tensor) -> bool:
        blocks, zero = self.prior.split(z[:1]), self._zero(z[:1])
        at_zero = self.term.fluxes_of(zero, blocks)
        change = self.term.fluxes_of(zero + self._direction, blocks) - at_zero
        left = (found[:1] @ self._direction - change).abs().amax()
        return bool(left <= _RIGHT * (found[:1].abs().amax() + at_zero.abs().amax()))

    def _zero(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), len(self.term.weights), self.term.s)
