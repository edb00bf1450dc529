"""The reference march, A0 = Ta x M + Tb x K0, K0 the stiffness at the centre of the prior.

    A0 e = r,     step by step: (Ta_kk M + Tb_kk K0) e_k = r_k - sum_{j<k} (Ta_kj M + Tb_kj K0) e_j

Of a nonlinear problem K0 is the mean in time of tangents along a rough trajectory: that of one
march with the tangent at the initial state.

A0^{-1} R is an estimate of an error, as K0^{-1} r is one of steady problems. One factorisation for
each pair of diagonal entries serves all right-hand sides.
"""

from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.linalg.factorisation import Factorisation
from pddlvm.trajectory.fields import norm_matrix, number_of_field, without_mass
from pddlvm.transient.marching import combined
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.assembly import Assembler

__all__ = ["ReferenceMarch", "held_states", "states_of"]

Array = NDArray[np.float64]

_N_ROUGH, _NOTHING = 4, 1e-10
"""Draws that sizes are those of; a field that is zero has that of the largest."""


class ReferenceMarch:
    """A0 on the free degrees of freedom.

    Args:
        problem: in time.

    Attributes:
        problem: the same.
        mass: M, (n_free, n_free).
        stiffness: K0, (n_free, n_free).
        sizes: of the fields, (n_fields,); one where there is one alone.
        norm: X, (n_free, n_free).
    """

    def __init__(self, problem: TransientProblem) -> None:
        steady, free = problem.steady, problem.steady.free_dofs
        self.problem = problem
        self.mass = sp.csr_matrix(problem.mass[free][:, free])
        centre = steady.prior.unstandardise(torch.zeros(1, steady.n_parameters).double())
        if problem.is_linear:
            zero = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
            self.stiffness = self._mean_stiffness(zero, centre, torch.ones(1).double())
        else:
            self._linearise()
        self.sizes = self._sizes()
        self.norm = sp.csr_matrix(norm_matrix(problem, self.sizes)[free][:, free])

    def _linearise(self) -> None:
        """K0 of a nonlinear problem."""
        problem, free = self.problem, self.problem.steady.free_dofs
        z = problem.prior.unstandardise(torch.zeros(problem.n_parameters).double())
        rows, weights = problem.state_rows(z), torch.from_numpy(problem.scheme.weights)
        h = problem.scheme.n_history
        u = held_states(problem, z)
        self.stiffness = self._mean_stiffness(u[h - 1 : h], rows[h - 1 : h], weights[:1])
        e = self.solve(problem.residual(u[h:], z).numpy()[..., None])[..., 0]
        del self._factors
        u[h:, torch.from_numpy(free)] -= torch.from_numpy(e)
        self.stiffness = self._mean_stiffness(u[h:], rows[h:], weights)

    def _sizes(self) -> Tensor:
        """Of rough trajectories of a few draws, on the free degrees of freedom."""
        problem, fields = self.problem, self.problem.fields_of_u.values()
        if len(fields) == 1:
            return torch.ones(1, dtype=torch.float64)
        free, h = torch.from_numpy(problem.steady.free_dofs), problem.scheme.n_history
        gram, total = problem.space.gram_matrices()[0], torch.zeros(len(fields)).double()
        for z in problem.prior.sample((_N_ROUGH,), seed=0):
            u = held_states(problem, z)[h:]
            e = self.solve(problem.residual(u, z).numpy()[..., None])[..., 0]
            inside = np.zeros(u.shape)
            inside[:, free.numpy()] = u[:, free].numpy() - e
            squares = problem.scheme.weights @ (inside * (gram @ inside.T).T)
            total += torch.tensor([squares[own].sum() for own in fields])
        sizes = (total / _N_ROUGH).sqrt()
        return torch.where(sizes > _NOTHING * sizes.max(), sizes, sizes.max())

    def _mean_stiffness(self, u: Tensor, rows: Tensor, weights: Tensor) -> sp.csr_matrix:
        """K on the free degrees of freedom, of states (n, n_dofs) by their weights (n,)."""
        problem = self.problem
        steady, free = problem.steady, problem.steady.free_dofs
        operators = steady.discretisation(torch.float64, torch.device("cpu"))
        total: list[Tensor] | None = None
        for part in torch.arange(len(u)).split(steady.solver.chunk):
            own = [
                torch.tensordot(weights[part] / weights.sum(), tangents, dims=1)
                for tangents in operators.tangents(u[part], rows[part])
            ]
            total = own if total is None else [a + b for a, b in zip(total, own, strict=True)]
        assert total is not None
        assembler = Assembler(steady.form.terms, np.arange(problem.n_dofs), problem.n_dofs)
        return sp.csr_matrix(assembler(total).tocsr()[free][:, free])

    def solve(self, r: Array) -> Array:
        """A0^{-1} r, (N, n_free, batch)."""
        scheme = self.problem.scheme
        h = scheme.n_history
        ta, tb = (t.tocsc()[:, h:].tocsr() for t in (scheme.ta, scheme.tb))
        e = np.zeros_like(r)
        for step, pair in enumerate(scheme.diagonals.tolist()):
            # This step and those to come are zero so far.
            b = r[step] - self.mass @ combined(ta, step, e)
            seen = combined(tb, step, e)
            if seen.any():
                b = b - self.stiffness @ seen
            e[step] = self._factors[tuple(pair)].solve(np.ascontiguousarray(b))
        return e

    def tests_of(self, x: Array) -> Array:
        """(M / T + K0)^{-1} K0 x in the fields with a mass, of x (n_free, k) in the others."""
        has_mass = self._with_mass
        right = np.zeros(x.shape)
        right[has_mass] = self._of_tests.solve(np.ascontiguousarray((self.stiffness @ x)[has_mass]))
        return right

    @cached_property
    def _with_mass(self) -> NDArray[np.int64]:
        number = number_of_field(self.problem)[self.problem.steady.free_dofs]
        return np.flatnonzero(~np.isin(number, without_mass(self.problem)))

    @cached_property
    def _of_tests(self) -> Factorisation:
        own, stepping = self._with_mass, self.problem.stepping
        matrix = self.stiffness + self.mass / (stepping.end - stepping.start)
        solver = self.problem.linear_solver
        return solver.factorise(sp.csc_matrix(matrix[own][:, own]), symmetric=False, many=True)

    @cached_property
    def _factors(self) -> dict[tuple[float, float], Factorisation]:
        form = self.problem.steady.form
        return {
            (of_m, of_k): form.factorise(
                (of_m * self.mass + of_k * self.stiffness).tocsc(),
                symmetric=form.is_symmetric,
                many=True,
            )
            for of_m, of_k in map(tuple, np.unique(self.problem.scheme.diagonals, axis=0))
        }


def held_states(problem: TransientProblem, z: Tensor) -> Tensor:
    """The initial state at all times, with their Dirichlet values, (d,) -> (h + N, n_dofs)."""
    free = torch.from_numpy(problem.steady.free_dofs)
    start = problem.history(z)[-1, free]
    return states_of(problem, z, start.expand(problem.n_times, -1))


def states_of(problem: TransientProblem, z: Tensor, inside: Tensor) -> Tensor:
    """All states of one trajectory, history first, (h + N, n_dofs).

    Args:
        problem: in time.
        z: its parameters, (d,).
        inside: the free degrees of freedom at the steps, (N, n_free).
    """
    operators = problem.steady.discretisation(torch.float64, torch.device("cpu"))
    rows, h = problem.state_rows(z), problem.scheme.n_history
    states = operators.lift(rows if problem.reads_time else rows[:1]).expand(len(rows), -1).clone()
    states[:h] = problem.history(z)
    states[h:, operators.free] = inside
    return states
