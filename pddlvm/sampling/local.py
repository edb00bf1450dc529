"""Densities around modes: what `Charts` are made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.target import Target

__all__ = ["LocalDensity", "Parts"]


class LocalDensity(ABC):
    """log p(w | y) up to a constant, in the coordinates w of one of several modes.

    Args:
        coordinates: those in which the density is about standard at each mode, (n_modes, ...).
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates

    @abstractmethod
    def value(self, w: Tensor, mode: Tensor) -> Tensor:
        """Log density at w (n, d) in the coordinates of modes (n,), (n,)."""

    @abstractmethod
    def value_and_gradient(self, w: Tensor, mode: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient (n, d)."""

    @abstractmethod
    def left_out(self, w: Tensor, mode: Tensor) -> Tensor:
        """See `Target.left_out`."""


class Parts(LocalDensity):
    """A target for each mode, one after the other.

    Args:
        targets: in the coordinates of each mode.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        each = [target.coordinates for target in targets]
        centre, factor = (
            torch.stack(x) for x in zip(*((c.centre, c.factor) for c in each), strict=True)
        )
        super().__init__(Coordinates(each[0].prior, centre, factor))

    def value(self, w: Tensor, mode: Tensor) -> Tensor:  # noqa: D102
        return self._by_part(lambda part, v: (part.value(v),), w, mode)[0]

    def value_and_gradient(self, w: Tensor, mode: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        value, gradient = self._by_part(lambda part, v: part.value_and_gradient(v), w, mode)
        return value, gradient

    def left_out(self, w: Tensor, mode: Tensor) -> Tensor:  # noqa: D102
        return self._by_part(lambda part, v: (part.left_out(v),), w, mode)[0]

    def _by_part(
        self, evaluate: Callable[[Target, Tensor], tuple[Tensor, ...]], w: Tensor, mode: Tensor
    ) -> list[Tensor]:
        found = [
            evaluate(part, w[mode == k]) for k, part in enumerate(self.targets) if (mode == k).any()
        ]
        back = mode.argsort(stable=True).argsort()
        return [torch.cat(each)[back] for each in zip(*found, strict=True)]
