"""Answers of problems in time beside reference solutions, at some of their many values.

A hundred trajectories need not be held at once: errors are summed up few draws at a time, and error
bars are compared at random pairs of a step and a degree of freedom.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.prediction import symmetric_interval
from pddlvm.trajectory.model import TrajectoryMaps

__all__ = ["SeenValues", "seen_values"]

_N_PAIRS, _AT_ONCE = 2000, 8
_SEED = 4


@dataclass(frozen=True)
class SeenValues:
    """An answer and the solutions at pairs of a step and a free degree of freedom.

    Attributes:
        mean, std, true: (n_samples, n_pairs).
        shape: of single errors.
        relative: |u - mean| / |u| of whole trajectories, root mean squares of their values, (n,).
        relative_norm: the same in the norm of the model.
    """

    mean: Tensor
    std: Tensor
    true: Tensor
    shape: ErrorShape
    relative: Tensor
    relative_norm: Tensor

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central intervals, (n_samples, n_pairs) each."""
        return symmetric_interval(self.mean, self.std, self.shape, level)


def seen_values(model: TrajectoryMaps, z: Tensor, u: Tensor, corrections: int) -> SeenValues:
    """Those of parameters z (n, d) with solutions u (n, n_times, n_dofs)."""
    generator = generator_of(_SEED)
    free = torch.from_numpy(model.problem.steady.free_dofs)
    step = torch.randint(model.problem.n_times, (_N_PAIRS,), generator=generator)
    dof = free[torch.randint(len(free), (_N_PAIRS,), generator=generator)]
    parts = []
    for at, true in zip(z.split(_AT_ONCE), u.split(_AT_ONCE), strict=True):
        found = model.forward(at, corrections=corrections)
        error = found.mean - true
        relative = error.flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
        norm = model.norm(error) / model.norm(true)
        values = (x[:, step, dof] for x in (found.mean, found.std, true))
        parts.append((*values, relative, norm))
    mean, std, seen, relative, norm = (torch.cat(part) for part in zip(*parts, strict=True))
    return SeenValues(mean, std, seen, found.shape, relative, norm)
