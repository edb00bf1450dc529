"""A problem as torch modules of one dtype: residual, tangents and boundary values, batched.

r(u, z) = sum_regions B^T (w * sum_terms flux(B u, z, x)),   rows of the free dofs
u_D(z) at the Dirichlet dofs
"""

from functools import reduce
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pddlvm.linalg.operators import SparseOperator
from pddlvm.weak.boundary import BoundaryValues
from pddlvm.weak.form import WeakForm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["Discretisation"]

_LINEAR, _FAR = 1e-10, 1e3


class Discretisation(nn.Module):
    """The terms and boundary values of a form as torch modules of one dtype.

    Below, u is (batch, n_dofs), z is (batch, d), and r is (batch, n_free).
    """

    free: Tensor
    fixed: Tensor
    border: Tensor
    constants: Tensor
    terms: list[TermEvaluator]
    boundary: list[BoundaryValues]
    # Both are ModuleLists, declared by what they hold.

    def __init__(self, form: WeakForm, dtype: torch.dtype) -> None:
        super().__init__()
        self.prior = form.prior
        self.n_dofs = form.n_dofs
        self.register_buffer("free", torch.from_numpy(form.free_dofs))
        fixed = np.setdiff1d(np.arange(form.n_dofs), form.free_dofs)
        self.register_buffer("fixed", torch.from_numpy(fixed))
        # Terms of one region share its operator, and in the residual its strains and its adjoint.
        operators = {
            id(term.region): SparseOperator(term.region.matrix, dtype) for term in form.terms
        }
        terms = [
            TermEvaluator(
                term,
                operators[id(term.region)],
                torch.from_numpy(term.region.weights.ravel()).to(dtype),
                term.region.points,
                form.fields,
            )
            for term in form.terms
        ]
        boundary = [BoundaryValues(d, form.space, form.fields, dtype) for d in form.dirichlet]
        self.is_constrained = form.constraints is not None
        if form.constraints is not None:
            border, constants = form.constraints.border, form.constraints.constants
            self.register_buffer("border", torch.from_numpy(border[form.free_dofs]).to(dtype))
            self.register_buffer("constants", torch.from_numpy(constants[form.free_dofs]).to(dtype))
        self.terms = cast(list[TermEvaluator], nn.ModuleList(terms))
        self.boundary = cast(list[BoundaryValues], nn.ModuleList(boundary))

    @property
    def _groups(self) -> list[list[TermEvaluator]]:
        """Terms by region."""
        groups: dict[int, list[TermEvaluator]] = {}
        for term in self.terms:
            groups.setdefault(id(term.operator), []).append(term)
        return list(groups.values())

    def lift(self, z: Tensor) -> Tensor:
        """Dirichlet values, zero at the free degrees of freedom, (batch, n_dofs)."""
        u = torch.zeros(len(z), self.n_dofs, dtype=z.dtype, device=z.device)
        return u.index_copy(1, self.fixed, self.boundary_values(z))

    def boundary_values(self, z: Tensor) -> Tensor:
        """Dirichlet values alone, (batch, n_fixed)."""
        values = torch.zeros(len(z), len(self.fixed), dtype=z.dtype, device=z.device)
        blocks = self.prior.split(z)
        for boundary in self.boundary:
            # Later conditions win where two boundaries meet.
            place = torch.searchsorted(self.fixed, boundary.dofs)
            values = values.index_copy(1, place, boundary(blocks, len(z)))
        return values

    def energy(self, u: Tensor, z: Tensor) -> Tensor:
        """Pi(u, z), (batch,)."""
        blocks = self.prior.split(z)
        return torch.stack([term.energy(u, blocks) for term in self.terms]).sum(0)

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """r(u, z), (batch, n_free)."""
        return self.forces(u, z)[:, self.free]

    def forces(self, u: Tensor, z: Tensor) -> Tensor:
        """The same on all degrees of freedom, (batch, n_dofs): where u is held, what holds it."""
        blocks = self.prior.split(z)
        full = torch.zeros_like(u)
        for terms in self._groups:
            e = terms[0].strains(u)
            fluxes = reduce(torch.add, [term.fluxes_of(e, blocks) for term in terms])
            full = full + terms[0].operator.adjoint(fluxes.flatten(-2))
        return full

    def balanced(self, r: Tensor) -> Tensor:
        """r + C lambda, (..., n_free): the residual of a constrained problem, else r itself."""
        if not self.is_constrained:
            return r
        multipliers = (r @ self.constants) / (self.border * self.constants).sum(0)
        return r - multipliers @ self.border.T

    def held(self, u: Tensor, z: Tensor) -> Tensor:
        """u with the boundary values of z, and the mean values that the constraints ask for."""
        free = u[:, self.free]
        if self.is_constrained:
            means = (free @ self.border) / (self.border * self.constants).sum(0)
            free = free - means @ self.constants.T
        return self.lift(z).index_copy(1, self.free, free)

    def tangents(self, u: Tensor, z: Tensor) -> list[Tensor]:
        """Pointwise tangents of each term, (batch, n_points, s, s) each."""
        blocks = self.prior.split(z)
        return [term.tangents(u, blocks) for term in self.terms]

    @property
    def nonlinear_terms(self) -> tuple[int, ...]:
        """Numbers of the terms whose fluxes leave their tangents, at the centre of the prior.

        Fluxes times strains are energies, in whatever units.
        """
        z = self.prior.unstandardise(torch.zeros(1, self.prior.size, dtype=torch.float64))
        rest, blocks = self.lift(z), self.prior.split(z)
        tangents, found = self.tangents(rest, z), set()
        far = self._far_from(rest, z, tangents)
        for i, (term, d) in enumerate(zip(self.terms, tangents, strict=True)):
            start = term.strains(rest)
            flux = term.fluxes_of(start, blocks)
            for u in far:
                e = term.strains(u)
                moved = (e - start)[..., None]
                left = (term.fluxes_of(e, blocks) - flux - (d @ moved)[..., 0]).abs()
                unit = e.square().mean((0, 1)).sqrt()
                size = (d.abs() @ moved.abs())[..., 0]
                if not (left * unit).max() <= _LINEAR * (size * unit).max():
                    found.add(i)
        return tuple(sorted(found))

    def _far_from(self, rest: Tensor, z: Tensor, tangents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """A state that is as smooth as the load, and a rough one, far larger than solutions are.

        How large these are says the step of steepest descent.
        """
        load = self.residual(rest, z)
        r = load / load.abs().max() if load.any() else load
        bent = float((r * self.apply_tangents(tangents, r)).sum().abs())
        step = r * (float((r * load).sum()) / bent if bent else 0.0)
        size = float(step.abs().max() + rest.abs().max()) or 1.0
        rough = size * torch.cos(torch.arange(rest.shape[1], dtype=rest.dtype))
        return rest.index_add(1, self.free, _FAR * step), rest + _FAR * rough

    def is_linear(self) -> bool:
        """Are the tangents the same whatever u is, at the centre of the prior?"""
        return not self.nonlinear_terms

    def apply_tangents(self, tangents: list[Tensor], v: Tensor) -> Tensor:
        """dr/du v for v of the free degrees of freedom, (batch, n_free) -> (batch, n_free)."""
        u = torch.zeros(len(v), self.n_dofs, dtype=v.dtype, device=v.device)
        return self.times(tangents, u.index_copy(1, self.free, v))[:, self.free]

    def times(self, tangents: list[Tensor], u: Tensor) -> Tensor:
        """B^T D B u without a matrix, (batch, n_dofs) -> the same; one D may serve the batch."""
        total = torch.zeros_like(u)
        for term, tangent in zip(self.terms, tangents, strict=True):
            de = torch.einsum("bpst,bpt->bps", tangent, term.strains(u))
            total = total + term.operator.adjoint(de.flatten(-2))
        return total
