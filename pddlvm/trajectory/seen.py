"""Trajectories beside reference solutions, at some of their many values.

A hundred trajectories need not be held at once: errors are summed up few draws at a time, and error
bars are compared at random pairs of a step and a degree of freedom.
"""

from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.prediction import symmetric_interval
from pddlvm.latent.seen import SeenValues
from pddlvm.trajectory.fields import points_of_fields

__all__ = ["seen_values"]

_N_PAIRS, _AT_ONCE = 2000, 8
_SEED = 4


def seen_values(model: Any, z: Tensor, u: Tensor, corrections: int) -> SeenValues:
    """Those of parameters z (n, d) with solutions u (n, n_times, n_dofs)."""
    generator, problem = generator_of(_SEED), model.problem
    free = torch.from_numpy(problem.steady.free_dofs)
    step = torch.randint(problem.n_times, (_N_PAIRS,), generator=generator)
    place, field = points_of_fields(problem, _N_PAIRS, generator)
    dof = free[place]
    parts = []
    for at, true in zip(z.split(_AT_ONCE), u.split(_AT_ONCE), strict=True):
        found = model.forward(at, corrections=corrections)
        error = found.mean - true
        relative = error.flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
        norm = model.norm(error) / model.norm(true)
        values = (x[:, step, dof] for x in (found.mean, found.std, true))
        parts.append((*values, relative, norm))
    mean, std, seen, relative, norm = (torch.cat(part) for part in zip(*parts, strict=True))
    values_of = found.shape.values
    shape = found.shape if values_of.ndim == 1 else ErrorShape(values_of[dof])
    return SeenValues(
        mean=mean,
        std=std,
        true=seen,
        interval=lambda level: symmetric_interval(mean, std, shape, level),
        fields={name: (field == i).nonzero()[:, 0] for i, name in enumerate(problem.fields_of_u)},
        relative=relative,
        relative_norm=norm,
        answer=found,
    )
