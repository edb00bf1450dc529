"""Fields that are constant in discs, with a parameter in each, and have none between them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pddlvm
from pddlvm import fem

__all__ = ["DiscField", "distances"]


@dataclass(frozen=True)
class DiscField(pddlvm.Field):
    """Base of these.

    Attributes:
        centres: (n_discs, 2).
        radius: of all discs.
    """

    centres: ClassVar[NDArray[np.float64]]
    radius: ClassVar[float]

    @property
    def size(self) -> int:
        """Number of discs."""
        return len(self.centres)

    def shapes(self, points: fem.Points) -> Tensor:
        """1 in disc i, (n_points, n_discs)."""
        return torch.from_numpy(distances(points.x, self.centres) < self.radius).double()


def distances(x: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the centres (n_discs, 2), (n, 2) -> (n, n_discs)."""
    found: NDArray[np.float64] = np.linalg.norm(x[:, None] - centres, axis=-1)
    return found
