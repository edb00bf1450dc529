"""The reference march, A0 = Ta x M + Tb x K0, K0 the stiffness at the centre of the prior.

    A0 e = r,     step by step: (Ta_kk M + Tb_kk K0) e_k = r_k - sum_{j<k} (Ta_kj M + Tb_kj K0) e_j

A0^{-1} R is an estimate of an error, as K0^{-1} r is one of steady problems. One factorisation for
each pair of diagonal entries serves all right-hand sides.
"""

from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from pddlvm.linalg.factorisation import Factorisation
from pddlvm.transient.marching import combined
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.assembly import Assembler

__all__ = ["ReferenceMarch"]

Array = NDArray[np.float64]


class ReferenceMarch:
    """A0 on the free degrees of freedom.

    Args:
        problem: linear, in time.

    Attributes:
        problem: the same.
        mass: M, (n_free, n_free).
        stiffness: K0, (n_free, n_free).
    """

    def __init__(self, problem: TransientProblem) -> None:
        steady, free = problem.steady, problem.steady.free_dofs
        self.problem = problem
        centre = steady.prior.unstandardise(torch.zeros(1, steady.n_parameters).double())
        operators = steady.discretisation(torch.float64, torch.device("cpu"))
        zero = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
        assembler = Assembler(steady.form.terms, np.arange(problem.n_dofs), problem.n_dofs)
        whole = assembler([part[0] for part in operators.tangents(zero, centre)])
        self.stiffness = sp.csr_matrix(whole.tocsr()[free][:, free])
        self.mass = sp.csr_matrix(problem.mass[free][:, free])

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
