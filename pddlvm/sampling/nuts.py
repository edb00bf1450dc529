"""No-U-turn sampling (Hoffman and Gelman, 2014), chains side by side and independent.

A trajectory doubles, at random forwards or backwards, until it turns: until the sum of its momenta,
less half of those at its ends, points backwards at one end (Betancourt, 2017, A.4.2). Its points
are drawn by their densities. Trees grow leaf by leaf; the momenta at which a subtree began are all
that is kept of it (Phan, Pradhan and Jankowiak, 2019).

Gradients of all chains are computed together, and no chain waits for the slowest: those whose
trajectories have turned begin the next, as soon as they are half of all. Pyro runs one chain after
the other, and none that jumps between modes.

Where the density of trajectories leaves something out, p = p~ exp(left out), a draw x' is accepted
with probability

    min(1, p(x') p~(x) / (p(x) p~(x')))

which samples p (surrogate transitions: Liu, 2001, 9.4.3).
"""

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
_TOGETHER = 0.5
"""Share of the chains whose trajectories have to end before what these leave out is computed."""


@torch.no_grad()
def nuts(
    target: Target,
    start: Tensor,
    step: Tensor,
    n_draws: int,
    generator: torch.Generator,
    *,
    watch: Watch = nobody,
) -> Tensor:
    """Draws of w, (n_chains, n_draws, d).

    Args:
        target: a density that is about standard at each of its modes.
        start: where the chains begin, (n_chains, d).
        step: sizes to begin with, (n_chains,).
        n_draws: per chain.
        generator: of everything random.
        watch: is told the share that is done.
    """
    n, total, d = len(start), _N_WARMUP + n_draws, start.shape[1]
    here, left_out = start_at(target, start).clone(), target.left_out(start).clone()
    size, n_done = StepSize(step), torch.zeros(n, dtype=torch.long)
    draws = start.new_empty(n, total, d)
    trees = _Trees(n, d)
    trees.begin(torch.arange(n), target, jumped(target, here, generator), generator)
    while (n_done < total).any():
        steps = torch.where(n_done < _N_WARMUP, size.current, size.final)
        trees.grow(target, steps, generator)
        rows = (~trees.is_alive & (n_done < total)).nonzero()[:, 0]
        if len(rows) < _TOGETHER * int((n_done < total).sum()):
            continue
        # What the trajectories that have ended drew is held against all of the density.
        own, drawn, before = target.of(rows), trees.drawn.take(rows), left_out[rows]
        after = own.left_out(drawn.w)
        # A chain may start where p is zero, and leaves.
        gain = torch.where(before == -torch.inf, 0.0, after - before)
        taken = torch.rand(len(rows), generator=generator, dtype=gain.dtype).log() < gain
        here.put(rows, drawn.where(taken, here.take(rows)))
        left_out[rows] = torch.where(taken, after, before)
        draws[rows, n_done[rows]] = here.w[rows]
        is_cold = n_done[rows] < _N_WARMUP
        size.update(trees.acceptance[rows[is_cold]], rows[is_cold])
        n_done[rows] += 1
        watch(float(n_done.sum()) / (n * total))
        rows = rows[n_done[rows] < total]
        if len(rows):
            own = target.of(rows)
            trees.begin(rows, own, jumped(own, here.take(rows), generator), generator)
    return draws[:, _N_WARMUP:]


class _Trees:
    """Trajectories of n chains, each with the subtree that it grows.

    `drawn` is the point drawn so far, (n, ...), and `weight` the log of the sum of weights; those
    of the subtree have names that begin with `new`. `begins` are the momenta at which subtrees of
    two, four, ... leaves began, and the sum of momenta there, (n, depth, d).
    """

    def __init__(self, n: int, d: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(n, *shape, dtype=torch.float64)

        def state() -> State:
            return State(zeros(d), zeros(), zeros(d))

        self.region, self.factor, self.energy = zeros().long(), zeros(d, d), zeros()
        self.left, self.right, self.end = (_End(zeros(d), zeros(d), zeros(d)) for _ in range(3))
        self.drawn, self.weight, self.momentum = state(), zeros(), zeros(d)
        self.new_drawn, self.new_weight, self.new_momentum = state(), zeros(), zeros(d)
        self.begins = zeros(_MAX_DEPTH, d), zeros(_MAX_DEPTH, d)
        self.depth, self.n_leaves = zeros().long(), zeros().long()
        self.gain, self.n_points = zeros(), zeros()
        self.is_forwards, self.is_alive = zeros().bool(), zeros().bool()

    @property
    def acceptance(self) -> Tensor:
        """Mean acceptance probabilities along the trajectories, (n,)."""
        return self.gain / self.n_points

    def begin(self, rows: Tensor, target: Target, state: State, generator: torch.Generator) -> None:
        """New trajectories of some chains."""
        p = torch.randn(state.w.shape, generator=generator, dtype=state.w.dtype)
        self.region[rows] = region = target.region(state.w)
        self.factor[rows] = target.factor(region)
        self.energy[rows] = state.value - 0.5 * p.square().sum(-1)
        for end in (self.left, self.right, self.end):
            end.put(rows, _End(state.w, p, state.gradient))
        self.drawn.put(rows, state)
        self.weight[rows], self.momentum[rows] = 0.0, p
        self.gain[rows], self.n_points[rows], self.depth[rows] = 0.0, 0.0, 0
        self.is_alive[rows] = True
        self._sprout(rows, generator)

    def _sprout(self, rows: Tensor, generator: torch.Generator) -> None:
        """New subtrees of some chains, from the ends of their trajectories."""
        self.is_forwards[rows] = torch.rand(len(rows), generator=generator) < 0.5
        self.new_weight[rows], self.new_momentum[rows], self.n_leaves[rows] = -torch.inf, 0.0, 0

    def grow(self, target: Target, step: Tensor, generator: torch.Generator) -> None:
        """A leaf more of each subtree."""
        signed = torch.where(self.is_forwards, step, -step)[:, None]
        end = self.end
        w, p, value, gradient = leapfrog(target, self.factor, signed, end.w, end.p, end.gradient)
        change = value - 0.5 * p.square().sum(-1) - self.energy
        grows = self.is_alive & (change > -_MAX_ENERGY) & (target.region(w) == self.region)
        self.n_points = self.n_points + self.is_alive
        self.gain = self.gain + torch.where(grows, change.clamp(max=0).exp(), 0.0)
        self.end = _End(w, p, gradient).where(grows, end)
        self.new_momentum = self.new_momentum + torch.where(grows[:, None], p, 0.0)
        weight = torch.logaddexp(self.new_weight, change)
        self.new_weight = torch.where(grows, weight, self.new_weight)
        draw = torch.rand(len(w), generator=generator, dtype=w.dtype).log()
        is_drawn = grows & (draw < change - weight)
        self.new_drawn = State(w, value, gradient).where(is_drawn, self.new_drawn)
        sound = grows & ~self._subtree_turns()
        self.n_leaves = self.n_leaves + 1
        whole = (sound & (self.n_leaves == 2**self.depth)).nonzero()[:, 0]
        ended = self.is_alive & ~sound
        if len(whole):
            ended[whole] = self._joined(whole, generator)
        self.is_alive = self.is_alive & ~ended
        self.n_leaves = torch.where(self.is_alive, self.n_leaves, 0)

    def _subtree_turns(self) -> Tensor:
        """Does a subtree that ends with this leaf turn? (n,)."""
        first, before = self.begins
        level, is_odd = _ONES[self.n_leaves >> 1], (self.n_leaves & 1).bool()
        even = (~is_odd).nonzero()[:, 0]
        first[even, level[even]] = self.end.p[even]
        before[even, level[even]] = self.new_momentum[even]
        # Those of 2, 4, ... leaves that end here: as many as its number has binary ones at the end.
        lowest = level - _ENDING[self.n_leaves] + 1
        levels = torch.arange(_MAX_DEPTH)
        ends = is_odd[:, None] & (levels <= level[:, None]) & (levels >= lowest[:, None])
        momentum = self.new_momentum[:, None] - before + first
        return (ends & _turns(first, self.end.p[:, None], momentum)).any(1)

    def _joined(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Take in the subtrees of some chains; whether their trajectories end so, (n_rows,)."""
        forwards = self.is_forwards[rows]
        for side, own in ((self.right, rows[forwards]), (self.left, rows[~forwards])):
            side.put(own, self.end.take(own))
        # Later points are preferred: those of the new half as a whole, by its weight.
        weight, new_weight = self.weight[rows], self.new_weight[rows]
        draw = torch.rand(len(rows), generator=generator, dtype=weight.dtype).log()
        taken = rows[draw < new_weight - weight]
        self.drawn.put(taken, self.new_drawn.take(taken))
        self.weight[rows] = torch.logaddexp(weight, new_weight)
        self.momentum[rows] += self.new_momentum[rows]
        self.depth[rows] += 1
        ends = _turns(self.left.p[rows], self.right.p[rows], self.momentum[rows])
        ends |= self.depth[rows] == _MAX_DEPTH
        self._sprout(rows[~ends], generator)
        self.end.put(rows, self.right.where(self.is_forwards, self.left).take(rows))
        return ends


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

    def take(self, rows: Tensor) -> "_End":
        """Those of some chains."""
        return _End(self.w[rows], self.p[rows], self.gradient[rows])

    def put(self, rows: Tensor, other: "_End") -> None:
        """Have some chains end where others do."""
        self.w[rows], self.p[rows], self.gradient[rows] = other.w, other.p, other.gradient


def _turns(first: Tensor, last: Tensor, momentum: Tensor) -> Tensor:
    """Does a trajectory with momenta at its ends (..., d), and their sum, turn? (...,)."""
    inner = momentum - 0.5 * (first + last)
    return ((first * inner).sum(-1) <= 0) | ((last * inner).sum(-1) <= 0)


_LEAVES = range(2 ** (_MAX_DEPTH - 1))
_ONES = torch.tensor([k.bit_count() for k in _LEAVES])
"""Binary ones of a number: the subtrees that have begun and not ended before this leaf."""
_ENDING = torch.tensor([(~k & (k + 1)).bit_length() - 1 for k in _LEAVES])
"""Binary ones at its end."""
