"""What chains move on: a log density of w with its gradient, which may have several modes."""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from pddlvm.sampling.coordinates import Coordinates

__all__ = ["Target"]


class Target(ABC):
    """log p(w | y) up to a constant in the coordinates w.

    Args:
        coordinates: w.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """Log density at w (batch, d), (batch,)."""

    @abstractmethod
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (batch,) and its gradient (batch, d)."""

    def left_out(self, w: Tensor) -> Tensor:
        """What is to be added to log densities that leave something out, (batch,): nothing.

        It is too dear for each step of a trajectory, or has no gradient: ends are corrected by it.
        """
        return torch.zeros_like(w[:, 0])

    def region(self, w: Tensor) -> Tensor:
        """The mode to which each w (batch, d) belongs, (batch,): there is one."""
        return torch.zeros(len(w), dtype=torch.long)

    def factor(self, region: Tensor) -> Tensor:
        """L of the modes (batch,): L^-1 w is about standard there, (batch, d, d)."""
        d = len(self.coordinates.centre)
        return torch.eye(d, dtype=torch.float64).expand(len(region), d, d)

    def of(self, rows: Tensor) -> Self:
        """The same for some of the chains, (n,): of one density for all of them."""
        return self

    def jump(self, w: Tensor, generator: torch.Generator) -> Tensor:
        """Chains w (batch, d) after a try to jump to other modes, of which there are none."""
        return w
