"""Nonlinear problems, step by step, by Newton's method from the states before.

    F(u) = Ta_kk M u + Tb_kk r(u, z, t_k) + sum_{j<k} (Ta_kj M u_j + Tb_kj r_j) = 0

It starts at u_{k-1}, or on the line through u_{k-2} and u_{k-1} where |F| is less there. Factors
are kept from step to step as long as each use of them takes |F| down tenfold.
"""

from dataclasses import dataclass

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

_RELATIVE_RESIDUAL = 1e-11
_RELATIVE_STEP = 1e-12
_MAX_ITERATIONS = 40
_MAX_HALVINGS = 10
_CONTRACTION = 0.1
"""Of |F| by old factors, above which they are made anew."""


@dataclass
class _Kept:
    """Factors, and the coefficients of M and K that they are of."""

    coefficients: tuple[float, float]
    factors: Factorisation


class NewtonStepper:
    """Newton's method in each step of one sample.

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

    def march(self, u: Array, rows: Tensor, number: int) -> None:
        """Fill in the free degrees of freedom of all states but the history.

        Args:
            u: history, and prescribed values of all states, (h + N, n_dofs).
            rows: z of the steady problem at the times of all states, (h + N, d).
            number: of the sample, for messages.

        Raises:
            ConvergenceError: no solution of a step was found.
        """
        scheme, free, h = self._scheme, self._free, self._scheme.n_history
        r = np.zeros((len(u), len(free)))
        for j in scheme.asked[scheme.asked < h]:
            r[j] = self._residual(u[j], rows[j])
        kept: _Kept | None = None
        for step, (of_m, of_k) in enumerate(scheme.diagonals.tolist()):
            k = h + step
            known = self._mass @ _before(scheme.ta, step, u, k) + _before(scheme.tb, step, r, k)
            before = u[k - 1, free]
            starts = [before]
            if step > 1:
                q = scheme.weights[step] / scheme.weights[step - 1]
                starts.append(before + q * (before - u[k - 2, free]))
            tried = [self._evaluated(u[k], s, rows[k], known, of_m, of_k) for s in starts]
            state = min(tried, key=lambda s: s.norm)
            where = f"sample {number} at t = {scheme.times[step]:g}"
            if not np.isfinite(state.norm):
                raise ConvergenceError(
                    f"the residual of {where} is not finite; check the physics at these parameters"
                )
            state, kept = self._solve(state, rows[k], known, (of_m, of_k), kept, where)
            u[k], r[k] = state.u, state.r

    def _solve(
        self,
        state: "_State",
        z: Tensor,
        known: Array,
        coefficients: tuple[float, float],
        kept: _Kept | None,
        where: str,
    ) -> tuple["_State", _Kept | None]:
        of_m, of_k = coefficients
        free, scale = (
            self._free,
            np.linalg.norm(known) + of_m * np.linalg.norm(self._mass @ state.u),
        )
        if kept is not None and kept.coefficients != coefficients:
            kept = None
        for _ in range(_MAX_ITERATIONS):
            if state.norm <= _RELATIVE_RESIDUAL * scale:
                return state, kept
            is_new = kept is None
            if kept is None:
                kept = _Kept(coefficients, self._factorise(state.u, z, coefficients, where))
            change = -kept.factors.solve(state.f)
            t = 1.0
            for _ in range(_MAX_HALVINGS):
                trial = self._evaluated(state.u, state.u[free] + t * change, z, known, of_m, of_k)
                if trial.norm < state.norm or not is_new:
                    break
                t /= 2
            is_small = np.linalg.norm(change) <= _RELATIVE_STEP * np.linalg.norm(state.u[free])
            if is_small and np.isfinite(trial.norm):
                return trial if trial.norm < state.norm else state, kept
            is_better = trial.norm < state.norm
            if not trial.norm < _CONTRACTION * state.norm:
                if is_new and not is_better:
                    break
                kept = None
            if is_better:
                state = trial
        raise ConvergenceError(
            f"Newton's method did not find the step of {where}: take shorter steps (more of them, "
            "or Stepping.graded(...) where the solution changes fast at first), or a smaller range "
            "of the prior"
        )

    def _factorise(
        self, u: Array, z: Tensor, coefficients: tuple[float, float], where: str
    ) -> Factorisation:
        problem, (of_m, of_k) = self._problem, coefficients
        own = problem.solver.matrix(torch.from_numpy(u), z)
        try:
            return problem.form.factorise(
                (of_m * self._own_mass + of_k * own).tocsc(), symmetric=problem.form.is_symmetric
            )
        except (SingularMatrixError, NotPositiveError) as error:
            raise ConvergenceError(f"the matrix of {where}: {error}") from error

    def _evaluated(
        self, u: Array, inside: Array, z: Tensor, known: Array, of_m: float, of_k: float
    ) -> "_State":
        u = u.copy()
        u[self._free] = inside
        r = self._residual(u, z)
        f = self._operators.balanced(torch.from_numpy(of_m * (self._mass @ u) + of_k * r + known))
        return _State(u, r, f.numpy(), float(np.linalg.norm(f)))

    def _residual(self, u: Array, z: Tensor) -> Array:
        found: Array = self._operators.residual(torch.from_numpy(u)[None], z[None])[0].numpy()
        return found


@dataclass(frozen=True)
class _State:
    """u with its r, F and |F|."""

    u: Array
    r: Array
    f: Array
    norm: float


def _before(rows: sp.csr_matrix, step: int, states: Array, k: int) -> Array:
    """sum_{j<k} rows[step, j] states[j]."""
    part = slice(rows.indptr[step], rows.indptr[step + 1])
    columns, data = rows.indices[part], rows.data[part]
    found: Array = data[columns < k] @ states[columns[columns < k]]
    return found
