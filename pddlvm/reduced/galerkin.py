"""Solutions in a basis, with the operators of the mesh: to make the basis, and to choose cubatures.

    W_k^T r(V c + lift(z), z) = 0,       W_k = V, or X^{-1} K(z_k) V of the centre next to z

The second where V alone cannot test a residual (`pddlvm.reduced.reference`): with K(z_k) itself,
these are the test functions of the least residual in the dual norm.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.random import generator_of, normal_like
from pddlvm.linalg.newton import newton
from pddlvm.linalg.operators import to_torch_csr
from pddlvm.reduced.linear_fit import LinearFit
from pddlvm.reduced.reference import Reference
from pddlvm.weak.problem import Problem

__all__ = ["Galerkin"]

Array = NDArray[np.float64]

_BLOCK, _MOST = 8, 2**25
"""Samples whose pointwise tangents are in memory at once, and the numbers in these."""
_ENTRIES = 2**26
"""Numbers of entries of linear terms that are in memory at once, 512 MiB."""
_STRAINS = 3
"""Numbers of each strain that are in memory at once: it, its flux, and a product."""
_COLUMNS = 16
"""Of V, by which a matrix of a large mesh is multiplied at once: twice as fast as by all."""
_ROUNDINGS = 4.0
"""How many times what rounded boundary values leave may be as large as estimated."""


class Galerkin:
    """Reduced solutions with the full operator, u = V c + lift(z), for any V.

    Args:
        problem: the problem.
        reference: supplies the lifting, and test functions.
    """

    def __init__(self, problem: Problem, reference: Reference) -> None:
        self.problem = problem
        self.reference = reference
        self.operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self._lifts = torch.from_numpy(reference.lifts)
        self._phi = torch.from_numpy(reference.phi)
        self._fixed = torch.from_numpy(problem.fixed_dofs)
        self._v = np.zeros((problem.n_free, 0))
        self._w = [self._v for _ in reference.centres]
        self._fit, self._fitted = LinearFit(problem.prior.size), self._v
        self._kept: list[tuple[Tensor, Array]] = []

    def lift(self, z: Tensor) -> Tensor:
        """L a(z), (batch, n_dofs)."""
        values = self.operators.boundary_values(z)
        b = (values - self._lifts[self._fixed, 0]) @ self._phi
        return torch.cat([torch.ones(len(z), 1, dtype=z.dtype), b], dim=1) @ self._lifts.T

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """r without the imbalance of the loads, (batch, n_free)."""
        return self.operators.balanced(self.operators.residual(u, z))

    def rounding(self, lift: Tensor) -> Tensor:
        """|X^{-1} r| of residuals that are no more than rounding of lifts, (batch,)."""
        return _ROUNDINGS * self._rounded_share * self._energy_norm(lift)

    @cached_property
    def _rounded_share(self) -> float:
        """What a rounding of one lift changes of its residual, over the lift; in energy norms."""
        z = self.problem.prior.sample((1,), seed=0)
        lift = self.lift(z)
        if not (size := float(self._energy_norm(lift))):
            return 0.0
        rounding = torch.finfo(lift.dtype).eps * lift.abs() * normal_like(lift, (), generator_of(0))
        rounded = lift + rounding
        change = self.operators.residual(rounded, z) - self.operators.residual(lift, z)
        return float((self.reference.solve(change) * change).sum().sqrt()) / size

    def _energy_norm(self, lift: Tensor) -> Tensor:
        """|u|_X of the free part, (batch,)."""
        free = lift[:, self.operators.free].numpy()
        squares = (free * (self.reference.matrix @ free.T).T).sum(axis=1)
        return torch.from_numpy(np.sqrt(np.maximum(squares, 0.0)))

    def solve(self, v: Array, z: Tensor, tolerance: float = 1e-12) -> tuple[Array, Tensor]:
        """Coefficients (batch, n_modes) and the residual that they leave (batch, n_free)."""
        lift = self.lift(z)
        if not v.shape[1]:
            return np.zeros((len(z), 0)), self.residual(lift, z)
        # Boundary values that are a solution leave the rounding of what they cancel.
        noise, (tests, which) = self.rounding(lift), self._tests(v, z)
        if self.problem.is_linear:
            trial = _Trial(torch.from_numpy(v), self._is_symmetric)
            parts = [
                self._linear(trial, z[rows], lift[rows], tests, which[rows], noise[rows])
                for rows in torch.arange(len(z)).split(self._at_once)
            ]
            c, r = (torch.cat(found) for found in zip(*parts, strict=True))
        else:
            c, r = self._nonlinear(v, z, lift, tests, which, noise, tolerance)
        return c.numpy(), r

    def _linear(
        self,
        trial: "_Trial",
        z: Tensor,
        lift: Tensor,
        tests: list[Tensor],
        which: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """By one matrix and one residual of a draw, r(c) = r(0) + K V c."""
        linear = self.problem.linear
        values, c = linear.at(z), z.new_zeros(len(z), tests[0].shape[1])
        parts = [
            linear.residual(lift[rows], [own.take(rows) for own in values])
            for rows in torch.arange(len(z)).split(self._block if lift.any() else len(z))
        ]
        r = torch.cat(parts)
        tested = _tested(r, tests, which)
        for i in (tested.norm(dim=1) > noise).nonzero()[:, 0].tolist():
            k = self._rows(linear.matrix(values, i))
            factors = torch.linalg.lu_factor(trial.tested(k, tests[which[i]]))
            c[i] = -torch.linalg.lu_solve(*factors, tested[i, :, None])[:, 0]
            r[i] += k @ (trial.v @ c[i])
        return c, r

    def _nonlinear(
        self,
        v: Array,
        z: Tensor,
        lift: Tensor,
        tests: list[Tensor],
        which: Tensor,
        noise: Tensor,
        tolerance: float,
    ) -> tuple[Tensor, Tensor]:
        """By Newton's method, from a linear fit to what was solved before."""
        everything = torch.arange(len(z))
        trial = _Trial(torch.from_numpy(v), self._is_symmetric)

        def residual(rows: Tensor, c: Tensor) -> Tensor:
            u = lift[rows].index_add(1, self.operators.free, c @ trial.v.T)
            return self.residual(u, z[rows])

        def tested(rows: Tensor, c: Tensor) -> Tensor:
            return _tested(residual(rows, c), tests, which[rows])

        def stiffness(rows: Tensor, c: Tensor) -> Tensor:
            u = lift[rows].index_add(1, self.operators.free, c @ trial.v.T)
            found = []
            for part in torch.arange(len(rows)).split(self._block):
                tangents = self.operators.tangents(u[part], z[rows[part]])
                for i, k in enumerate(which[rows[part]].tolist()):
                    matrix = self.problem.solver.assembler([t[i] for t in tangents])
                    found.append(trial.tested(self._rows(matrix), tests[k]))
            return torch.stack(found)

        xi, fit, c = self.problem.prior.standardise(z), self._fit_in(v), self.start(v, z)
        size = tested(everything, c).norm(dim=1)
        c = fit.nearer(xi, c, size, lambda near: tested(everything, near))
        c = newton(tested, stiffness, c, tolerance, torch.maximum(tolerance * size, noise))
        fit.add(xi, c)
        return c, residual(everything, c)

    def keep(self, z: Tensor, c: Array) -> None:
        """Solutions that are near those in every wider basis, for `draws`."""
        self._kept.append((z, c))

    def draws(self, v: Array, n: int, generator: torch.Generator) -> tuple[Tensor, Array]:
        """Parameters and solutions in V: those that were kept while V was made, then new ones.

        Where a draw costs a matrix of the mesh, each that is solved twice is one too many.
        """
        parts = self._kept[::-1]
        if (n_new := n - sum(len(z) for z, _ in parts)) > 0:
            new = self.problem.prior.sample((n_new,), generator=generator)
            parts.append((new, self.solve(v, new)[0]))
        wide = [np.pad(c, ((0, 0), (0, v.shape[1] - c.shape[1]))) for _, c in parts]
        return torch.cat([z for z, _ in parts])[:n], np.concatenate(wide)[:n]

    def residuals_of_term(self, number: int, states: list[Tensor], z: Tensor) -> list[Tensor]:
        """B^T w flux of one term at several u (batch, n_dofs) of the same z, (batch, n_dofs)."""
        term, found = self.operators.terms[number], []
        for rows in torch.arange(len(z)).split(self._at_once):
            flux_of = self._fluxes(number, z[rows])
            for part in torch.arange(len(rows)).split(self._block):
                fluxes = [flux_of(term.strains(u[rows[part]]), part) for u in states]
                found.append([term.operator.adjoint(flux.flatten(-2)) for flux in fluxes])
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _fluxes(self, number: int, z: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """w flux of one term: of strains of some of the z, and which these are."""
        if self.problem.is_linear:
            linear = self.problem.linear.terms[number]
            values = linear.at(z)
            return lambda e, rows: linear.fluxes(e, values.take(rows))
        term, split = self.operators.terms[number], self.problem.prior.split
        return lambda e, rows: term.fluxes_of(e, split(z[rows]))

    @cached_property
    def _at_once(self) -> int:
        """Samples whose entries of a linear problem are in memory at once."""
        if not self.problem.is_linear:
            return self._block
        return max(1, min(_BLOCK, _ENTRIES // self.problem.linear.n_numbers))

    @property
    def _is_symmetric(self) -> bool:
        """Is W_k^T K V symmetric?"""
        return self.problem.has_potential and not self.reference.is_dual

    def _rows(self, k: sp.csc_matrix) -> Tensor:
        """K, whose columns are its rows where it is symmetric."""
        return to_torch_csr(sp.csr_matrix(k.T if self.problem.has_potential else k), torch.float64)

    @property
    def _block(self) -> int:
        """Samples whose strains and fluxes, or pointwise tangents, are in memory at once."""
        is_linear = self.problem.is_linear
        one = sum(
            len(term.weights) * term.s * (_STRAINS if is_linear else term.s)
            for term in self.operators.terms
        )
        return max(1, min(_BLOCK, _MOST // one))

    def _fit_in(self, v: Array) -> LinearFit:
        """What has been solved in the first columns of V; in another basis nothing."""
        n = min(v.shape[1], self._fitted.shape[1])
        if not np.array_equal(v[:, :n], self._fitted[:, :n]):
            self._fit = LinearFit(self.problem.prior.size)
        self._fitted = v
        return self._fit

    def _tests(self, v: Array, z: Tensor) -> tuple[list[Tensor], Tensor]:
        """W_k, (n_free, n_modes) each, and which of them is that of a sample, (batch,)."""
        if not self.reference.is_dual:
            return [torch.from_numpy(v)], torch.zeros(len(z), dtype=torch.int64)
        n = self._v.shape[1]
        if v.shape[1] < n or not np.array_equal(v[:, :n], self._v):
            self._w, n = [np.zeros((len(v), 0)) for _ in self._w], 0
        if v.shape[1] > n:
            # V grows while it is made: those of its first columns are kept.
            self._w = [
                np.column_stack([w, self.reference.factors.solve(centre.matrix @ v[:, n:])])
                for w, centre in zip(self._w, self.reference.centres, strict=True)
            ]
            self._v = v
        nearest = self.reference.nearest(self.problem.prior.standardise(z))
        return [torch.from_numpy(w) for w in self._w], nearest

    def start(self, v: Array, z: Tensor) -> Tensor:
        """Zero, or where K depends on u and W on a solution: the next one, (batch, n_modes)."""
        if not self.reference.is_dual or self.problem.is_linear:
            return torch.zeros(len(z), v.shape[1], dtype=torch.float64)
        states = torch.stack([centre.state for centre in self.reference.centres])
        which = self.reference.nearest(self.problem.prior.standardise(z))
        x = self.reference.whole[self.problem.free_dofs]
        return torch.from_numpy((x @ states[which].numpy().T).T @ v)


class _Trial:
    """V, and its slices, which stay in the cache while a sparse matrix is multiplied by them."""

    def __init__(self, v: Tensor, is_symmetric: bool) -> None:
        self.v, self._is_symmetric = v, is_symmetric
        self._slices = [part.contiguous() for part in v.split(_COLUMNS, dim=1)]

    def tested(self, k: Tensor, w: Tensor) -> Tensor:
        """W^T K V; where it is V^T K V of a symmetric K, from its upper triangle."""
        found, n = w.new_zeros(w.shape[1], self.v.shape[1]), 0
        for part in self._slices:
            columns = slice(n, n := n + part.shape[1])
            rows = slice(n) if self._is_symmetric else slice(None)
            found[rows, columns] = w[:, rows].T @ (k @ part)
        return found.triu() + found.triu(1).T if self._is_symmetric else found


def _tested(r: Tensor, tests: list[Tensor], which: Tensor) -> Tensor:
    """W_k^T r, (batch, n_modes)."""
    if len(tests) == 1:
        return r @ tests[0]
    return torch.stack([own @ tests[k] for own, k in zip(r, which, strict=True)])
