"""First draws of a density with modes, and the step size with which chains move there.

Many chains side by side cost little more than one. They start at the Gaussians of the modes, in all
of them, and move where the density is narrow, too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, nobody
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.hmc import StepSize, start_at, transition
from pddlvm.sampling.target import Target

__all__ = ["begin", "cautious", "dispersed", "explore"]

_STEP = 0.3
_STUCK, _WEIGHT = 0.05, 3.0


def begin(target: Charts, masses: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draws eta (n, d) of the Gaussians of the modes, in turn by their masses (n_modes,)."""
    d = target.centres.shape[1]
    of = torch.searchsorted(masses.cumsum(0), (torch.arange(n) + 0.5).to(masses) / n)
    of = of.clamp(max=len(masses) - 1)
    w = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return target.centres[of] + (target.factors[of] @ w[..., None])[..., 0]


def dispersed(target: Charts, w: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Of draws w, n that begin in all modes in turn: chains that do not mix then disagree."""
    region = target.region(w)
    rows = torch.randperm(len(w), generator=generator)
    present = region.unique()
    turns = [rows[region[rows] == k] for k in present]
    return torch.stack(
        [w[turns[i % len(turns)][i // len(turns) % len(turns[i % len(turns)])]] for i in range(n)]
    )


@torch.no_grad()
def explore(
    target: Target,
    w: Tensor,
    n_steps: int,
    generator: torch.Generator,
    step: float = _STEP,
    acceptance: Callable[[Tensor], Tensor] = torch.mean,
    watch: Watch = nobody,
) -> tuple[Tensor, float]:
    """Chains from w (n_chains, d), (n_steps, n_chains, d), and the step size they settle on.

    Args:
        target: what they sample.
        w: where they start.
        n_steps: transitions of each.
        generator: of everything random.
        step: the first one.
        acceptance: what the step follows, of the acceptance probabilities (n_chains,).
        watch: is told the share that is done.
    """
    state, size, visited = start_at(target, w), StepSize(step), []
    for k in range(n_steps):
        state, probability = transition(target, state, size.current, generator)
        size.update(float(acceptance(probability)))
        visited.append(state.w)
        watch((k + 1) / n_steps)
    return torch.stack(visited), size.final


def cautious(probability: Tensor) -> Tensor:
    """The mean, less where chains cannot move: 0.8 may hide that a fifth of them are stuck."""
    return probability.mean() - _WEIGHT * (probability < _STUCK).double().mean()
