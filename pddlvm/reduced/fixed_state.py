"""The residual of given states as a function of z: a search evaluates it again and again.

    W^T r(z)  =  W^T r(z_0) + sum_x t(x) (k(x; z) - k(x; z_0)),      t = W^T B^T w dflux/dk

Where fluxes are affine in the values k of the fields, the t of all points are made once, and what
is left is a product with them. Other fluxes are evaluated anew at each z. That they are affine is
seen at a few draws: who searches looks at the residual itself in the end.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from pddlvm.reduced.residual import ReducedModel, pulled, slope_of
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["FixedState"]

Blocks = dict[str, Tensor]


class _FixedTerm(ABC):
    """One term for given augmented coefficients, (batch, n_columns)."""

    @abstractmethod
    def residual(self, z: Blocks) -> Tensor:
        """(batch, n_rows)."""

    @abstractmethod
    def linearise(self, z: Blocks) -> tuple[Tensor, Blocks]:
        """And derivatives by the parameters of each field, (batch, n_rows, size)."""

    @abstractmethod
    def take(self, rows: Tensor) -> "_FixedTerm":
        """Of some of the batch."""


@dataclass(frozen=True)
class _Any(_FixedTerm):
    """One of which nothing is known."""

    term: TermEvaluator | AffineTerm
    a: Tensor

    def residual(self, z: Blocks) -> Tensor:
        return self.term.residual(self.a, z)

    def linearise(self, z: Blocks) -> tuple[Tensor, Blocks]:
        return self.residual(z), slope_of(self.term, self.a, z)

    def take(self, rows: Tensor) -> "_Any":
        return _Any(self.term, self.a[rows])


@dataclass(frozen=True)
class _AffineInFields(_FixedTerm):
    """One whose fluxes are affine in the values of its fields.

    Attributes:
        term: the physics.
        here: residual where the fields have the values k_0, (batch, n_rows).
        values: k_0, by field, (n_points,).
        by_value: t, by field, (batch, n_rows, n_points).
    """

    term: TermEvaluator
    here: Tensor
    values: Blocks
    by_value: Blocks

    @classmethod
    def of(cls, term: TermEvaluator, a: Tensor, values: Blocks) -> "_AffineInFields":
        e = term.strains(a)
        here, by_value = term.fluxes_with(e, values), {}
        for name, value in values.items():
            # As far away as values are large: exact, and no digits are lost.
            step = torch.where(value.abs().amax() > 0, value.abs().amax(), 1.0)
            moved = term.fluxes_with(e, {**values, name: value + step})
            by_value[name] = pulled(term, (moved - here) / step)
        return cls(term, term.tests.adjoint(here.flatten(1)), values, by_value)

    def residual(self, z: Blocks) -> Tensor:
        found = self.here
        for name, t in self.by_value.items():
            change = (self.term.fields[name](z[name]) - self.values[name]).to(t)
            found = found + (t @ change[..., None])[..., 0]
        return found

    def linearise(self, z: Blocks) -> tuple[Tensor, Blocks]:
        values, links = self.term.linked(z)
        found, slopes = self.here, {}
        for name, t in self.by_value.items():
            change = (values[name] - self.values[name])[..., None]
            slope = links[name][..., None] * self.term.latent_slopes(name, z)
            # The t are read once.
            both = t @ torch.cat([change, slope], dim=-1).to(t)
            found, slopes[name] = found + both[..., 0], both[..., 1:]
        return found, slopes

    def take(self, rows: Tensor) -> "_AffineInFields":
        by_value = {name: t[rows] for name, t in self.by_value.items()}
        return _AffineInFields(self.term, self.here[rows], self.values, by_value)


@dataclass(frozen=True)
class FixedState:
    """W^T r(u, z) of given u, and its derivatives by z.

    Attributes:
        reduced: the model.
        a: augmented coefficients, (batch, n_columns).
        terms: for these.
    """

    reduced: ReducedModel
    a: Tensor
    terms: tuple[_FixedTerm, ...]

    @classmethod
    def of(cls, reduced: ReducedModel, a: Tensor) -> "FixedState":
        """See the class."""
        affine, found = reduced.affine_in_fields, list[_FixedTerm]()
        zero = reduced.prior.unstandardise(a.new_zeros(1, reduced.prior.size).double())
        for term, is_affine in zip(reduced.terms, affine, strict=True):
            if is_affine:
                assert isinstance(term, TermEvaluator)
                values = {k: v[0] for k, v in term.linked(reduced.prior.split(zero))[0].items()}
                found.append(_AffineInFields.of(term, a, values))
            else:
                found.append(_Any(term, a))
        return cls(reduced, a, tuple(found))

    @staticmethod
    def size_of(reduced: ReducedModel) -> int:
        """Numbers that one state takes."""
        terms = zip(reduced.terms, reduced.affine_in_fields, strict=True)
        held = (term for term, is_affine in terms if is_affine and isinstance(term, TermEvaluator))
        n_rows = reduced.n_tests + reduced.representation.n_lifts
        return n_rows * sum(len(term.fields) * len(term.weights) for term in held)

    def residual(self, z: Tensor) -> Tensor:
        """W^T r, (batch, n_tests)."""
        blocks = self.reduced.prior.split(z.double())
        total = reduce(torch.add, [term.residual(blocks) for term in self.terms])
        return total[:, : self.reduced.n_tests]

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """And d (W^T r) / dz, (batch, n_tests, d)."""
        blocks = self.reduced.prior.split(z.double())
        residuals, slopes = zip(*(term.linearise(blocks) for term in self.terms), strict=True)
        total = reduce(torch.add, residuals)[:, : self.reduced.n_tests]
        return total, self.reduced.sum_of_slopes(self.a, slopes)

    def take(self, rows: Tensor) -> "FixedState":
        """Of some of the batch."""
        terms = tuple(term.take(rows) for term in self.terms)
        return FixedState(self.reduced, self.a[rows], terms)
