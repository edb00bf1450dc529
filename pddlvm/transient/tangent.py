"""Derivatives of the steps along one trajectory: a banded matrix of matrices.

    (J v)_k = sum_j (Ta_kj M + Tb_kj K_j) v_j,      K_j = dr/du (u_j, z, t_j)

J v = b goes forwards in time, J^T l = b backwards. Factors of one step serve others as long as each
use of them takes what is missing down tenfold.
"""

from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg.factorisation import Factorisation, NotPositiveError, SingularMatrixError
from pddlvm.transient.marching import combined
from pddlvm.transient.schemes import Scheme
from pddlvm.transient.terms import MovingTerms
from pddlvm.weak.problem import Problem

__all__ = ["Tangent"]

Array = NDArray[np.float64]

_TOLERANCE = 1e-10
_CONTRACTION = 0.1


class Tangent:
    """J on the free degrees of freedom, float64; columns of right-hand sides go side by side.

    Args:
        problem: the steady one.
        scheme: of the steps.
        mass: M, on all degrees of freedom.
        terms: of the steady problem.
        states: of the trajectory, history first, (h + N, n_dofs).
        rows: z of the steady problem at their times, (h + N, d).
    """

    def __init__(
        self,
        problem: Problem,
        scheme: Scheme,
        mass: sp.csr_matrix,
        terms: MovingTerms,
        states: Tensor,
        rows: Tensor,
    ) -> None:
        self._problem, self._scheme, self._terms = problem, scheme, terms
        self._mass = sp.csr_matrix(mass[problem.free_dofs][:, problem.free_dofs])
        self._states, self._rows = states, rows
        h = scheme.n_history
        self._ta, self._tb = (sp.csr_matrix(t.tocsc()[:, h:]) for t in (scheme.ta, scheme.tb))
        self._kept: dict[tuple[float, float], Factorisation] = {}

    def forwards(self, b: Array) -> Array:
        """J^{-1} b, (N, n_free, k).

        Raises:
            ConvergenceError: the matrix of a step is singular.
        """
        v, kv = np.zeros_like(b), np.zeros_like(b)
        for step in range(len(b)):
            # This step and those to come are zero so far.
            known = self._mass @ combined(self._ta, step, v) + combined(self._tb, step, kv)
            k = self._stiffness(step)
            v[step] = self._solve(step, k, b[step] - known, "N")
            kv[step] = k @ v[step]
        return v

    def backwards(self, b: Array) -> Array:
        """J^{-T} b, (N, n_free, k).

        Raises:
            ConvergenceError: the matrix of a step is singular.
        """
        found = np.zeros_like(b)
        ta, tb = self._ta.T.tocsr(), self._tb.T.tocsr()
        for step in reversed(range(len(b))):
            k = self._stiffness(step)
            known = self._mass.T @ combined(ta, step, found) + k.T @ combined(tb, step, found)
            found[step] = self._solve(step, k, b[step] - known, "T")
        return found

    def _solve(self, step: int, k: sp.csc_matrix, b: Array, trans: str) -> Array:
        of_m, of_k = pair = self._pairs[step]
        matrix = (of_m * self._mass + of_k * k).tocsc()
        applied = matrix.T if trans == "T" else matrix
        x, missing = np.zeros_like(b), self._balanced(b)
        size = left = np.linalg.norm(missing)
        is_new = False
        while left > _TOLERANCE * size:
            if pair not in self._kept:
                self._kept[pair], is_new = self._factorise(matrix, step), True
            better = x + self._kept[pair].solve(np.ascontiguousarray(missing), trans)
            missing = self._balanced(b - applied @ better)
            before, left = left, np.linalg.norm(missing)
            if left < before:
                x = better
            if not left <= _CONTRACTION * before:
                if is_new:
                    break
                del self._kept[pair]
                missing = self._balanced(b - applied @ x)
        return x

    def _factorise(self, matrix: sp.csc_matrix, step: int) -> Factorisation:
        form = self._problem.form
        try:
            return form.factorise(matrix, symmetric=form.is_symmetric)
        except (SingularMatrixError, NotPositiveError) as error:
            raise ConvergenceError(
                f"the matrix of the step at t = {self._scheme.times[step]:g}: {error}"
            ) from error

    def _balanced(self, r: Array) -> Array:
        """Without what a constraint takes up, (n_free, k)."""
        return self._terms.operators.balanced(torch.from_numpy(r).T).T.contiguous().numpy()

    def _stiffness(self, step: int) -> sp.csc_matrix:
        if self._same is not None:
            return self._same
        at = self._scheme.n_history + step
        return self._problem.solver.matrix(self._states[at], self._rows[at])

    @cached_property
    def _same(self) -> sp.csc_matrix | None:
        """K, where it is the same at all times."""
        if not self._terms.is_linear:
            return None
        asked = torch.from_numpy(self._scheme.asked)
        tangents = self._terms.stiffness(self._rows[asked])
        return None if tangents is None else self._problem.solver.assembler(tangents)

    @cached_property
    def _pairs(self) -> list[tuple[float, float]]:
        return [(of_m, of_k) for of_m, of_k in self._scheme.diagonals.tolist()]
