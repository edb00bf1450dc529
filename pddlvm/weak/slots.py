"""Entries at a point that are multiples of each other, whatever z is.

    D(x; z)_s = sum_k D(x; z)_{own_k} F_ks

A viscosity nu has 2 nu, nu and 0 in twenty places of the tangent, and a pressure a constant in some
others: two functions. Which they are is seen at a few draws; `holds` sees it at others.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pddlvm.linalg.empirical_interpolation import Interpolation

__all__ = ["Slots"]

_SAME = 1e-12


@dataclass(frozen=True)
class Slots:
    """The entries that stand for all.

    Attributes:
        own: their numbers, (n_own,).
        factors: F, (n_own, s).
    """

    own: Tensor
    factors: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Slots":
        """Those of values (n, n_points, s)."""
        flat = values.flatten(0, 1).T
        own: list[int] = []
        factors = flat.new_zeros(len(flat), len(flat))
        # The largest first: what is divided by is no rounding.
        for j in flat.abs().amax(1).argsort(descending=True).tolist():
            if not flat[j].any():
                break
            for k, i in enumerate(own):
                factor = (flat[j] @ flat[i]) / flat[i].square().sum()
                if (flat[j] - factor * flat[i]).abs().max() <= _SAME * flat[j].abs().max():
                    factors[k, j] = factor
                    break
            else:
                factors[len(own), j] = 1.0
                own.append(j)
        if not own:
            # Of nothing but zeros any one.
            own, factors[0, 0] = [0], 1.0
        return cls(torch.tensor(own), factors[: len(own)])

    def holds(self, values: Tensor) -> bool:
        """Is it true of other values (n, n_points, s)?"""
        left = (values[..., self.own] @ self.factors - values).abs().amax()
        return bool(left <= 10 * _SAME * values.abs().amax())

    def sizes(self, unit: Tensor) -> Tensor:
        """What makes own entries comparable, of what makes all so, (s,) -> (n_own,)."""
        return (self.factors.abs() * unit).amax(1)

    def spread(self, found: Interpolation) -> Interpolation:
        """An interpolation of all entries, from one of the own ones."""
        n, s = self.factors.shape
        index = found.index // n * s + self.own.numpy()[found.index % n]
        return replace(found, index=index, spread=self.factors.numpy())
