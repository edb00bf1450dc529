"""Hamiltonian Monte Carlo for many chains at once.

    w, p ~ exp(log p(w)) N(p; 0, I)
    p += eps/2 L^T grad,   (w += eps L p,   p += eps L^T grad) n times, ...

L standardises the mode where a chain is, so that the mass is the identity and a trajectory of a
quarter of a period has length pi / 2; lengths are drawn around it, the same for all chains. Before
each trajectory a chain may jump to another mode. Steps follow acceptance probabilities by dual
averaging (Hoffman and Gelman, 2014, algorithm 5).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.sampling.target import Target

__all__ = ["State", "StepSize", "jumped", "leapfrog", "start_at", "transition"]

_LENGTH = math.pi / 2
_MAX_STEPS = 128
_ACCEPTANCE = 0.8
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
_MAX_ENERGY = 1000.0


@dataclass(frozen=True)
class State:
    """Where the chains are: w (n_chains, d), log density (n_chains,) and its gradient."""

    w: Tensor
    value: Tensor
    gradient: Tensor

    def where(self, taken: Tensor, other: "State") -> "State":
        """This state for the chains that are taken (n_chains,), the other for the rest."""
        return State(
            torch.where(taken[:, None], self.w, other.w),
            torch.where(taken, self.value, other.value),
            torch.where(taken[:, None], self.gradient, other.gradient),
        )

    def take(self, rows: Tensor) -> "State":
        """Those of some chains."""
        return State(self.w[rows], self.value[rows], self.gradient[rows])

    def put(self, rows: Tensor, other: "State") -> None:
        """Have some chains be where others are."""
        self.w[rows], self.value[rows], self.gradient[rows] = other.w, other.value, other.gradient

    def clone(self) -> "State":
        """The same in memory of its own."""
        return State(self.w.clone(), self.value.clone(), self.gradient.clone())


class StepSize:
    """Dual averaging of log eps, for each of a batch.

    It is drawn to the first sizes, which are good guesses here: where all chains are rejected at a
    first step that is ten times as large, those that follow are a thousand times too small.

    Args:
        initial: the first ones, (...,).
    """

    def __init__(self, initial: Tensor) -> None:
        self.centre, self.log_step = initial.log(), initial.log()
        self.log_mean = torch.zeros_like(initial)
        self.error = torch.zeros_like(initial)
        self.count = torch.zeros_like(initial)

    def update(self, acceptance: Tensor, rows: Tensor | slice = slice(None)) -> None:
        """Follow the acceptance probabilities of one transition, of some of the batch."""
        self.count[rows] += 1
        count = self.count[rows]
        weight = 1 / (count + _T0)
        error = (1 - weight) * self.error[rows] + weight * (_ACCEPTANCE - acceptance)
        log_step = self.centre[rows] - count.sqrt() / _GAMMA * error
        share = count**-_KAPPA
        self.log_mean[rows] = share * log_step + (1 - share) * self.log_mean[rows]
        self.error[rows], self.log_step[rows] = error, log_step

    @property
    def current(self) -> Tensor:
        """The steps while adapting."""
        return self.log_step.exp()

    @property
    def final(self) -> Tensor:
        """The averaged steps."""
        return torch.where(self.count > 0, self.log_mean, self.log_step).exp()


def start_at(target: Target, w: Tensor) -> State:
    """Chains at w (n_chains, d)."""
    return State(w, *target.value_and_gradient(w))


def jumped(target: Target, state: State, generator: torch.Generator) -> State:
    """The chains after a try to jump to other modes."""
    w = target.jump(state.w, generator)
    moved = (w != state.w).any(-1)
    return start_at(target, w).where(moved, state) if moved.any() else state


def leapfrog(
    target: Target, factor: Tensor, step: Tensor, w: Tensor, p: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of w and p (n_chains, d), and the log density and its gradient where it ends."""
    p = p + 0.5 * step * (factor.mT @ gradient[..., None])[..., 0]
    w = w + step * (factor @ p[..., None])[..., 0]
    value, gradient = target.value_and_gradient(w)
    return w, p + 0.5 * step * (factor.mT @ gradient[..., None])[..., 0], value, gradient


def transition(
    target: Target, state: State, step: Tensor, generator: torch.Generator
) -> tuple[State, Tensor]:
    """One trajectory of each chain: the new state and the acceptance probabilities (n_chains,).

    Args:
        target: what the chains sample.
        state: where they are.
        step: of each, (n_chains,), or of all of them.
        generator: of everything random.
    """
    draw = torch.rand((), generator=generator, dtype=torch.float64)
    n_steps = (_LENGTH * (0.5 + draw) / step).round().clamp(1, _MAX_STEPS).expand(len(state.w))
    step = step.expand(len(state.w))[:, None]
    state = jumped(target, state, generator)
    region = target.region(state.w)
    factor = target.factor(region)
    p = torch.randn(state.w.shape, generator=generator, dtype=state.w.dtype)
    start = state.value - 0.5 * p.square().sum(-1)
    now, lost = state.clone(), torch.zeros(len(p), dtype=torch.bool)
    for k in range(int(n_steps.max())):
        rows = ((k < n_steps) & ~lost).nonzero()[:, 0]
        if not len(rows):
            break
        own, at = target.of(rows), now.take(rows)
        w, p[rows], value, gradient = leapfrog(
            own, factor[rows], step[rows], at.w, p[rows], at.gradient
        )
        now.put(rows, State(w, value, gradient))
        gain = value - 0.5 * p[rows].square().sum(-1) - start[rows]
        # A trajectory that left the region where steps are stable is rejected, and waits.
        lost[rows] = ~(gain > -_MAX_ENERGY) | (own.region(w) != region[rows])
    gain = now.value - 0.5 * p.square().sum(-1) - start
    probability = torch.where(lost, 0.0, gain.clamp(max=0).exp())
    uniform = torch.rand(len(p), generator=generator, dtype=p.dtype)
    return now.where(uniform < probability, state), probability
