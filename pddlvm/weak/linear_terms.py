"""Terms that are linear in u, w * flux = D(x; z) e + f(x; z), from few entries of D.

    D(x; z)_ij = sum_k D(x; z)_{own_k} F_k,ij,      F_k = U_k V_k^T

Of an elastic stiffness all entries are multiples of two or three (`pddlvm.weak.slots`), and
these stand in a few rows: one derivative of the flux for each of these, where all of D takes one
for each strain. Of the strains themselves F_k reads few combinations, so that element matrices

    sum_x  (U_k^T B)^T D_{own_k} (V_k^T B)

have few rows too; and mostly f is the same for all z. That all this holds is seen at two draws, of
very many points at some, and at the first of each batch again, by the flux at zero and its change
in a random direction; where it does not, D is taken whole. Of many z, entries that are affine in
the values of fields are made of these values alone, which is seen at the two draws and at the last
of each batch.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of, normal_like
from pddlvm.parameters.space import ParameterSpace
from pddlvm.weak.assembly import element_matrices
from pddlvm.weak.slots import Slots
from pddlvm.weak.terms import TermEvaluator

__all__ = ["LinearTerm", "LinearValues"]

_N_PROBES = 2
_FEW = 4096
"""Points at which multiples are looked for first, where there are more."""
_RIGHT = 1e-10
_NOTHING = 1e-12
_MANY = 4
"""Parameters from which on it is worth it to see whether entries are affine."""
_DERIVED = 12
"""Numbers of a derivative that are in memory at once, for each strain."""
_CHUNK = 64
"""Parameters whose entries are derived at once."""
_ROOM = 2**25
"""Numbers of combined strains that are kept, 256 MiB."""
_STRAINS = 2**24
"""Numbers of the strains of some samples that are in memory at once."""
_KEPT = 2**27
"""Numbers of element matrices of a term that are kept, 1 GiB."""
_NUMBERS = 2**17
"""Of element matrices that are made at once: what they read stays in a cache."""


@dataclass(frozen=True)
class LinearValues:
    """A term at some z.

    Attributes:
        own: w * the entries that stand for all, (batch, n_points, n_own); or None, and
        whole: w * D, (batch, n_points, s, s).
        at_zero: w * f, (batch or 1, n_points, s).
    """

    own: Tensor | None
    whole: Tensor | None
    at_zero: Tensor

    def take(self, rows: Tensor | slice) -> "LinearValues":
        """Those of some of the batch."""
        own, whole = (None if x is None else x[rows] for x in (self.own, self.whole))
        is_same = len(self.at_zero) == 1
        return LinearValues(own, whole, self.at_zero if is_same else self.at_zero[rows])


@dataclass(frozen=True)
class _AffineEntries:
    """Entries at some values of the fields, (1, n_points, n_own), and their slopes in each."""

    centre: dict[str, Tensor]
    entries: Tensor
    slopes: dict[str, Tensor]

    def at(self, values: dict[str, Tensor], n: int) -> Tensor:
        """At other values, (n, n_points, n_own)."""
        found = self.entries.repeat(n, 1, 1)
        for name, slope in self.slopes.items():
            found.addcmul_((values[name] - self.centre[name])[..., None], slope)
        return found


class LinearTerm:
    """Its entries, fluxes and element matrices.

    Args:
        term: linear in u, at its points.
        prior: of z.
    """

    def __init__(self, term: TermEvaluator, prior: ParameterSpace) -> None:
        self.term, self.prior = term, prior
        z = prior.sample((_N_PROBES,), seed=0)
        self._direction = normal_like(z.new_zeros(term.s), (), generator_of(0))
        at_zero = self._at_zero(z)
        same = at_zero[:1]
        self._same = same if (at_zero - same).abs().amax() <= _RIGHT * same.abs().amax() else None
        if len(term.weights) > _FEW:
            self._take(Slots.of(self._at_some(z)))
            if self._needs_all or self._checked(z[:1], same) is not None:
                return
        self._take(Slots.of(self._tangents(z).flatten(2)))

    def _at_some(self, z: Tensor) -> Tensor:
        """Tangents at some of the points, (batch, n, s^2)."""
        chosen = torch.randperm(len(self.term.weights), generator=generator_of(0))[:_FEW]
        points = self.term.points.take(chosen.sort().values.numpy())
        few = TermEvaluator.at_points(self.term.term, points, self.term.used)
        return few.tangents_of(self._zero(z)[:, :_FEW], self.prior.split(z)).flatten(2)

    def _take(self, slots: Slots) -> None:
        s = self.term.s
        self.slots, self.factors = slots, slots.factors.unflatten(-1, (s, s))
        self._rows = (slots.own // s).unique()
        places = torch.searchsorted(self._rows, slots.own // s)
        self._own = places * s + slots.own % s
        self._sides = [_sides(factor) for factor in self.factors]

    def at(self, z: Tensor, n_checked: int = 1) -> LinearValues:
        """Those of z (batch, d); that entries hold is seen at so many of them."""
        at_zero = self.at_zero(z)
        own = self._checked(z, at_zero[:n_checked], n_checked)
        return LinearValues(own, self._tangents(z) if own is None else None, at_zero)

    @property
    def _needs_all(self) -> bool:
        """Do the entries that stand for all stand in all rows?"""
        return len(self._rows) == self.term.s

    @property
    def n_numbers(self) -> int:
        """How many are in memory for each z of `at`, of many z."""
        n_points, s = len(self.term.weights), self.term.s
        if self._needs_all:
            return n_points * s * (s + _DERIVED)
        of_entries = s * _DERIVED if self._affine is None else len(self._own) + 2
        return n_points * (of_entries + (s * _DERIVED if self._same is None else 0))

    def at_zero(self, z: Tensor) -> Tensor:
        """w * f, (batch, n_points, s), or (1, n_points, s) where it is the same for all z."""
        first, same = self._at_zero(z[:1]), self._same
        if same is None or (first - same).abs().amax() > _RIGHT * same.abs().amax():
            return self._at_zero(z)
        return same

    def own(self, z: Tensor) -> Tensor | None:
        """w * the entries that stand for all, (batch, n_points, n_own); None where they do not."""
        if self._needs_all:
            return None
        parts = z.split(_CHUNK) if self._affine is None else (z,)
        found = [self._checked(part, self._at_zero(part[:1])) for part in parts]
        known = [part for part in found if part is not None]
        return torch.cat(known) if len(known) == len(found) else None

    def own_with(self, values: dict[str, Tensor], n: int) -> Tensor:
        """The same for n samples whose fields have these values, whether they stand or not."""
        if n > 1 and n * len(self.term.weights) * self.term.s > _STRAINS:
            wide = {name: v.expand(n, -1) for name, v in values.items()}
            each = [{name: v[i : i + 1] for name, v in wide.items()} for i in range(n)]
            return torch.cat([self.own_with(one, 1) for one in each])
        zero, rows = self.term.weights.new_zeros(n, len(self.term.weights), self.term.s), []
        for i in self._rows.tolist():
            row = zero.clone()
            row[..., i] = 1.0
            rows.append(self.term.tangent_rows_with(row, values))
        return torch.cat(rows, dim=-1)[..., self._own] * self.term.weights[:, None]

    def _checked(self, z: Tensor, at_zero: Tensor, n: int = 1) -> Tensor | None:
        """The entries, if they say how the fluxes of the first n samples change."""
        if self._needs_all:
            return None
        own = self._entries(self.term.values(self.prior.split(z)), len(z))
        return own if self.holds(own[:n], z[:n], at_zero) else None

    def _entries(self, values: dict[str, Tensor], n: int) -> Tensor:
        if n >= _MANY and self._affine is not None:
            own = self._affine.at(values, n)
            if self._are_entries(own[-1:], {name: value[-1:] for name, value in values.items()}):
                return own
        return self.own_with(values, n)

    def _are_entries(self, own: Tensor, values: dict[str, Tensor]) -> bool:
        left = (own - self.own_with(values, len(own))).abs().amax()
        return bool(left <= _RIGHT * own.abs().amax())

    @cached_property
    def _affine(self) -> _AffineEntries | None:
        """None where they are not affine in the values of fields."""
        values = self.term.values(self.prior.split(self.prior.sample((_N_PROBES,), seed=0)))
        centre = {name: value[:1] for name, value in values.items()}
        entries, slopes = self.own_with(centre, 1), {}
        for name, here in centre.items():
            # As far away as values are large: exact, and no digits are lost.
            step = torch.where(here.abs().amax() > 0, here.abs().amax(), 1.0)
            moved = self.own_with({**centre, name: here + step}, 1)
            slopes[name] = (moved - entries) / step
        found = _AffineEntries(centre, entries, slopes)
        last = {name: value[-1:] for name, value in values.items()}
        return found if self._are_entries(found.at(last, 1), last) else None

    def holds(self, own: Tensor, z: Tensor, at_zero: Tensor) -> bool:
        """Do entries at z say how the flux changes from that at zero, in a random direction?"""
        moved = self.term.fluxes_of(self._zero(z) + self._direction, self.prior.split(z))
        left = own @ (self.factors @ self._direction) - (moved - at_zero)
        size = own.abs().amax((1, 2)) + at_zero.abs().amax((1, 2))
        return bool((left.abs().amax((1, 2)) <= _RIGHT * size).all())

    def tangents(self, values: LinearValues) -> Tensor:
        """w * D, (batch, n_points, s, s)."""
        if values.own is None:
            assert values.whole is not None
            return values.whole
        return (values.own @ self.slots.factors).unflatten(-1, (self.term.s, self.term.s))

    def fluxes(self, e: Tensor, values: LinearValues) -> Tensor:
        """w * flux of strains, (batch, n_points, s)."""
        if not e.any():
            return values.at_zero.expand_as(e)
        if values.own is None:
            assert values.whole is not None
            return (values.whole @ e[..., None])[..., 0] + values.at_zero
        found = values.at_zero.expand_as(e).clone()
        for d, f in zip(values.own.unbind(-1), self.factors, strict=True):
            found.addcmul_(d[..., None], e @ f.T)
        return found

    def elements(self, values: LinearValues, sample: int) -> Tensor | None:
        """Element matrices of one sample, (n_cells, n_local, n_local); None of a load alone."""
        region = self.term.term.region
        if values.own is not None and not values.own[sample].any():
            return None
        if values.own is None or sum(u.shape[1] for u, _ in self._sides) >= self.term.s:
            return element_matrices(
                region.local, self.tangents(values.take(slice(sample, sample + 1)))[0]
            )
        own = values.own[sample].unflatten(0, region.local.shape[:2])
        n_local = region.local.shape[3]
        found = own.new_zeros(len(own), n_local, n_local)
        n_cells = max(1, _NUMBERS // n_local**2)
        for i in range(0, len(own), n_cells):
            cells = slice(i, i + n_cells)
            for k, (left, right) in enumerate(self._strains_of(cells)):
                weighted = own[cells, :, k, None, None] * left
                found[cells].baddbmm_(weighted.flatten(1, 2).mT, right.flatten(1, 2))
        return found

    @property
    def has_few_elements(self) -> bool:
        """Are element matrices sums of `unit_elements`, and is there room for these?"""
        n_cells, n_quadrature, _, n_local = self.term.term.region.local.shape
        return n_quadrature == 1 and len(self.factors) * n_cells * n_local**2 <= _KEPT

    def unit_elements(self) -> Tensor:
        """Element matrices of one of each of the own entries, (n_own, n_cells, n_local, n_local).

        Of cells with one point all others are sums of these, times the entries there.
        """
        units = torch.eye(len(self.factors), dtype=torch.float64)[:, None]
        ones = LinearValues(units.expand(-1, len(self.term.weights), -1), None, units)
        found = [self.elements(ones, k) for k in range(len(self.factors))]
        return torch.stack([own for own in found if own is not None])

    def _strains_of(self, cells: slice) -> list[tuple[Tensor, Tensor]]:
        """U_k^T B and V_k^T B of some cells, (n, n_quadrature, r, n_local) each."""
        if self._strains is not None:
            return [(u[cells], v[cells]) for u, v in self._strains]
        return self._combined(cells)

    @cached_property
    def _strains(self) -> list[tuple[Tensor, Tensor]] | None:
        """Those of all cells, where there is room for them."""
        n_cells, n_quadrature, _, n_local = self.term.term.region.local.shape
        ranks = sum(u.shape[1] if u is v else u.shape[1] + v.shape[1] for u, v in self._sides)
        fit = n_cells * n_quadrature * ranks * n_local <= _ROOM
        return self._combined(slice(None)) if fit else None

    def _combined(self, cells: slice) -> list[tuple[Tensor, Tensor]]:
        b, found = torch.from_numpy(self.term.term.region.local[cells]), []
        for u, v in self._sides:
            right = v.T @ b
            found.append((right if u is v else u.T @ b, right))
        return found

    def _tangents(self, z: Tensor) -> Tensor:
        return self.term.tangents_of(self._zero(z), self.prior.split(z))

    def _at_zero(self, z: Tensor) -> Tensor:
        return self.term.fluxes_of(self._zero(z), self.prior.split(z))

    def _zero(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), len(self.term.weights), self.term.s)


def _sides(factor: Tensor) -> tuple[Tensor, Tensor]:
    """U and V, (s, r), of F = U V^T; the same one where F is symmetric and not negative."""
    if torch.equal(factor, factor.T):
        values, vectors = torch.linalg.eigh(factor)
        if values[0] >= -_NOTHING * values[-1]:
            kept = values > _NOTHING * values[-1]
            u = vectors[:, kept] * values[kept].sqrt()
            return u, u
    u, values, v = torch.linalg.svd(factor)
    kept = values > _NOTHING * values[0]
    return u[:, kept] * values[kept], v[kept].T
