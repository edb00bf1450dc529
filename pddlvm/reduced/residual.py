"""The residual in a reduced basis, V^T r(V c + L a, z), whose cost does not grow with the mesh.

Each term becomes either an `AffineTerm` (few fixed operators) or an empirical cubature: the same
pointwise physics at a few hundred cells with non-negative weights. Coefficients, energies and
residuals have no units (`Representation`); the physics has, and is evaluated in float64.
"""

from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.representation import Representation
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["ReducedModel", "stiffness_of"]

_CHUNK, _CACHE = 64, 2**20
"""Samples whose strain matrices (points x s x modes) are formed at once; on a CPU fewer, if these
have more numbers than a cache holds."""


def stiffness_of(term: TermEvaluator | AffineTerm, a: Tensor, z: dict[str, Tensor]) -> Tensor:
    """Reduced stiffness of one term, (batch, n_columns, n_columns)."""
    if isinstance(term, AffineTerm):
        return term.stiffness(a, z)
    assert isinstance(term.operator, ScaledOperator)
    columns, unit = (x.unflatten(0, (-1, term.s)) for x in (term.operator.b, term.operator.unit))
    tangents = term.tangents(a, z) * unit[:, :, None] * unit[:, None, :]
    weighted = torch.einsum("bpst,ptj->bpsj", tangents.to(columns), columns)
    return term.operator.b.T @ weighted.flatten(1, 2)


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
        self.n_modes = representation.n_modes

    @property
    def is_affine(self) -> bool:
        """Are all terms sums of few operators, the same whatever u is?"""
        return all(isinstance(term, AffineTerm) for term in self.terms)

    def energy(self, c: Tensor, z: Tensor) -> Tensor:
        """Pi(V c + L a(z), z), (batch,)."""
        a, blocks = self.augment(c, z), self.prior.split(z.double())
        return torch.stack([term.energy(a, blocks).to(a) for term in self.terms]).sum(0)

    def residual(self, c: Tensor, z: Tensor) -> Tensor:
        """V^T r, (batch, n_modes)."""
        return self.residual_of(self.augment(c, z), z)

    def residual_of(self, a: Tensor, z: Tensor) -> Tensor:
        """V^T r of augmented coefficients (c, 1, b), (batch, n_modes)."""
        blocks = self.prior.split(z.double())
        total = torch.stack([term.residual(a, blocks) for term in self.terms]).sum(0)
        return total[:, : self.n_modes]

    def stiffness(self, c: Tensor, z: Tensor) -> Tensor:
        """V^T K(u, z) V, (batch, n_modes, n_modes)."""
        return self.tangent(c, z)[..., : self.n_modes]

    def tangent(self, c: Tensor, z: Tensor) -> Tensor:
        """V^T K(u, z) (V, L), (batch, n_modes, n_columns)."""
        a, chunk = self.augment(c, z), _CHUNK
        if c.device.type == "cpu":
            operators = [t.operator for t in self.terms if isinstance(t, TermEvaluator)]
            sizes = [o.b.numel() for o in operators if isinstance(o, ScaledOperator)]
            chunk = min(chunk, max(1, _CACHE // max(sizes, default=1)))
        parts = []
        for part, z_part in zip(a.split(chunk), z.split(chunk), strict=True):
            blocks = self.prior.split(z_part.double())
            total = reduce(torch.add, [stiffness_of(t, part, blocks) for t in self.terms])
            parts.append(total[:, : self.n_modes])
        return torch.cat(parts)

    def load(self, z: Tensor) -> Tensor:
        """V^T r at u = 0, (batch, n_modes), of a model that is affine."""
        a, blocks = z.new_zeros(len(z), 1), self.prior.split(z)
        return reduce(
            torch.add, [t.load(a, blocks) for t in self.terms if isinstance(t, AffineTerm)]
        )[:, : self.n_modes]

    def slope(self, c: Tensor, z: Tensor) -> Tensor:
        """d (V^T r) / dz where (c, 1, b) is held, (batch, n_modes, d)."""
        a, blocks = self.augment(c, z), self.prior.split(z.double())
        total = a.new_zeros(len(a), self.n_modes, self.prior.size)
        for term in self.terms:
            for name, part in term.slope(a, blocks).items():
                total[..., self.prior.slices[name]] += part[:, : self.n_modes]
        return total

    def augment(self, c: Tensor, z: Tensor) -> Tensor:
        """(c, 1, b(z)), (batch, n_columns)."""
        return self.representation.augment(c, self.representation.boundary_coordinates(z))
