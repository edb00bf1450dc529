"""The shape of standardised errors: a symmetric distribution of variance 1, fitted to scores.

    s = T(g),   g ~ N(0, 1),   T odd, increasing and piecewise linear,   E s^2 = 1

T is fixed by the quantiles of |s| at the levels 2 Phi(g_k) - 1: errors of a deterministic map need
not be Gaussian, neither in the middle (that of one unknown number is hardly ever zero) nor in the
tails.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

__all__ = ["N_KNOTS", "ErrorShape"]

_KNOTS = (0.0, 0.05, *(0.25 * k for k in range(1, 14)))
N_KNOTS = len(_KNOTS)
_LEAST_BEYOND = 8
"""Samples beyond the last quantile that is taken as it is found."""
_LEAST_SLOPE = 1e-4
_TAIL_SLOPES = 0.25, 20.0
"""Errors larger than any that were seen are unlikely, but not impossible."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class ErrorShape:
    """T through its values at the knots g_k; beyond them it goes on straight.

    Attributes:
        values: T(g_k), (..., N_KNOTS), from 0 on, increasing; the leading axes are a batch.
    """

    values: Tensor

    @classmethod
    def gaussian(cls, like: Tensor) -> "ErrorShape":
        """T(g) = g."""
        return cls(_knots(like))

    @classmethod
    def of_scores(cls, scores: Tensor, counts: Tensor | None = None) -> tuple["ErrorShape", float]:
        """The shape of errors and their size: the root mean square of the scores.

        Args:
            scores: error / std of each sample, (n_samples, ...); those of one sample may depend on
                each other.
            counts: which scores count, booleans of their shape; default all.
        """
        size = scores.abs().double()
        size = size.flatten() if counts is None else size[counts]
        n_samples = len(scores)
        ordered = size.sort().values
        scale = float(ordered.square().mean().sqrt())
        if scale == 0:
            return cls.gaussian(scores), 0.0
        knots = _knots(ordered)
        level = torch.erf(knots / math.sqrt(2.0))
        enough = (1 - level) * n_samples >= _LEAST_BEYOND
        last = max(1, int(enough.sum()) - 1)
        found = _quantiles(ordered, level[: last + 1]) / scale
        found[0] = 0.0
        least = _LEAST_SLOPE * knots[: last + 1].diff()
        found = torch.cat([found[:1], found.diff().maximum(least).cumsum(0)])
        beyond = ordered[ordered > scale * found[-1]] / scale
        slope = _tail_slope(float(knots[last]), float(found[-1]), beyond, len(ordered))
        tail = found[-1] + slope * (knots[last + 1 :] - knots[last])
        shape = torch.cat([found, tail])
        # What rounding and the limits of the slope changed of the variance goes into the size.
        root = float(cls(shape).second_moment().sqrt())
        return cls((shape / root).to(scores)), scale * root

    def __call__(self, g: Tensor) -> Tensor:
        """T(g), elementwise; batch axes broadcast against g (..., n)."""
        knots = _knots(g)
        k = (g.abs()[..., None] >= knots[1:-1]).sum(-1)
        low, slope = self._segment(k)
        return g.sign() * (low + slope * (g.abs() - knots[k]))

    def inverse(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """g with T(g) = s, and log dg/ds, elementwise."""
        size, inner = s.abs(), self.values[..., None, 1:-1].to(s)
        k = (size[..., None] >= inner).sum(-1)
        low, slope = self._segment(k)
        return s.sign() * (_knots(s)[k] + (size - low) / slope), -slope.log()

    def log_prob(self, s: Tensor) -> Tensor:
        """Log density of s, elementwise."""
        g, log_slope = self.inverse(s)
        return log_slope - 0.5 * g.square() - _HALF_LOG_2PI

    def half_width(self, level: float) -> Tensor:
        """s with probability `level` between -s and s, (..., 1)."""
        g = ndtri(torch.tensor([0.5 + 0.5 * level], dtype=torch.float64)).to(self.values)
        return self(g.expand(*self.values.shape[:-1], 1))

    def edges(self, farthest: float) -> Tensor:
        """Between them T is smooth, and a normal density nearly polynomial: the knots, and more."""
        beyond = torch.arange(_KNOTS[-1] + 1, farthest, 1.0, dtype=torch.float64)
        right = torch.cat([torch.tensor(_KNOTS, dtype=torch.float64), beyond])
        right = torch.cat([right, torch.tensor([farthest], dtype=torch.float64)])
        return torch.cat([-right.flip(0), right[1:]]).to(self.values)

    def second_moment(self) -> Tensor:
        """E T(g)^2, (...,)."""
        g = _knots(self.values)
        ends = torch.cat([g[1:-1], g.new_full((1,), torch.inf)])
        low, high = g[:-1], ends
        slope = self.values.diff(dim=-1) / g.diff()
        at_zero = self.values[..., :-1] - slope * low
        mass = ndtr(high) - ndtr(low)
        first = _density(low) - _density(high)
        second = mass + low * _density(low) - high.clamp(max=1e6) * _density(high)
        parts = at_zero.square() * mass + 2 * at_zero * slope * first + slope.square() * second
        return 2 * parts.sum(-1)

    def _segment(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """T at the start of segments of number k (..., n), and dT/dg in them."""
        values = self.values.expand(*k.shape[:-1], N_KNOTS)
        slope = values.diff(dim=-1) / _knots(values).diff()
        return values.gather(-1, k), slope.gather(-1, k)


def _knots(like: Tensor) -> Tensor:
    return torch.tensor(_KNOTS, dtype=like.dtype, device=like.device)


def _density(g: Tensor) -> Tensor:
    return (-0.5 * g.square() - _HALF_LOG_2PI).exp()


def _quantiles(ordered: Tensor, level: Tensor) -> Tensor:
    """By linear interpolation between the order statistics."""
    place = level * (len(ordered) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _tail_slope(g: float, s: float, beyond: Tensor, n: int) -> float:
    """b for which T = s + b (. - g) beyond g has the second moment of the scores beyond s."""
    at = torch.tensor([g], dtype=torch.float64)
    mass, density = float(2 * ndtr(-at)), float(2 * _density(at))
    # E (x - g) and E (x - g)^2 of the two tails of a standard normal x beyond g.
    one, two = density - g * mass, (1 + g * g) * mass - g * density
    wanted = float(beyond.square().sum()) / n
    root = (s * one) ** 2 - two * (s * s * mass - wanted)
    slope = (math.sqrt(max(0.0, root)) - s * one) / two
    least, most = _TAIL_SLOPES
    return min(most, max(least, slope))
