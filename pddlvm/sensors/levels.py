"""Unknown levels of noise and model error, integrated out.

    p(w) = int N(t; 0, 1) prod_i N(w_i; 0, s(t)^2 + a(t)^2 lambda_i) dt

t are normal scores of the levels that are unknown, none, one or two. The trapezoidal rule on a grid
that is moved and narrowed to where the integrand is converges geometrically, as that does not end.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.parameters.priors import Prior

__all__ = ["Levels"]

_ROUNDS = 5
_ROUGH, _FINE, _FINEST = 11, 25, 41
"""Points along each axis: of a search, of an integral, and of what is drawn from."""
_WIDE, _REACH = 10.0, 6.5
"""Standard deviations of the prior at first, and of the integrand in the end, to each side."""


@dataclass(frozen=True)
class Levels:
    """Levels s of the noise and a of the model error: numbers, or priors of positive numbers.

    Attributes:
        noise: s.
        field: a.
    """

    noise: "float | Prior"
    field: "float | Prior"

    @property
    def n_unknown(self) -> int:
        """How many are unknown."""
        return isinstance(self.noise, Prior) + isinstance(self.field, Prior)

    @property
    def n_points(self) -> int:
        """Of a grid."""
        return _FINE**self.n_unknown

    def of(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """s and a at scores t (..., 2), (..., 1) each; those of a number do not count."""
        return _level(self.noise, t[..., :1]), _level(self.field, t[..., 1:])

    @cached_property
    def middle(self) -> tuple[float, float]:
        """Medians."""
        s, a = self.of(torch.zeros(2, dtype=torch.float64))
        return float(s), float(a)

    @cached_property
    def prior_points(self) -> tuple[Tensor, Tensor]:
        """Scores that are spread as the prior is, (n, 2), and their weights, (n,)."""
        centre = torch.zeros(2, dtype=torch.float64)
        t = self._grid(centre, torch.ones(2, dtype=torch.float64), _FINE)
        weights = (-0.5 * t.square().sum(-1)).exp()
        return t, weights / weights.sum()

    def joint(
        self, square: Tensor, values: Tensor, n_missing: Tensor, n: int = _FINE
    ) -> tuple[Tensor, Tensor]:
        """Scores (..., n_points, 2), and log p(w, t) with the weight of each, (..., n_points).

        Args:
            square: w_i^2, (..., n).
            values: lambda_i, (..., n); the last numbers of axes agree with those of `square`.
            n_missing: how many w_i are none, (...,).
            n: points along each axis.

        Up to the constants of normal densities.
        """
        with torch.no_grad():
            centre = torch.zeros(*square.shape[:-1], 2, dtype=square.dtype, device=square.device)
            spread = torch.full_like(centre, _WIDE / _REACH)
            for _ in range(_ROUNDS if self.n_unknown else 0):
                t = self._grid(centre, spread, _ROUGH)
                weights = self._value(t, square, values, n_missing).softmax(-1)[..., None]
                centre = (weights * t).sum(-2)
                found = (weights * (t - centre[..., None, :]).square()).sum(-2).sqrt()
                # A grid that is too coarse to see the width is narrowed all the same.
                spread = torch.maximum(1.1 * found, spread * _REACH * 1.2 / _ROUGH)
            t = self._grid(centre, spread, n)
            step = (2 * _REACH * spread / (n - 1)).log()
            step = step * step.new_tensor(self._is_unknown)
        value = self._value(t, square, values, n_missing)
        return t, value + step.sum(-1, keepdim=True)

    def drawn(
        self, square: Tensor, values: Tensor, n_missing: Tensor, generator: torch.Generator
    ) -> Tensor:
        """One draw of t given each w, (..., 2), for the arguments of `joint`."""
        t, value = self.joint(square, values, n_missing, _FINEST)
        weights = value.softmax(-1)
        rows = weights.reshape(-1, weights.shape[-1]).multinomial(1, generator=generator)
        index = rows.reshape(*weights.shape[:-1], 1, 1).expand(*weights.shape[:-1], 1, 2)
        # Anywhere between points of the grid.
        step = (t.amax(-2) - t.amin(-2)) / (_FINEST - 1)
        uniform = torch.rand(step.shape, generator=generator, dtype=t.dtype)
        return t.gather(-2, index)[..., 0, :] + (uniform - 0.5) * step

    @property
    def _is_unknown(self) -> list[float]:
        return [float(isinstance(level, Prior)) for level in (self.noise, self.field)]

    def _grid(self, centre: Tensor, spread: Tensor, n: int) -> Tensor:
        """Points around centres (..., 2), (..., n_points, 2)."""
        line = torch.linspace(-_REACH, _REACH, n, dtype=centre.dtype, device=centre.device)
        lines = [line if unknown else line.new_zeros(1) for unknown in self._is_unknown]
        plane = torch.cartesian_prod(*lines)
        return centre[..., None, :] + plane * spread[..., None, :]

    def _value(self, t: Tensor, square: Tensor, values: Tensor, n_missing: Tensor) -> Tensor:
        """log p(w, t), (..., n_points)."""
        s, a = self.of(t)
        v = s.square() + a.square() * values[..., None, :].to(s)
        density = -0.5 * (square[..., None, :] / v + v.log()).sum(-1)
        missing = n_missing.to(s)[..., None] * s[..., 0].log()
        unknown = t.new_tensor(self._is_unknown)
        prior = -0.5 * (t.square() * unknown).sum(-1) - 0.9189385332046727 * unknown.sum()
        return density + missing + prior


def _level(level: "float | Prior", t: Tensor) -> Tensor:
    if not isinstance(level, Prior):
        return torch.full_like(t, level)
    low, high = level.standard_bounds
    if abs(low) == torch.inf:
        return level.unstandardise(t)
    return level.unstandardise(low + (high - low) * torch.special.ndtr(t))
