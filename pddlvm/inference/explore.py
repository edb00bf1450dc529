"""Where a surrogate density is, and coordinates in which it is about standard.

Many chains side by side cost little more than one. They start at the Laplace approximation, in all
of its modes; where the draws of a mode are wider or narrower than it says, its coordinates are
standardised by the draws, and the chains go on. On a surrogate small steps are cheap: the step is
one with which chains move where the density is narrow, too.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.inference.charts import Charts
from pddlvm.inference.hmc import StepSize, start_at, transition
from pddlvm.inference.target import SurrogateTarget, Target

__all__ = ["begin", "cautious", "dispersed", "explore", "standardise"]

_N_CHAINS = 64
_N_STEPS = 60
_MAX_WINDOWS = 6
_STEP = 0.3
_WIDEST = 1.5
_STUCK, _WEIGHT = 0.05, 3.0


@torch.no_grad()
def standardise(
    modes: Sequence[SurrogateTarget], masses: Tensor, generator: torch.Generator
) -> tuple[Charts, Tensor, float]:
    """The same density in better coordinates, draws eta (n_chains, d) of it, and a step size.

    Args:
        modes: the density, in the coordinates of each of its modes.
        masses: about those of the modes, (n_modes,).
        generator: of everything random.

    Raises:
        ConvergenceError: no chain is where the density is positive.
    """
    target = Charts(modes)
    start = begin(target, masses, _N_CHAINS, generator)
    visited, step = explore(target, start, _N_STEPS, generator, acceptance=cautious)
    for _ in range(_MAX_WINDOWS):
        # The second half of the window; its spread along each direction is 1 where all is well.
        recent = visited[_N_STEPS // 2 :].flatten(0, 1)
        better = [
            part if here is None else part.moved_to(here, generator)
            for part, here in zip(modes, target.standardised(recent, _WIDEST), strict=True)
        ]
        if all(new is old for new, old in zip(better, modes, strict=True)):
            break
        modes, target = better, Charts(better)
        visited, step = explore(target, visited[-1], _N_STEPS, generator, acceptance=cautious)
    inside = visited[-1][torch.isfinite(target.value(visited[-1]))]
    if len(inside) == 0:
        raise ConvergenceError(
            "no draw has a positive density: the data contradict the model, its noise or its prior"
        )
    return target, inside, step


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
) -> tuple[Tensor, float]:
    """Chains from w (n_chains, d), (n_steps, n_chains, d), and the step size they settle on.

    Args:
        target: what they sample.
        w: where they start.
        n_steps: transitions of each.
        generator: of everything random.
        step: the first one.
        acceptance: what the step follows, of the acceptance probabilities (n_chains,).
    """
    state, size, visited = start_at(target, w), StepSize(step), []
    for _ in range(n_steps):
        state, probability = transition(target, state, size.current, generator)
        size.update(float(acceptance(probability)))
        visited.append(state.w)
    return torch.stack(visited), size.final


def cautious(probability: Tensor) -> Tensor:
    """The mean, less where chains cannot move: 0.8 may hide that a fifth of them are stuck."""
    return probability.mean() - _WEIGHT * (probability < _STUCK).double().mean()
