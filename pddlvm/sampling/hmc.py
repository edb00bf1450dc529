"""Hamiltonian Monte Carlo for many chains at once.

    w, p ~ exp(log p(w)) N(p; 0, I)
    p += eps/2 L^T grad,   (w += eps L p,   p += eps L^T grad) n times, ...

L standardises the mode where a chain is, so that the mass is the identity and a trajectory of a
quarter of a period has length pi / 2; lengths are drawn around it, the same for all chains. Before
each trajectory a chain may jump to another mode. The step follows
the acceptance of all chains by dual averaging (Hoffman and Gelman, 2014, algorithm 5).
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


class StepSize:
    """Dual averaging of log eps."""

    def __init__(self, initial: float) -> None:
        self.centre = math.log(10 * initial)
        self.log_step = math.log(initial)
        self.log_mean = 0.0
        self.error = 0.0
        self.count = 0

    def update(self, acceptance: float) -> None:
        """Follow the mean acceptance probability of one transition."""
        self.count += 1
        weight = 1 / (self.count + _T0)
        self.error = (1 - weight) * self.error + weight * (_ACCEPTANCE - acceptance)
        self.log_step = self.centre - math.sqrt(self.count) / _GAMMA * self.error
        share = self.count**-_KAPPA
        self.log_mean = share * self.log_step + (1 - share) * self.log_mean

    @property
    def current(self) -> float:
        """The step while adapting."""
        return math.exp(self.log_step)

    @property
    def final(self) -> float:
        """The averaged step."""
        return math.exp(self.log_mean) if self.count else self.current


def start_at(target: Target, w: Tensor) -> State:
    """Chains at w (n_chains, d)."""
    return State(w, *target.value_and_gradient(w))


def jumped(target: Target, state: State, generator: torch.Generator) -> State:
    """The chains after a try to jump to other modes."""
    w = target.jump(state.w, generator)
    moved = (w != state.w).any(-1)
    return start_at(target, w).where(moved, state) if moved.any() else state


def leapfrog(
    target: Target, factor: Tensor, step: float | Tensor, w: Tensor, p: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of w and p (n_chains, d), and the log density and its gradient where it ends."""
    p = p + 0.5 * step * (factor.mT @ gradient[..., None])[..., 0]
    w = w + step * (factor @ p[..., None])[..., 0]
    value, gradient = target.value_and_gradient(w)
    return w, p + 0.5 * step * (factor.mT @ gradient[..., None])[..., 0], value, gradient


def transition(
    target: Target, state: State, step: float, generator: torch.Generator
) -> tuple[State, Tensor]:
    """One trajectory of each chain: the new state and the acceptance probabilities (n_chains,)."""
    draw = float(torch.rand((), generator=generator, dtype=torch.float64))
    n_steps = min(_MAX_STEPS, max(1, round(_LENGTH * (0.5 + draw) / step)))
    state = jumped(target, state, generator)
    region = target.region(state.w)
    factor = target.factor(region)
    p = torch.randn(state.w.shape, generator=generator, dtype=state.w.dtype)
    start = state.value - 0.5 * p.square().sum(-1)
    w, gradient, value = state.w, state.gradient, state.value
    lost = torch.zeros(len(w), dtype=torch.bool)
    for _ in range(n_steps):
        w, p, value, gradient = leapfrog(target, factor, step, w, p, gradient)
        gain = value - 0.5 * p.square().sum(-1) - start
        # A trajectory that left the region where steps are stable is rejected, and waits.
        lost = lost | ~(gain > -_MAX_ENERGY) | (target.region(w) != region)
        if lost.all():
            break
        w = torch.where(lost[:, None], state.w, w)
        p, gradient = (torch.where(lost[:, None], 0.0, part) for part in (p, gradient))
    probability = torch.where(lost, 0.0, gain.clamp(max=0).exp())
    uniform = torch.rand(len(w), generator=generator, dtype=w.dtype)
    taken = uniform < probability
    return State(w, value, gradient).where(taken, state), probability
