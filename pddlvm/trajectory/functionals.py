"""Linear functionals of trajectories: what their rows see of the modes, and of what these leave.

    l = H u,     l(u) = H V Phi a + H lift,     cov l = F F^T + H diag(rest) H^T
    F = H S V Phi diag(std_a),   S the spread of each field of u

The rows of H are at pairs of a time and a degree of freedom; between the steps a trajectory is
linear in time. H V Phi has the size of the sensors: it is made once, and a query is one product.
"""

from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.linalg.low_rank import LowRank, columns_of
from pddlvm.trajectory.fields import number_of_field
from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.uncertainty import TrajectoryUncertainty

__all__ = ["Functionals", "KeptFunctionals"]

_MOST = 8
"""Functionals that are kept."""


class Functionals:
    """Those of some rows.

    Args:
        modes: Phi.
        at: from the steps to the times, (n_times, N).
        rows: H, (n, n_times n_dofs).
    """

    def __init__(self, modes: Modes, at: sp.csr_matrix, rows: sp.csr_matrix) -> None:
        self.modes, n_dofs = modes, modes.steps.problem.n_dofs
        self._rows, touched = columns_of(rows)
        self._seen = touched % n_dofs
        # Each pair of a time and a dof is a sum over steps.
        steps = at[(touched // n_dofs).numpy()].tocoo()
        self._pair, self._step = (
            torch.from_numpy(x.astype(np.int64)) for x in (steps.row, steps.col)
        )
        self._weight, self._dof = torch.from_numpy(steps.data), self._seen[self._pair]
        self._of_steps = sp.csr_matrix(self._rows[:, steps.row] @ sp.diags(steps.data))

    def values(self, a: Tensor) -> Tensor:
        """H V Phi a of coefficients a (batch, p), (batch, n)."""
        return a @ self.of_modes.T

    def values_of_states(self, c: Tensor) -> Tensor:
        """H V c of trajectories c in the shapes, (batch, N, m) -> (batch, n)."""
        v = self.modes.steps.at_dofs(self._dof)
        seen = torch.einsum("bjm,jm->bj", c[:, self._step], v)
        return torch.from_numpy(self._of_steps @ seen.numpy().T).T

    @cached_property
    def of_modes(self) -> Tensor:
        """H V Phi, (n, p)."""
        return self._of_fields.sum(0)

    @cached_property
    def of_lift(self) -> Tensor:
        """H of the Dirichlet values L_r at each step, (n, N, R)."""
        steps = self.modes.steps
        n_times, n_lifts = len(self.modes.phi), len(steps.lifts)
        found = torch.zeros(self._rows.shape[0], n_times, n_lifts, dtype=torch.float64)
        for r, lift in enumerate(steps.lifts[:, self._dof].numpy()):
            own = (self._of_steps @ sp.diags(lift)).tocoo()
            at = torch.from_numpy(own.row.astype(np.int64)), self._step[own.col]
            found[..., r].index_put_(at, torch.from_numpy(own.data), accumulate=True)
        return found

    def lifted(self, b: Tensor) -> Tensor:
        """H lift of Dirichlet values b at the steps, (batch, N, R) -> (batch, n)."""
        return torch.einsum("bkr,nkr->bn", b, self.of_lift)

    def error(
        self, uncertainty: TrajectoryUncertainty, level: int, var_a: Tensor, scale: Tensor
    ) -> LowRank:
        """Their covariance, of variances of a (batch, p) and scales of the rest (batch,)."""
        spread = uncertainty.spread(level).double().cpu()
        spread = spread.expand(self.modes.steps.problem.n_dofs)
        first = [dofs.start for dofs in self.modes.steps.problem.fields_of_u.values()]
        factor = torch.einsum("f,fnp->np", spread[first], self._of_fields)
        at_steps = uncertainty.rest_of(level, self._step, self._dof).double().cpu()
        rest = torch.zeros(len(self._seen), dtype=torch.float64)
        rest.index_add_(0, self._pair, self._weight * at_steps)
        rest = spread[self._seen] ** 2 * rest
        return LowRank(factor * var_a.sqrt()[:, None], self._rows, scale[:, None] ** 2 * rest)

    @cached_property
    def _of_fields(self) -> Tensor:
        """H V Phi, of each field of u its part, (n_fields, n, p)."""
        steps, phi = self.modes.steps, self.modes.phi
        number = number_of_field(steps.problem)[self._dof.numpy()]
        at_modes = torch.empty(len(self._step), phi.shape[2], dtype=torch.float64)
        for k in self._step.unique():
            own = (self._step == k).nonzero()[:, 0]
            at_modes[own] = steps.at_dofs(self._dof[own]) @ phi[k]
        found = []
        for i in range(len(steps.problem.fields_of_u)):
            own_field = sp.diags((number == i).astype(np.float64))
            found.append(torch.from_numpy(self._of_steps @ (own_field @ at_modes.numpy())))
        return torch.stack(found)


class KeptFunctionals:
    """Functionals of some modes, kept for the rows that are asked for again.

    Rows are known by their numbers: a matrix that has been written to is another one.

    Args:
        modes: Phi.
    """

    def __init__(self, modes: Modes) -> None:
        self._modes = modes
        self._kept: dict[tuple[object, ...], Functionals] = {}

    def of(self, times: NDArray[np.float64], at: sp.csr_matrix, rows: sp.csr_matrix) -> Functionals:
        """Those of rows (n, n_times n_dofs) at times, of which `at` interpolates the steps."""
        key = (
            times.tobytes(),
            rows.shape,
            *(x.tobytes() for x in (rows.data, rows.indices, rows.indptr)),
        )
        if key not in self._kept:
            if len(self._kept) == _MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = Functionals(self._modes, at, rows)
        return self._kept[key]
