"""Where a rare event happens: a mixture of Gaussians close to the density of eta given the event.

    p*(eta) ~ N(eta; 0, I) Phi(m(eta) / s),      m > 0: the event, s the error of m
    q_t+1 = fit of N(eta; 0, I) Phi(m / sigma_t) by draws of q_t with weights,  sigma_t -> s

The improved cross-entropy method (Papaioannou, Geyer and Straub, Struct. Saf. 76, 2019): sigma
falls as far as the weights allow, until they need no smoothing more. A mixture finds events in
several places. Of the last density a tenth is wider than the prior: weights of places that were
missed stay of a size that an interval sees.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError

__all__ = ["Mixture", "most_likely"]

_N_DRAWS, _MAX_LEVELS = 4000, 30
_VARIATION = 1.5
"""Of weights, standard deviation over mean, that a level may have."""
_N_PARTS, _N_STEPS = 3, 15
_LEAST_SHARE = 0.02
_SHORT, _FLOOR = 1e-9, 1e-9
"""Length of a mean without a direction, and a variance that no part is below."""
_HALVINGS = 50
_WIDER, _SHARE_WIDER = 1.5, 0.1


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(mean_k, L_k L_k^T), (k,), (k, d), (k, d, d)."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    @classmethod
    def standard(cls, d: int) -> "Mixture":
        """N(0, I)."""
        one = torch.eye(d, dtype=torch.float64)
        return cls(one.new_ones(1), one.new_zeros(1, d), one[None])

    def with_wider(self) -> "Mixture":
        """With a part that is wider than N(0, I)."""
        wide = Mixture.standard(self.means.shape[1])
        return Mixture(
            torch.cat([(1 - _SHARE_WIDER) * self.weights, _SHARE_WIDER * wide.weights]),
            torch.cat([self.means, wide.means]),
            torch.cat([self.factors, _WIDER * wide.factors]),
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws, (n, d)."""
        part = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        e = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[part] + (self.factors[part] @ e[..., None])[..., 0]

    def log_parts(self, eta: Tensor) -> Tensor:
        """log w_k N(eta; ...), (n, d) -> (n, k)."""
        found = []
        for weight, mean, factor in zip(self.weights, self.means, self.factors, strict=True):
            white = torch.linalg.solve_triangular(factor, (eta - mean).T, upper=False)
            size = factor.diagonal().log().sum()
            found.append(weight.log() - size - 0.5 * white.square().sum(0))
        return torch.stack(found, dim=1) - 0.5 * eta.shape[1] * math.log(2 * math.pi)

    def log_prob(self, eta: Tensor) -> Tensor:
        """Log density, (n,)."""
        return self.log_parts(eta).logsumexp(1)

    def log_weight(self, eta: Tensor) -> Tensor:
        """log N(eta; 0, I) / q(eta), (n,)."""
        return Mixture.standard(eta.shape[1]).log_prob(eta) - self.log_prob(eta)


def most_likely(
    margin: Callable[[Tensor], Tensor], s: float, start: Mixture, generator: torch.Generator
) -> Mixture:
    """A mixture close to the density of eta given the event.

    Args:
        margin: m, (n, d) -> (n,).
        s: its error, positive.
        start: the first density, `Mixture.standard(d)` where nothing is known.
        generator: of the draws.

    Raises:
        ConvergenceError: no place was found where the event happens.
    """
    mixture, sigma = start, math.inf
    for _ in range(_MAX_LEVELS):
        eta = mixture.sample(_N_DRAWS, generator)
        m, log_w = margin(eta), mixture.log_weight(eta)
        # Wide enough that all weights are alike.
        sigma = _smallest(m, log_w, s, min(sigma, 10 * float(m.abs().max()) + s))
        log_h = log_w + torch.special.log_ndtr(m / sigma)
        if sigma <= s and _variation(log_h) <= _VARIATION:
            return mixture
        mixture = _fit(eta, log_h.softmax(0), generator)
    raise ConvergenceError(
        f"after {_MAX_LEVELS} levels no place was found where the event happens with a probability "
        "that floating-point numbers have; does the quantity reach this value at all?"
    )


def _smallest(m: Tensor, log_w: Tensor, s: float, sigma: float) -> float:
    """The smallest number from s to sigma at which weights vary no more than they may."""

    def is_fine(scale: float) -> bool:
        return _variation(log_w + torch.special.log_ndtr(m / scale)) <= _VARIATION

    if is_fine(s):
        return s
    low, high = math.log(s), math.log(sigma)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_fine(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _variation(log_h: Tensor) -> float:
    h = (log_h - log_h.amax()).exp()
    return float(h.std() / h.mean())


def _fit(eta: Tensor, share: Tensor, generator: torch.Generator) -> Mixture:
    """A mixture by expectation and maximisation, of draws (n, d) with shares (n,)."""
    d = eta.shape[1]
    size = float(1 / share.square().sum())
    start = torch.multinomial(share, _N_PARTS, generator=generator)
    one = torch.eye(d, dtype=torch.float64)
    equal = torch.full((_N_PARTS,), 1 / _N_PARTS, dtype=torch.float64)
    found = Mixture(equal, eta[start], one.expand(_N_PARTS, d, d))
    for _ in range(_N_STEPS):
        parts = share[:, None] * found.log_parts(eta).softmax(1)
        kept = parts.sum(0) > _LEAST_SHARE
        parts = parts[:, kept]
        weights = parts.sum(0)
        means = (parts.T @ eta) / weights[:, None]
        away = eta - means[:, None]
        covariances = (away * parts.T[..., None]).mT @ away / weights[:, None, None]
        # As if more draws had that of the prior, but for the direction of the mean.
        along = means / means.norm(dim=1, keepdim=True).clamp(min=_SHORT)
        own = torch.einsum("ki,kij,kj->k", along, covariances, along)
        expected = one + (own - 1)[:, None, None] * along[:, :, None] * along[:, None]
        more = (0.5 * d**2 / (size * weights))[:, None, None]
        covariances = (covariances + more * expected) / (1 + more)
        covariances = covariances + _FLOOR * one
        found = Mixture(weights / weights.sum(), means, torch.linalg.cholesky(covariances))
    return found
