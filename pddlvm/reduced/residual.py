"""The residual in a reduced basis, W^T r(V c + L a, z), whose cost does not grow with the mesh.

The test functions W are those of the basis, V, or more of their own (`pddlvm.reduced.tests`).

Each term becomes either an `AffineTerm` (few fixed operators) or an empirical cubature: the same
pointwise physics at a few hundred cells with non-negative weights. Coefficients, energies and
residuals have no units (`Representation`); the physics has, and is evaluated in float64.
"""

from collections.abc import Iterable
from functools import cached_property, reduce
from typing import cast

import torch
from torch import Tensor, nn

from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.representation import Representation
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["ReducedModel", "pulled", "slope_of", "stiffness_of"]

_N_TRIED, _AFFINE = 8, 1e-10
_CHUNK, _CACHE = 64, 2**20
"""Samples whose strain matrices (points x s x modes) are formed at once; on a CPU fewer, if these
have more numbers than a cache holds."""


def stiffness_of(term: TermEvaluator | AffineTerm, a: Tensor, z: dict[str, Tensor]) -> Tensor:
    """Reduced stiffness of one term, (batch, n_rows, n_columns)."""
    if isinstance(term, AffineTerm):
        return term.stiffness(a, z)
    assert isinstance(term.operator, ScaledOperator)
    assert isinstance(term.tests, ScaledOperator)
    columns, unit = (x.unflatten(0, (-1, term.s)) for x in (term.operator.b, term.operator.unit))
    unit_of_rows = term.tests.unit.unflatten(0, (-1, term.s))
    tangents = term.tangents(a, z) * unit_of_rows[:, :, None] * unit[:, None, :]
    weighted = torch.einsum("bpst,ptj->bpsj", tangents.to(columns), columns)
    return term.tests.b.T @ weighted.flatten(1, 2)


def pulled(term: TermEvaluator, fluxes: Tensor) -> Tensor:
    """W^T B(x)^T of fluxes (batch, n_points, s), one column a point: (batch, n_rows, n_points)."""
    assert isinstance(term.tests, ScaledOperator)
    rows, unit = (x.unflatten(0, (-1, term.s)) for x in (term.tests.b, term.tests.unit))
    return torch.einsum("bps,psj->bjp", (fluxes * unit).to(rows), rows)


def slope_of(
    term: TermEvaluator | AffineTerm, a: Tensor, z: dict[str, Tensor]
) -> dict[str, Tensor]:
    """d residual / d z of each field that one term reads, (batch, n_rows, size)."""
    if isinstance(term, AffineTerm):
        return term.slope(a, z)
    found = {}
    for name, slope in term.field_slopes(term.strains(a), z).items():
        # Each point reads the fields there alone.
        t = pulled(term, slope)
        found[name] = t @ term.latent_slopes(name, z).to(t)
    return found


def _is_affine_in_fields(term: TermEvaluator, a: Tensor, z: dict[str, Tensor]) -> bool:
    """Seen at the means of neighbours among some draws z."""
    assert isinstance(term.operator, ScaledOperator)
    e = term.strains(a.to(term.operator.b)).expand(_N_TRIED, -1, -1)
    values = term.linked(z)[0]
    ends = term.fluxes_with(e, values)
    mean = term.fluxes_with(e[1:], {k: 0.5 * (v[1:] + v[:-1]) for k, v in values.items()})
    left = (ends[1:] + ends[:-1] - 2 * mean).abs().amax((0, 1))
    return bool((left <= _AFFINE * ends.abs().amax((0, 1))).all())


class ReducedModel(nn.Module):
    """Energy, residual and stiffness in the coefficients c; z and c are (batch, .).

    z in float64 does not lose the spread of a narrow prior far from zero.
    """

    terms: list[TermEvaluator | AffineTerm]
    representation: Representation

    def __init__(
        self, representation: Representation, terms: list[TermEvaluator | AffineTerm]
    ) -> None:
        super().__init__()
        self.representation = representation
        self.terms = cast(list[TermEvaluator | AffineTerm], nn.ModuleList(terms))
        self.prior = representation.problem.prior
        self.n_modes, self.n_tests = representation.n_modes, representation.n_tests

    @property
    def is_affine(self) -> bool:
        """Are all terms sums of few operators, the same whatever u is?"""
        return all(isinstance(term, AffineTerm) for term in self.terms)

    @cached_property
    def affine_in_fields(self) -> tuple[bool, ...]:
        """Of each term at points: are its fluxes affine in the values that fields have there?"""
        generator = torch.Generator().manual_seed(0)
        xi = self.prior.sample_standard((_N_TRIED,), generator=generator)
        c = torch.randn(1, self.n_modes, generator=generator, dtype=torch.float64)
        z, c = (x.to(self.representation.basis) for x in (self.prior.unstandardise(xi), c))
        a, blocks = self.augment(c, z[:1]), self.prior.split(z)
        return tuple(
            isinstance(term, TermEvaluator) and _is_affine_in_fields(term, a, blocks)
            for term in self.terms
        )

    @property
    def n_strains(self) -> int:
        """Components of all strains at the points where physics is evaluated."""
        pointwise = (t for t in self.terms if isinstance(t, TermEvaluator))
        return sum(len(term.weights) * term.s for term in pointwise)

    def energy(self, c: Tensor, z: Tensor) -> Tensor:
        """Pi(V c + L a(z), z), (batch,)."""
        a, blocks = self.augment(c, z), self.prior.split(z.double())
        return torch.stack([term.energy(a, blocks).to(a) for term in self.terms]).sum(0)

    def residual(self, c: Tensor, z: Tensor) -> Tensor:
        """W^T r, (batch, n_tests)."""
        return self.residual_of(self.augment(c, z), z)

    def residual_of(self, a: Tensor, z: Tensor) -> Tensor:
        """W^T r of augmented coefficients (c, 1, b), (batch, n_tests)."""
        blocks = self.prior.split(z.double())
        total = torch.stack([term.residual(a, blocks) for term in self.terms]).sum(0)
        return total[:, : self.n_tests]

    def stiffness(self, c: Tensor, z: Tensor) -> Tensor:
        """W^T K(u, z) V, (batch, n_tests, n_modes)."""
        return self.tangent(c, z)[..., : self.n_modes]

    def tangent(self, c: Tensor, z: Tensor) -> Tensor:
        """W^T K(u, z) (V, L), (batch, n_tests, n_columns)."""
        return self.tangent_of(self.terms, c, z)

    def tangent_of(
        self, terms: Iterable[TermEvaluator | AffineTerm], c: Tensor, z: Tensor
    ) -> Tensor:
        """The part of some terms."""
        a, chunk, terms = self.augment(c, z), _CHUNK, list(terms)
        if c.device.type == "cpu":
            operators = [t.operator for t in terms if isinstance(t, TermEvaluator)]
            sizes = [o.b.numel() for o in operators if isinstance(o, ScaledOperator)]
            chunk = min(chunk, max(1, _CACHE // max(sizes, default=1)))
        parts = []
        for part, z_part in zip(a.split(chunk), z.split(chunk), strict=True):
            blocks = self.prior.split(z_part.double())
            total = reduce(torch.add, [stiffness_of(t, part, blocks) for t in terms])
            parts.append(total[:, : self.n_tests])
        return torch.cat(parts)

    def load(self, z: Tensor) -> Tensor:
        """W^T r at u = 0, (batch, n_tests), of a model that is affine."""
        a, blocks = z.new_zeros(len(z), 1), self.prior.split(z)
        return reduce(
            torch.add, [t.load(a, blocks) for t in self.terms if isinstance(t, AffineTerm)]
        )[:, : self.n_tests]

    def slope(self, c: Tensor, z: Tensor) -> Tensor:
        """d (W^T r) / dz where (c, 1, b) is held, (batch, n_tests, d)."""
        a, blocks = self.augment(c, z), self.prior.split(z.double())
        return self.sum_of_slopes(a, (slope_of(term, a, blocks) for term in self.terms))

    def sum_of_slopes(self, a: Tensor, slopes: Iterable[dict[str, Tensor]]) -> Tensor:
        """Of terms, by field, for augmented a: (batch, n_tests, d)."""
        total = a.new_zeros(len(a), self.n_tests, self.prior.size)
        for of_term in slopes:
            for name, part in of_term.items():
                total[..., self.prior.slices[name]] += part[:, : self.n_tests]
        return total

    def augment(self, c: Tensor, z: Tensor) -> Tensor:
        """(c, 1, b(z)), (batch, n_columns)."""
        return self.representation.augment(c, self.representation.boundary_coordinates(z))
