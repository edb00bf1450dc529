"""First draws of densities with modes, and the step sizes with which chains move there.

Many chains side by side cost little more than one. They start at the Gaussians of the modes, in all
of them, and move where the density is narrow, too.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, nobody
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.hmc import StepSize, start_at, transition
from pddlvm.sampling.target import Target

__all__ = ["STEP", "begin", "cautious", "dispersed", "explore", "mean"]

STEP = 0.3
_STUCK, _WEIGHT = 0.05, 3.0


def mean(probability: Tensor) -> Tensor:
    """Of acceptance probabilities (..., n), (...,)."""
    return probability.mean(-1)


def begin(
    target: Charts, masses: Sequence[Tensor], n: int, generator: torch.Generator
) -> tuple[Charts, Tensor]:
    """n chains of each density, and where they begin, eta (n_densities * n, d).

    Draws of the Gaussians of the modes, in turn by their masses.

    Args:
        target: the densities.
        masses: of the modes of each, (n_modes,).
        n: chains of each.
        generator: of the draws.
    """
    at, mode, first = (torch.arange(n) + 0.5) / n, [], 0
    for own in masses:
        k = torch.searchsorted(own.cumsum(0), at.to(own)).clamp(max=len(own) - 1)
        mode.append(first + k)
        first += len(own)
    of = torch.cat(mode)
    w = torch.randn(len(of), target.centres.shape[1], generator=generator, dtype=torch.float64)
    eta = target.centres[of] + (target.factors[of] @ w[..., None])[..., 0]
    return target.on(torch.arange(len(masses)).repeat_interleave(n)), eta


def dispersed(
    target: Charts, w: Tensor, n: int, generator: torch.Generator
) -> tuple[Charts, Tensor]:
    """n chains of each density, and where they begin: draws w (n_chains, d) of all of its modes.

    They begin in all modes in turn: chains that do not mix then disagree.
    """
    region, found = target.region(w), []
    for k in range(len(target.n_modes)):
        own = (target.which == k).nonzero()[:, 0]
        rows = own[torch.randperm(len(own), generator=generator)]
        turns = [rows[region[rows] == mode] for mode in region[rows].unique()]
        for i in range(n):
            turn = turns[i % len(turns)]
            found.append(turn[i // len(turns) % len(turn)])
    which = torch.arange(len(target.n_modes)).repeat_interleave(n)
    return target.on(which), w[torch.stack(found)]


@torch.no_grad()
def explore(
    target: Target,
    w: Tensor,
    n_steps: int,
    generator: torch.Generator,
    step: Tensor,
    acceptance: Callable[[Tensor], Tensor] = mean,
    watch: Watch = nobody,
) -> tuple[Tensor, Tensor]:
    """Chains from w (n_chains, d), (n_steps, n_chains, d), and the step sizes they settle on.

    Args:
        target: what they sample: one density, or several that have as many chains each.
        w: where they start.
        n_steps: transitions of each.
        generator: of everything random.
        step: the first sizes, one for each density, (n_densities,).
        acceptance: what a step follows, of acceptance probabilities (..., n), (...,); their mean.
        watch: is told the share that is done.
    """
    state, size, visited = start_at(target, w), StepSize(step), []
    for k in range(n_steps):
        steps = size.current.repeat_interleave(len(w) // len(step))
        state, probability = transition(target, state, steps, generator)
        size.update(acceptance(probability.unflatten(0, (len(step), -1))))
        visited.append(state.w)
        watch((k + 1) / n_steps)
    return torch.stack(visited), size.final


def cautious(probability: Tensor) -> Tensor:
    """The mean, less where chains cannot move: 0.8 may hide that a fifth of them are stuck."""
    stuck = (probability < _STUCK).double().mean(-1)
    return (mean(probability) - _WEIGHT * stuck).clamp(min=0.0)
