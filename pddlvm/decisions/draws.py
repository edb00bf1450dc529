"""Draws of the prior that fill it evenly, in groups that know nothing of each other.

    xi = F^-1(t),     t a net of Sobol, scrambled: E over scrambles of mean g(xi) is E g

The means of groups differ by what each is wrong: their spread is the error of the mean of all.
"""

import torch
from scipy.stats import qmc
from torch import Tensor

from pddlvm.parameters.space import ParameterSpace

__all__ = ["N_GROUPS", "even_draws", "normal_of"]

N_GROUPS = 8
_INSIDE = 1e-12
"""How far from 0 and 1 levels stay."""


def even_draws(prior: ParameterSpace, n: int, seed: int) -> Tensor:
    """At least n draws xi, (n_groups, n_each, d), n_each a power of two."""
    log_each = max(0, -(-n // N_GROUPS) - 1).bit_length()
    groups = []
    for i in range(N_GROUPS):
        net = qmc.Sobol(prior.size, scramble=True, rng=seed * N_GROUPS + i)
        groups.append(torch.from_numpy(net.random_base2(log_each)))
    return prior.from_normal(normal_of(torch.stack(groups)))


def normal_of(levels: Tensor) -> Tensor:
    """Standard normal numbers of levels between 0 and 1."""
    return torch.special.ndtri(levels.clamp(_INSIDE, 1 - _INSIDE))
