"""No-U-turn sampling (Hoffman and Gelman, 2014), chains side by side and independent.

A trajectory doubles, at random forwards or backwards, until it turns: until the sum of its momenta,
less half of those at its ends, points backwards at one end (Betancourt, 2017, A.4.2). Its points
are drawn by their densities. Each chain has momenta, directions and turns of its own: one that has
turned waits for the others, whose gradients are computed together. Trees grow leaf by leaf; the
momenta at which a subtree began are all that is kept of it (Phan, Pradhan and Jankowiak, 2019).
Pyro runs one chain after the other, and none that jumps between modes.

Where the density of trajectories leaves something out, p = p~ exp(left out), a draw x' is accepted
with probability

    min(1, p(x') p~(x) / (p(x) p~(x')))

which samples p (surrogate transitions: Liu, 2001, 9.4.3).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, nobody
from pddlvm.sampling.hmc import State, StepSize, jumped, leapfrog, start_at
from pddlvm.sampling.target import Target

__all__ = ["nuts"]

_N_WARMUP = 50
_MAX_DEPTH = 8
"""2^8 gradients a draw at most: where that is too few, R-hat says so within reasonable time."""
_MAX_ENERGY = 1000.0


@torch.no_grad()
def nuts(
    target: Target,
    start: Tensor,
    step: float,
    n_draws: int,
    generator: torch.Generator,
    *,
    watch: Watch = nobody,
) -> Tensor:
    """Draws of w, (n_chains, n_draws, d).

    Args:
        target: a density that is about standard at each of its modes.
        start: where the chains begin, (n_chains, d).
        step: size to begin with.
        n_draws: per chain.
        generator: of everything random.
        watch: is told the share that is done.
    """
    state, size, draws = start_at(target, start), StepSize(step), []
    left_out = target.left_out(start)
    for k in range(_N_WARMUP + n_draws):
        is_warm = k >= _N_WARMUP
        here = jumped(target, state, generator)
        here, acceptance = _draw(target, here, size.final if is_warm else size.current, generator)
        left_out_here = target.left_out(here.w)
        # A chain may start where p is zero, and leaves.
        gain = torch.where(left_out == -torch.inf, 0.0, left_out_here - left_out)
        draw = torch.rand(gain.shape, generator=generator, dtype=gain.dtype).log()
        state = here.where(draw < gain, state)
        left_out = torch.where(draw < gain, left_out_here, left_out)
        if is_warm:
            draws.append(state.w)
        else:
            size.update(float(acceptance.mean()))
        watch((k + 1) / (_N_WARMUP + n_draws))
    return torch.stack(draws, dim=1)


@dataclass
class _End:
    """Of a trajectory: position, momentum and gradient of each chain, (n_chains, d)."""

    w: Tensor
    p: Tensor
    gradient: Tensor

    def where(self, taken: Tensor, other: "_End") -> "_End":
        """This end for the chains that are taken (n_chains,), the other for the rest."""
        pairs = ((self.w, other.w), (self.p, other.p), (self.gradient, other.gradient))
        return _End(*(torch.where(taken[:, None], a, b) for a, b in pairs))


@dataclass
class _Tree:
    """Points of trajectories: the one drawn, log of the sum of weights, sum of momenta.

    `is_sound`: it neither turned nor was lost; `gain`: sums of acceptance probabilities.
    """

    drawn: State
    log_weight: Tensor
    momentum: Tensor
    end: _End
    is_sound: Tensor
    gain: Tensor
    n_points: Tensor


def _draw(
    target: Target, state: State, step: float, generator: torch.Generator
) -> tuple[State, Tensor]:
    """The next state, and mean acceptance probabilities along the trajectories, (n_chains,)."""
    n = len(state.w)
    p = torch.randn(state.w.shape, generator=generator, dtype=state.w.dtype)
    energy = state.value - 0.5 * p.square().sum(-1)
    left = right = _End(state.w, p, state.gradient)
    log_weight, momentum = torch.zeros_like(energy), p
    gain, n_points = torch.zeros_like(energy), torch.zeros_like(energy)
    grows = torch.ones(n, dtype=torch.bool)
    for depth in range(_MAX_DEPTH):
        forwards = torch.rand(n, generator=generator) < 0.5
        signed = torch.where(forwards, step, -step).to(p)[:, None]
        begin = right.where(forwards, left)
        tree = _subtree(target, begin, signed, depth, energy, grows, generator)
        gain, n_points = gain + tree.gain, n_points + tree.n_points
        grows = tree.is_sound
        right = tree.end.where(grows & forwards, right)
        left = tree.end.where(grows & ~forwards, left)
        # Later points are preferred: those of the new half as a whole, by its weight.
        draw = torch.rand(n, generator=generator, dtype=p.dtype).log()
        state = tree.drawn.where(grows & (draw < tree.log_weight - log_weight), state)
        log_weight = torch.where(grows, torch.logaddexp(log_weight, tree.log_weight), log_weight)
        momentum = momentum + torch.where(grows[:, None], tree.momentum, 0.0)
        grows = grows & ~_turns(left.p, right.p, momentum)
        if not grows.any():
            break
    return state, gain / n_points


def _subtree(
    target: Target,
    end: _End,
    step: Tensor,
    depth: int,
    energy: Tensor,
    grows: Tensor,
    generator: torch.Generator,
) -> _Tree:
    """2^depth more points beyond an end, for the chains that grow."""
    region = target.region(end.w)
    factor = target.factor(region)
    n_points = gain = torch.zeros_like(energy)
    log_weight, momentum = torch.full_like(energy, -torch.inf), torch.zeros_like(end.p)
    drawn = State(end.w, energy, end.gradient)
    begins: list[tuple[Tensor, Tensor]] = []
    for k in range(2**depth):
        w, p, value, gradient = leapfrog(target, factor, step, end.w, end.p, end.gradient)
        change = value - 0.5 * p.square().sum(-1) - energy
        inside = (change > -_MAX_ENERGY) & (target.region(w) == region)
        n_points = n_points + grows
        gain = gain + torch.where(grows & inside, change.clamp(max=0).exp(), 0.0)
        grows = grows & inside
        end = _End(w, p, gradient).where(grows, end)
        momentum = momentum + torch.where(grows[:, None], p, 0.0)
        log_weight = torch.where(grows, torch.logaddexp(log_weight, change), log_weight)
        draw = torch.rand(len(w), generator=generator, dtype=w.dtype).log()
        drawn = State(w, value, gradient).where(grows & (draw < change - log_weight), drawn)
        if k % 2 == 0:
            # Where subtrees of two, four, ... points begin.
            begins.append((end.p, momentum))
        else:
            # Those that end here, the smallest first.
            for first, before in begins[-_n_ending(k) :][::-1]:
                grows = grows & ~_turns(first, end.p, momentum - before + first)
            del begins[len(begins) - _n_ending(k) + 1 :]
        if not grows.any():
            break
    return _Tree(drawn, log_weight, momentum, end, grows, gain, n_points)


def _n_ending(k: int) -> int:
    """Subtrees of 2, 4, ... points that end with point k: as many as its binary ones at the end."""
    return int(math.log2((k + 1) & -(k + 1)))


def _turns(first: Tensor, last: Tensor, momentum: Tensor) -> Tensor:
    """Does a trajectory with momenta at its ends, and their sum, turn? (n_chains,)."""
    inner = momentum - 0.5 * (first + last)
    return ((first * inner).sum(-1) <= 0) | ((last * inner).sum(-1) <= 0)
