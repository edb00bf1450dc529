"""Calibrated variances of trajectories.

    c:          var = factor^2 exp(2 log |c| + 2 log rho + shift + 2 s(xi, log rho))
    rest of u:  var = factor^2 exp(2 log |c| + 2 s(xi)) shape(t, x)

for three levels: the map as it is, whose rho is that of each query, and its two corrections, where
rho is one. The shape of the rest is kept for a few groups of steps.
"""

import numpy as np
import torch
from torch import Tensor

from pddlvm.latent.uncertainty import Uncertainty
from pddlvm.trajectory.fields import number_of_field
from pddlvm.transient.problem import TransientProblem

__all__ = ["N_LEVELS", "TrajectoryUncertainty"]

N_LEVELS = 3
_N_GROUPS = 50


class TrajectoryUncertainty(Uncertainty):
    """Variance models and factors of both maps.

    Args:
        problem: in time.
        p: length of c.
        dtype: of everything.
    """

    rest_shape: Tensor
    group: Tensor

    def __init__(self, problem: TransientProblem, p: int, dtype: torch.dtype) -> None:
        nothing = np.zeros(0, dtype=np.int64)
        several = len(problem.fields_of_u) > 1
        field_of = number_of_field(problem) if several else None
        super().__init__(problem.prior, p, 1, nothing, dtype, field_of, n_levels=N_LEVELS)
        n_groups = min(_N_GROUPS, problem.n_times)
        shape = torch.zeros(N_LEVELS, n_groups, problem.n_dofs, dtype=dtype)
        self.register_buffer("rest_shape", shape)
        steps = torch.arange(problem.n_times)
        self.register_buffer("group", steps * n_groups // problem.n_times)

    def rest_of(self, level: int, time: Tensor, dof: Tensor) -> Tensor:
        """The shape at pairs of steps and degrees of freedom, (n,)."""
        return self.rest_shape[level, self.group[time], dof]

    def fit_rest(self, level: int, squares: Tensor) -> None:
        """Take the shape from mean squares at all steps, (N, n_dofs)."""
        whole = torch.zeros(self.rest_shape.shape[1:], dtype=squares.dtype)
        counts = torch.bincount(self.group.cpu()).to(squares)
        whole.index_add_(0, self.group.cpu(), squares)
        self.rest_shape[level] = (whole / counts[:, None]).to(self.rest_shape)
