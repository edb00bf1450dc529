"""Linear problems whose matrix and load combine few fixed ones: direct solves without assembly.

    (K(z) u + g(z))_free = 0,    K(z) = sum_q theta_q(z) K_q,    g(z) = sum_p phi_p(z) g_p

Conductivities that are constant on parts of the mesh are of this kind, log-normal fields are not.
theta and phi come from empirical interpolation as in `pddlvm.weak.affine_term`, with as many K_q
as it takes.
"""

from functools import reduce

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg.banded import find_band
from pddlvm.linalg.empirical_interpolation import find_interpolation
from pddlvm.linalg.factorisation import Factorisation, NotPositiveError, SingularMatrixError
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.assembly import Assembler
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm
from pddlvm.weak.projection import AtPoints
from pddlvm.weak.terms import TermEvaluator

__all__ = ["AffineSystem", "affine_system"]

_N_DRAWS = 128
_MAX_RANK = 96
_MEMORY = 2**28
"""Bytes of pointwise tangents of all draws; larger problems are not tried."""
_SPREAD = 0.3
_TOLERANCE = 1e-10


class AffineSystem:
    """K_q and g_p of a form, float64 on the CPU; z is (batch, d).

    Args:
        form: linear, see `affine_system`.
        operators: its discretisation, float64 on the CPU.
        terms: coefficients theta and phi of each term.
        matrices: K_q of all terms, in one pattern on all degrees of freedom.
        loads: g_p of all terms, (n_loads, n_dofs).
    """

    def __init__(
        self,
        form: WeakForm,
        operators: Discretisation,
        terms: list[AffineTerm],
        matrices: list[sp.csc_matrix],
        loads: Tensor,
    ) -> None:
        self._form = form
        self._operators = operators
        self._symmetric = form.is_symmetric
        self._terms = terms
        self._loads = loads
        pattern = matrices[0].tocoo()
        self._data = torch.from_numpy(np.stack([m.data for m in matrices]))
        self._rows = torch.from_numpy(pattern.row.astype(np.int64))
        self._columns = torch.from_numpy(pattern.col.astype(np.int64))
        n, free = form.n_dofs, form.free_dofs
        number = sp.csc_matrix(
            (np.arange(1, len(pattern.data) + 1), matrices[0].indices, matrices[0].indptr),
            shape=(n, n),
        )
        inside = number[free][:, free].tocsc()
        self._inside = torch.from_numpy(inside.data.astype(np.int64) - 1)
        self._indices, self._indptr = inside.indices, inside.indptr
        self._band = find_band(inside) if self._symmetric else None

    def solve(self, z: Tensor) -> tuple[Tensor, list[Factorisation]]:
        """Solutions (batch, n_dofs) and factors of each matrix.

        Raises:
            ConvergenceError: a matrix is singular, or a solution not finite.
        """
        free = self._operators.free
        theta, phi = self.coefficients(z)
        data = theta @ self._data
        lift = self._operators.lift(z)
        right = -(self._times(data, lift) + phi @ self._loads)[:, free]
        try:
            factors = [self._factorise(one) for one in data[:, self._inside].numpy()]
            solved = [f.solve(b.numpy()) for f, b in zip(factors, right, strict=True)]
        except SingularMatrixError as error:
            raise ConvergenceError("a matrix is singular: is a coefficient zero?") from error
        except NotPositiveError as error:
            raise ConvergenceError(str(error)) from error
        inside = [torch.from_numpy(one) for one in solved]
        u = lift.index_copy(1, free, torch.stack(inside))
        bad = torch.nonzero(~torch.isfinite(u).all(-1)).flatten()
        if len(bad):
            raise ConvergenceError(f"the solution at z = {z[bad[0]].tolist()} is not finite")
        return u, factors

    def lagrangian(self, u: Tensor, z: Tensor, slope: Tensor, adjoint: Tensor) -> Tensor:
        """slope . u + adjoint . (K(z) u + g(z)) up to a constant, as a function of z, ().

        u is held but for its boundary values.

        Args:
            u: solutions, (batch, n_dofs).
            z: (batch, d), may require a gradient.
            slope: of a function of u, (batch, n_dofs).
            adjoint: (batch, n_free).
        """
        theta, phi = self.coefficients(z)
        weights = torch.zeros_like(u).index_copy(1, self._operators.free, adjoint)
        of_matrices = (weights[:, self._rows] * u[:, self._columns]) @ self._data.T
        data = theta.detach() @ self._data
        moved = torch.zeros_like(u).index_add(1, self._columns, data * weights[:, self._rows])
        lift = self._operators.lift(z)
        parts = theta * of_matrices, phi * (weights @ self._loads.T), (slope + moved) * lift
        return reduce(torch.add, [part.sum() for part in parts])

    def coefficients(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """theta and phi, (batch, n_matrices) and (batch, n_loads)."""
        blocks = self._operators.prior.split(z)
        like = z.new_zeros(len(z), 1)
        return (
            torch.cat([term.theta(like, blocks) for term in self._terms], dim=1),
            torch.cat([term.phi(like, blocks) for term in self._terms], dim=1),
        )

    def _times(self, data: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u).index_add(1, self._rows, data * u[:, self._columns])

    def _factorise(self, data: np.ndarray) -> Factorisation:
        found = self._band.factorise(data) if self._band is not None else None
        if found is not None:
            return found
        n = len(self._operators.free)
        matrix = sp.csc_matrix((data, self._indices, self._indptr), shape=(n, n))
        return self._form.factorise(matrix, symmetric=self._symmetric)


def affine_system(form: WeakForm, operators: Discretisation) -> AffineSystem | None:
    """The system of a form that is of this kind, or None; found by trial on random draws.

    Args:
        form: of the PDE.
        operators: its discretisation, float64 on the CPU.
    """
    if form.constraints is not None:
        return None
    size = sum(8 * _N_DRAWS * t.weights.numel() * t.s**2 for t in operators.terms)
    if size > _MEMORY:
        return None
    generator = torch.Generator().manual_seed(0)
    # Near the centre of the prior: coefficients over many powers of ten would hide a rank.
    xi = _SPREAD * form.prior.sample_standard((_N_DRAWS,), generator=generator)
    z = form.prior.unstandardise(xi)
    assembler = Assembler(form.terms, np.arange(form.n_dofs), form.n_dofs)
    zero = torch.zeros(_N_DRAWS, form.n_dofs, dtype=torch.float64)
    nothing = [torch.zeros(t.weights.numel(), t.s, t.s).double() for t in operators.terms]
    found, matrices, loads = [], [], []
    for i, term in enumerate(operators.terms):
        affine = _affine_term(form, term, zero, z)
        if affine is None:
            return None
        own, tangents, fluxes = affine
        found.append(own)
        for one in tangents:
            matrices.append(assembler([*nothing[:i], one, *nothing[i + 1 :]]))
        loads.append(term.operator.adjoint(fluxes.flatten(1)))
    system = AffineSystem(form, operators, found, matrices, torch.cat(loads))
    return system if _is_right(form, operators, system, generator) else None


def _affine_term(
    form: WeakForm, term: TermEvaluator, zero: Tensor, z: Tensor
) -> tuple[AffineTerm, Tensor, Tensor] | None:
    """Coefficients, and the weighted tangents and fluxes that they multiply."""
    blocks, n = form.prior.split(z), len(z)
    tangents = term.tangents(zero, blocks) / term.weights[:, None, None]
    fluxes = term.fluxes(zero, blocks) / term.weights[:, None]
    tangent = find_interpolation(tangents.reshape(n, -1).numpy(), _MAX_RANK)
    flux = find_interpolation(fluxes.reshape(n, -1).numpy(), _MAX_RANK)
    if tangent is None or flux is None:
        return None
    columns = np.zeros((term.weights.numel(), term.s, 1))
    own = AffineTerm(term, tangent, flux, AtPoints(columns), torch.float64)
    of_tangents = torch.from_numpy(tangent.cardinal.T.copy()).unflatten(1, (-1, term.s, term.s))
    of_fluxes = torch.from_numpy(flux.cardinal.T.copy()).unflatten(1, (-1, term.s))
    return own, term.weights[:, None, None] * of_tangents, term.weights[:, None] * of_fluxes


def _is_right(
    form: WeakForm, operators: Discretisation, system: AffineSystem, generator: torch.Generator
) -> bool:
    """Does the residual of its solutions vanish, on draws of the whole prior?"""
    z = form.prior.unstandardise(form.prior.sample_standard((4,), generator=generator))
    u, _ = system.solve(z)
    start = operators.residual(operators.lift(z), z).norm(dim=1)
    return bool((operators.residual(u, z).norm(dim=1) <= _TOLERANCE * start).all())
