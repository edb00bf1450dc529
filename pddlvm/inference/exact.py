"""Sampling the posterior under the finite element likelihood.

Delayed acceptance (Christen and Fox, 2005; Liu, 2001, section 9.4.3): some trajectories on the
surrogate density s, accepted with

    min(1, p(w') s(w) / (p(w) s(w'))),     p the finite element density,

cost one solve for each sample, and are exact whatever s is. Where the tail of p / s is heavy
(k-hat above 0.7) the surrogate is no help: then Hamiltonian Monte Carlo with adjoint gradients,
from the surrogate or from the Laplace approximation of the finite element posterior, whichever is
likelier; the coordinates are standardised anew by the draws of all chains as they warm up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.inference.finite_element_density import FiniteElementPosterior, FiniteElementTarget
from pddlvm.inference.surrogate_density import Standardised
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.explore import STEP, begin, dispersed, explore
from pddlvm.sampling.hmc import start_at, transition
from pddlvm.sampling.local import Parts
from pddlvm.sampling.statistics import khat

__all__ = ["Exact", "exact", "hamiltonian"]

_KHAT = 0.7
_INNER = 4
_N_STARTS = 64
_ENOUGH_WARMUP, _MOST_WARMUP = 300, 500
_WINDOWS = (0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Exact:
    """Draws of one posterior.

    Attributes:
        xi: (n_chains, n_draws, d).
        acceptance: mean probability with which the finite element density accepts.
        khat: of the surrogate density, from solves at a few of its draws.
    """

    xi: Tensor
    acceptance: float
    khat: float


@torch.no_grad()
def exact(
    posterior: FiniteElementPosterior,
    surrogate: Standardised | None,
    own: Callable[[], tuple[list[Coordinates], Tensor]],
    n_chains: int,
    n_draws: int,
    generator: torch.Generator,
) -> Exact:
    """Chains on the finite element density, helped by the surrogate where it is close enough.

    Args:
        posterior: the finite element density.
        surrogate: that of the trained map; None where its own maximum was not found.
        own: gives the modes of the finite element density and their masses, where needed.
        n_chains: side by side.
        n_draws: per chain; some hundred more adapt the chains where the surrogate is no help.
        generator: of everything random.
    """
    shape, starts = math.inf, []
    if surrogate is not None:
        charts, w = surrogate.target, surrogate.w
        modes = charts.local.coordinates
        target = _charts(posterior, [modes.of(k) for k in range(len(modes.centre))], len(w))
        density = target.value(w)
        shape = khat(density - charts.value(w))
        if shape < _KHAT:
            charts, start = dispersed(charts, w, n_chains, generator)
            target = target.on(charts.which)
            found = _delayed(target, charts, start, surrogate.step, n_draws, generator)
            return Exact(*found, shape)
        starts.append((float(density.median()), target, w))
    own_modes, masses = own()
    target = _charts(posterior, own_modes, _N_STARTS)
    target, w = begin(target, [masses], _N_STARTS, generator)
    starts.append((float(target.value(w).median()), target, w))
    _, target, w = max(starts, key=lambda start: start[0])
    target, start = dispersed(target, w, n_chains, generator)
    n_warmup = min(_MOST_WARMUP, max(min(n_draws, _ENOUGH_WARMUP), n_draws // 2))
    return Exact(*hamiltonian(target, start, n_warmup, n_draws, generator), shape)


def _charts(
    posterior: FiniteElementPosterior, modes: Sequence[Coordinates], n_chains: int
) -> Charts:
    return Charts.of_parts([FiniteElementTarget(posterior, one) for one in modes], n_chains)


def _delayed(
    target: Charts,
    surrogate: Charts,
    w: Tensor,
    step: Tensor,
    n_draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    state, value = start_at(surrogate, w), target.value(w)
    found, accepted = [], []
    # The chains start at draws of the surrogate and have nothing to adapt.
    n_warmup = n_draws // 10 + 1
    for k in range(n_warmup + n_draws):
        proposal = state
        for _ in range(_INNER):
            proposal, _ = transition(surrogate, proposal, step, generator)
        proposed = target.value(proposal.w)
        gain = (proposed - value) - (proposal.value - state.value)
        probability = gain.clamp(max=0).exp()
        taken = torch.rand(len(w), generator=generator, dtype=w.dtype) < probability
        value = torch.where(taken, proposed, value)
        state = proposal.where(taken, state)
        if k >= n_warmup:
            found.append(state.w)
            accepted.append(probability.mean())
    xi = target.coordinates.xi_of(torch.stack(found, dim=1))
    return xi, float(torch.stack(accepted).mean())


@torch.no_grad()
def hamiltonian(
    target: Charts,
    w: Tensor,
    n_warmup: int,
    n_draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Hamiltonian Monte Carlo from eta w (n_chains, d): xi (n_chains, n_draws, d), acceptance."""
    step = w.new_full((1,), STEP / w.shape[1] ** 0.25)
    for share in _WINDOWS:
        n_steps = max(2, round(share * n_warmup))
        visited, step = explore(target, w, n_steps, generator, step)
        # The second half of a window, of all chains, standardises the next one.
        recent, w = visited[n_steps // 2 :], visited[-1]
        assert isinstance(target.local, Parts)
        parts = target.local.targets
        for part, new in zip(parts, target.standardised(recent), strict=True):
            part.coordinates = new or part.coordinates
        target = Charts.of_parts(parts, len(w))
    visited, step = explore(target, w, max(10, n_warmup // 10), generator, step)
    state = start_at(target, visited[-1])
    found, accepted = [], []
    for _ in range(n_draws):
        state, probability = transition(target, state, step, generator)
        found.append(state.w)
        accepted.append(probability.mean())
    xi = target.coordinates.xi_of(torch.stack(found, dim=1))
    return xi, float(torch.stack(accepted).mean())
