"""Several modes of a posterior: where searches begin, and which of their ends are the same.

A draw of the prior is a start where none of its neighbours explains the data better (Rinnooy Kan
and Timmer, 1987, with a number of neighbours in the place of a distance). Two ends are one mode
where their distance is small in the metrics of both Laplace approximations, or no valley lies on
the straight way between them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["N_STARTS", "VALLEY", "distinct", "objective", "starts", "value_at"]

N_STARTS = 6
"""Beside the centre."""
_N_DRAWS, _N_TRIED, _N_NEIGHBOURS, _SEED = 256, 4, 8, 0
_IN_CACHE = 2**17
"""Misfits that are formed at once."""
_SAME = 1.0
"""Standard deviations of a mode: two that are closer have a single maximum, or hardly two."""
_WAY = torch.linspace(0, 1, 9, dtype=torch.float64)[1:-1]
VALLEY = 0.5
"""Log density below the lower of two ends: with less they are one."""


@torch.no_grad()
def starts(surrogate: Surrogate, y: Tensor) -> Tensor:
    """Unbounded parameters where searches begin, the centre first, (batch, n_starts, d).

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
    """
    prior, plain = surrogate.prior, Coordinates.plain(surrogate.prior)
    generator = torch.Generator().manual_seed(_SEED)
    xi = prior.sample_standard((_N_DRAWS,), generator=generator).to(y)
    eta, data = plain.eta_of(xi), surrogate.uncorrected().mean(xi)
    error = data[:_N_TRIED] - surrogate.mean(xi[:_N_TRIED])
    # A map that is off by more than the data vary knows nothing: its correction is dear, but looks.
    if not error.square().mean() < data.var(0).mean():
        data = surrogate.mean(xi)
    # Each draw is the first of its own neighbours.
    near = torch.cdist(xi, xi).topk(1 + _N_NEIGHBOURS, largest=False).indices
    chosen = []
    for part in y.split(max(1, _IN_CACHE // data.numel())):
        value = objective(surrogate, part[:, None], eta, data)
        is_best = (value >= value[:, near].amax(-1)) & torch.isfinite(value)
        # By value, those that a neighbour beats after all others.
        order = torch.where(is_best, value, value.clamp(min=-_HUGE) - _HUGE)
        chosen.append(eta[order.topk(N_STARTS).indices])
    first = eta.new_zeros(len(y), 1, prior.size)
    return torch.cat([first, torch.cat(chosen)], dim=1)


def distinct(
    eta: Tensor, value: Tensor, factor: Tensor, log_density: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Which ends of searches are modes, and not one that another search found, (batch, n).

    Args:
        eta: the ends, (batch, n, d).
        value: their log density, (batch, n); -inf for ends that do not count.
        factor: L of the Gaussian N(0, L L^T) at each, (batch, n, d, d).
        log_density: of points (k, d) for the data sets of given numbers (k,), (k,).
    """
    # Of ends that are equally good the first one: rounding does not decide.
    order = (value / _EQUAL).round().argsort(dim=-1, descending=True, stable=True)
    rows = torch.arange(len(order))[:, None]
    eta, value, factor = eta[rows, order], value[rows, order], factor[rows, order]
    # w[b, s, t]: from s to t in the metric of s.
    change = (eta[:, None] - eta[:, :, None]).mT
    squares = torch.linalg.solve_triangular(factor, change, upper=False).square().sum(-2)
    # That of a flat one sees no distance at all: the sharper one decides.
    is_same = torch.maximum(squares, squares.mT) < _SAME**2
    kept = torch.zeros_like(value, dtype=torch.bool)
    for t in range(value.shape[1]):
        counts = torch.isfinite(value[:, t])
        asked = kept & ~is_same[:, :, t] & counts[:, None] & ~(kept & is_same[:, :, t]).any(1, True)
        of, s = asked.nonzero(as_tuple=True)
        if len(of):
            way = _WAY[:, None, None] * eta[of, t] + (1 - _WAY[:, None, None]) * eta[of, s]
            lowest = log_density(of.repeat(len(_WAY)), way.flatten(0, 1))
            lowest = lowest.reshape(len(_WAY), -1).amin(0)
            is_same[of, s, t] = ~(lowest < value[of, t] - VALLEY)
        kept[:, t] = counts & ~(kept & is_same[:, :, t]).any(1)
    return torch.zeros_like(kept).scatter(1, order, kept)


def objective(surrogate: Surrogate, y: Tensor, eta: Tensor, data: Tensor) -> Tensor:
    """log p(y | eta) + log p(eta) with predicted data, (batch,)."""
    prior = Coordinates.plain(surrogate.prior).log_prior(eta)
    value = surrogate.observation.noise.log_prob(y - data) + prior
    # A misfit that is not finite would count as a missing value.
    return torch.where(torch.isfinite(data).all(-1), value, -torch.inf)


def value_at(surrogate: Surrogate, y: Tensor, of: Tensor, eta: Tensor) -> Tensor:
    """log p(y | eta) + log p(eta) of points (k, d) for the data sets of numbers `of` (k,), (k,)."""
    xi = Coordinates.plain(surrogate.prior).xi_of(eta)
    return objective(surrogate, y[of], eta, surrogate.mean(xi))


_HUGE, _EQUAL = 1e12, 1e-6
