"""Random walks for densities without a gradient, chains side by side.

    w' = w + s L e,   e ~ N(0, I),    accepted with   min(1, p(w') / p(w))

While they warm up, L L^T is the covariance of what all chains have visited (Haario, Saksman and
Tamminen, 2001), and s follows an acceptance of 0.3 (Robbins and Monro, 1951); then both stay.
"""

import math

import torch
from torch import Tensor

from pddlvm.sampling.target import Target

__all__ = ["random_walk"]

_ACCEPTANCE = 0.3
_OPTIMAL = 2.38
_WINDOW = 50
_PULL = 5.0
_FLOOR = 1e-8


@torch.no_grad()
def random_walk(
    target: Target, start: Tensor, n_warmup: int, n_draws: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Draws of w, (n_chains, n_draws, d), and the share of proposals that was accepted.

    Args:
        target: a density; its gradient is not asked for.
        start: where the chains begin, (n_chains, d), of positive density.
        n_warmup: steps before the draws.
        n_draws: per chain.
        generator: of everything random.
    """
    n, d = start.shape
    w, value = start, target.value(start)
    factor, log_step = torch.eye(d, dtype=w.dtype), math.log(_OPTIMAL / math.sqrt(d))
    visited, accepted = [w], 0.0
    for k in range(n_warmup + n_draws):
        e = torch.randn(n, d, generator=generator, dtype=w.dtype)
        proposal = w + math.exp(log_step) * e @ factor.T
        proposed = target.value(proposal)
        probability = (proposed - value).clamp(max=0).exp()
        taken = torch.rand(n, generator=generator, dtype=w.dtype) < probability
        w = torch.where(taken[:, None], proposal, w)
        value = torch.where(taken, proposed, value)
        visited.append(w)
        if k >= n_warmup:
            accepted += float(taken.double().mean()) / n_draws
            continue
        log_step += (float(probability.mean()) - _ACCEPTANCE) / (k + 1) ** 0.6
        if (k + 1) % _WINDOW == 0:
            factor = _factor(torch.stack(visited[(k + 1) // 2 :]).flatten(0, 1))
    return torch.stack(visited[n_warmup + 1 :], dim=1), accepted


def _factor(draws: Tensor) -> Tensor:
    """L of the covariance of draws (n, d), pulled to its diagonal where they are few."""
    n, d = draws.shape
    covariance = torch.cov(draws.T).reshape(d, d)
    weight = _PULL * d / (n + _PULL * d)
    pulled = (1 - weight) * covariance + weight * covariance.diagonal().diag()
    return torch.linalg.cholesky(pulled + _FLOOR * torch.eye(d, dtype=draws.dtype))
