"""Where a surrogate density is, and coordinates in which it is about standard.

Many chains side by side cost little more than one. They start at the Laplace approximation; where
their draws are wider or narrower than it says, the coordinates are standardised by the draws, and
the chains go on. On a surrogate small steps are cheap: the step is one with which chains move where
the density is narrow, too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pddlvm.errors import ConvergenceError
from pddlvm.inference.coordinates import Coordinates
from pddlvm.inference.hmc import StepSize, start_at, transition
from pddlvm.inference.target import SurrogateTarget, Target

__all__ = ["cautious", "explore", "standardise"]

_N_CHAINS = 64
_N_STEPS = 60
_MAX_WINDOWS = 6
_STEP = 0.3
_WIDEST = 1.5
_STUCK, _WEIGHT = 0.05, 3.0


@torch.no_grad()
def standardise(
    target: SurrogateTarget, generator: torch.Generator
) -> tuple[SurrogateTarget, Tensor, float]:
    """The same density in better coordinates, draws w (n_chains, d) of it, and a step size.

    Raises:
        ConvergenceError: no chain is where the density is positive.
    """
    d = len(target.coordinates.centre)
    w = torch.randn(_N_CHAINS, d, generator=generator, dtype=torch.float64)
    visited, step = explore(target, w, _N_STEPS, generator, acceptance=cautious)
    for _ in range(_MAX_WINDOWS):
        # The second half of the window; its spread along each direction is 1 where all is well.
        recent = visited[_N_STEPS // 2 :].flatten(0, 1)
        spread = torch.linalg.eigvalsh(torch.cov(recent.T).reshape(d, d)).clamp(min=1e-12).sqrt()
        if float(spread.max()) < _WIDEST and float(spread.min()) > 1 / _WIDEST:
            break
        here = target.coordinates
        coordinates = Coordinates.of_draws(here.prior, here.eta(recent))
        start = coordinates.w_of(here.xi_of(visited[-1]))
        target = target.moved_to(coordinates, generator)
        visited, step = explore(target, start, _N_STEPS, generator, acceptance=cautious)
    inside = visited[-1][torch.isfinite(target.value(visited[-1]))]
    if len(inside) == 0:
        raise ConvergenceError(
            "no draw has a positive density: the data contradict the model, its noise or its prior"
        )
    return target, inside, step


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
