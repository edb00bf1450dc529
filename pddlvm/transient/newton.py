"""Nonlinear problems, step by step, by Newton's method from the states before.

    F(u) = Ta_kk M u + Tb_kk r(u, z, t_k) + sum_{j<k} (Ta_kj M u_j + Tb_kj r_j) = 0

It starts at u_{k-1}, or on the line through u_{k-2} and u_{k-1} where |F| is less there. Factors
are kept from step to step as long as each use of them takes |F| down tenfold. Samples go side by
side: a batch of residuals costs little more than one.
"""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg.factorisation import Factorisation, NotPositiveError, SingularMatrixError
from pddlvm.transient.schemes import Scheme
from pddlvm.weak.problem import Problem

__all__ = ["NewtonStepper"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_RELATIVE_RESIDUAL = 1e-11
_RELATIVE_STEP = 1e-12
_MAX_ITERATIONS = 40
_MAX_HALVINGS = 10
_CONTRACTION = 0.1
"""Of |F| by old factors, above which they are made anew."""


class NewtonStepper:
    """Newton's method in each step.

    Args:
        problem: the steady one.
        scheme: of the steps.
        mass: M, on all degrees of freedom.
    """

    def __init__(self, problem: Problem, scheme: Scheme, mass: sp.csr_matrix) -> None:
        self._problem, self._scheme = problem, scheme
        self._operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self._free = problem.free_dofs
        self._mass = sp.csr_matrix(mass[self._free])
        self._own_mass = self._mass[:, self._free].tocsc()

    def march(self, u: Array, rows: Tensor, numbers: Index) -> None:
        """Fill in the free degrees of freedom of all states but the history.

        Args:
            u: history, and prescribed values of all states, (h + N, n, n_dofs).
            rows: z of the steady problem at the times of all states, (h + N, n, d).
            numbers: of the samples, for messages, (n,).

        Raises:
            ConvergenceError: no solution of a step was found.
        """
        scheme, free, h = self._scheme, self._free, self._scheme.n_history
        r = np.zeros((*u.shape[:2], len(free)))
        for j in scheme.asked[scheme.asked < h]:
            r[j] = self._residual(u[j], rows[j])
        kept: list[Factorisation | None] = [None] * u.shape[1]
        for step, coefficients in enumerate(scheme.diagonals.tolist()):
            k = h + step
            known = self._times_mass(_before(scheme.ta, step, u, k))
            known += _before(scheme.tb, step, r, k)
            one = _Step(self, rows[k], known, coefficients, numbers, float(scheme.times[step]))
            guess = u[k].copy()
            guess[:, free] = u[k - 1][:, free]
            state = one.at(guess)
            if step > 1:
                q = scheme.weights[step] / scheme.weights[step - 1]
                guess[:, free] += q * (u[k - 1] - u[k - 2])[:, free]
                state = state.better(one.at(guess))
            state = one.solve(state, kept)
            u[k], r[k] = state.u, state.r

    def _times_mass(self, u: Array) -> Array:
        """M u on the free degrees of freedom, (n, n_dofs) -> (n, n_free)."""
        return np.ascontiguousarray((self._mass @ u.T).T)

    def _residual(self, u: Array, rows: Tensor) -> Array:
        found: Array = self._operators.residual(torch.from_numpy(u), rows).numpy()
        return found

    def _factorise(
        self, u: Array, z: Tensor, coefficients: list[float], where: str
    ) -> Factorisation:
        problem, (of_m, of_k) = self._problem, coefficients
        own = problem.solver.matrix(torch.from_numpy(u), z)
        try:
            return problem.form.factorise(
                (of_m * self._own_mass + of_k * own).tocsc(), symmetric=problem.form.is_symmetric
            )
        except (SingularMatrixError, NotPositiveError) as error:
            raise ConvergenceError(f"the matrix of {where}: {error}") from error


class _States:
    """u with its r, F and |F|, of some samples."""

    def __init__(self, u: Array, r: Array, f: Array) -> None:
        self.u, self.r, self.f = u, r, f
        with np.errstate(over="ignore", invalid="ignore"):
            self.norm = np.linalg.norm(f, axis=1)

    def better(self, other: "_States") -> "_States":
        """Of each sample the one whose |F| is less."""
        self.put(np.flatnonzero(other.norm < self.norm), other, other.norm < self.norm)
        return self

    def put(self, index: Index, other: "_States", chosen: NDArray[np.bool_]) -> None:
        """Take some samples from another."""
        for own, new in ((self.u, other.u), (self.r, other.r), (self.f, other.f)):
            own[index] = new[chosen]
        self.norm[index] = other.norm[chosen]


class _Step:
    """F of one step, and its zeros."""

    def __init__(
        self,
        stepper: NewtonStepper,
        rows: Tensor,
        known: Array,
        coefficients: list[float],
        numbers: Index,
        time: float,
    ) -> None:
        self._stepper, self._rows, self._known = stepper, rows, known
        self._coefficients, self._numbers, self._time = coefficients, numbers, time
        self._free = stepper._free

    def at(self, u: Array, which: Index | None = None) -> _States:
        """u (n, n_dofs) of all samples, or of some of them."""
        part: Index | slice = slice(None) if which is None else which
        of_m, of_k = self._coefficients
        r = self._stepper._residual(u, self._rows[part])
        with np.errstate(over="ignore", invalid="ignore"):
            f = of_m * self._stepper._times_mass(u) + of_k * r + self._known[part]
        f = self._stepper._operators.balanced(torch.from_numpy(f)).numpy()
        return _States(u.copy(), r, f)

    def solve(self, state: _States, kept: list[Factorisation | None]) -> _States:
        """Newton's method from a state; factors are taken from, and left in, `kept`."""
        of_m = self._coefficients[0]
        scale = np.linalg.norm(self._known, axis=1)
        scale += of_m * np.linalg.norm(self._stepper._times_mass(state.u), axis=1)
        bad = np.flatnonzero(~np.isfinite(state.norm))
        if len(bad):
            raise ConvergenceError(
                f"the residual of {self._where(bad[0])} is not finite; check the physics at these "
                "parameters"
            )
        active = np.flatnonzero(state.norm > _RELATIVE_RESIDUAL * scale)
        for _ in range(_MAX_ITERATIONS):
            if not len(active):
                return state
            active = self._iterate(state, active, kept)
            active = active[state.norm[active] > _RELATIVE_RESIDUAL * scale[active]]
        raise self._failed(int(active[0]))

    def _iterate(self, state: _States, active: Index, kept: list[Factorisation | None]) -> Index:
        """One step of the active samples, and those of them that have not come to rest."""
        is_new = np.array([kept[i] is None for i in active])
        for i in active[is_new]:
            kept[i] = self._stepper._factorise(
                state.u[i], self._rows[i], self._coefficients, self._where(i)
            )
        change = np.stack([-_of(kept[i]).solve(state.f[i]) for i in active])
        trial = self._moved(state, active, change)
        norm = state.norm[active]
        for halving in range(1, _MAX_HALVINGS):
            worse = np.flatnonzero(is_new & ~(trial.norm < norm))
            if not len(worse):
                break
            shorter = self._moved(state, active[worse], 0.5**halving * change[worse])
            trial.put(worse, shorter, np.ones(len(worse), dtype=bool))
        size = np.linalg.norm(state.u[active][:, self._free], axis=1)
        is_better = trial.norm < norm
        is_still = np.linalg.norm(change, axis=1) <= _RELATIVE_STEP * size
        stuck = active[is_new & ~is_better & ~is_still]
        if len(stuck):
            raise self._failed(int(stuck[0]))
        for i in active[~(trial.norm < _CONTRACTION * norm) & ~is_still]:
            kept[i] = None
        state.put(active[is_better], trial, is_better)
        return active[~is_still]

    def _moved(self, state: _States, which: Index, change: Array) -> _States:
        u = state.u[which]
        u[:, self._free] += change
        return self.at(u, which)

    def _where(self, i: int) -> str:
        return f"sample {self._numbers[i]} at t = {self._time:g}"

    def _failed(self, i: int) -> ConvergenceError:
        return ConvergenceError(
            f"Newton's method did not find the step of {self._where(i)}: take shorter steps (more "
            "of them, or Stepping.graded(...) where the solution changes fast at first), or a "
            "smaller range of the prior"
        )


def _of(factors: Factorisation | None) -> Factorisation:
    assert factors is not None
    return factors


def _before(rows: sp.csr_matrix, step: int, states: Array, k: int) -> Array:
    """sum_{j<k} rows[step, j] states[j]."""
    part = slice(rows.indptr[step], rows.indptr[step + 1])
    columns, data = rows.indices[part], rows.data[part]
    found: Array = np.tensordot(data[columns < k], states[columns[columns < k]], axes=1)
    return found
