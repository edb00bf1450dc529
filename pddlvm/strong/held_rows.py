"""Rows of the equations on Chebyshev nodes that hold conditions, in the place of the PDE.

    g(u, u_x, ...)(x_j) = 0                    of a `Condition`, at the nodes x_j of its face
    du/dx (x_j) = d lift/dx (x_j)              of a slope on a hard face, at the nodes next to x_j

On a hard face the values are no unknowns and have no row: that of the slope stands beside it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.strong.ansatz import Ansatz
from pddlvm.strong.jets import Jet, partials
from pddlvm.strong.pointwise import PointFunction

__all__ = ["ConditionRows", "HeldRows", "SlopeRows"]

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class HeldRows(ABC):
    """Some rows.

    Attributes:
        rows: their numbers, (n,).
        nodes: the nodes at which the function is taken, (n,).
    """

    rows: Tensor
    nodes: Tensor

    @abstractmethod
    def __call__(self, jet: Jet, values: Values) -> Tensor:
        """What must vanish, at all nodes, (n_samples, n_nodes) or fewer."""

    @abstractmethod
    def linearise(self, jet: Jet, values: Values) -> list[Jet]:
        """Its derivatives with respect to each unknown, u, u_x, ..."""


@dataclass(frozen=True)
class ConditionRows(HeldRows):
    """Of a condition.

    Attributes:
        function: its residual.
    """

    function: PointFunction

    def __call__(self, jet: Jet, values: Values) -> Tensor:  # noqa: D102
        return self.function(jet, values)

    def linearise(self, jet: Jet, values: Values) -> list[Jet]:  # noqa: D102
        return self.function.linearise(jet, values)[1][0]


@dataclass(frozen=True)
class SlopeRows(HeldRows):
    """Of the slope on a hard face.

    Attributes:
        ansatz: has the lift.
        unknown: number of the unknown.
        coordinate: along which.
    """

    ansatz: Ansatz
    unknown: int
    coordinate: str

    def __call__(self, jet: Jet, values: Values) -> Tensor:  # noqa: D102
        x = values[self.coordinate]

        def lift(at: Tensor) -> Tensor:
            found = self.ansatz.lift_function({}, {**values, self.coordinate: at}).to(at)
            own = self.ansatz.unknowns.parts(found)[self.unknown]
            return own.expand(torch.broadcast_shapes(own.shape, at.shape))

        return self._slope(jet) - partials(lift, [x], [(0,)])[(0,)]

    def linearise(self, jet: Jet, values: Values) -> list[Jet]:  # noqa: D102
        found: list[Jet] = [{} for _ in self.ansatz.hard]
        found[self.unknown] = {self._index: torch.ones_like(self._slope(jet))}
        return found

    def _slope(self, jet: Jet) -> Tensor:
        return self.ansatz.unknowns.parts(jet[self._index])[self.unknown]

    @property
    def _index(self) -> tuple[int, ...]:
        return (self.ansatz.box.names.index(self.coordinate),)
