"""Rows of the equations on Chebyshev nodes that hold conditions, in the place of the PDE.

    g(u, u_x, ...)(x_j) = 0                    of a `Condition`, at the nodes x_j of its face
    du/dx (x_j) = d lift/dx (x_j)              of a slope on a hard face

The first condition of an unknown on a face takes the rows of its nodes, the second those of the
nodes next to them, and so on. On a hard face the values are no unknowns and have no row: they count
as the first.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.strong.ansatz import Ansatz
from pddlvm.strong.domain import Face
from pddlvm.strong.form import StrongForm
from pddlvm.strong.jets import Jet, partials
from pddlvm.strong.pointwise import PointFunction

__all__ = ["ConditionRows", "HeldRows", "SlopeRows", "held_rows"]

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


def held_rows(form: StrongForm, nodes: tuple[int, ...], free: Tensor) -> list[HeldRows]:
    """Those of all conditions and slopes; where two are given for a value it is the later one.

    Args:
        form: of the PDE.
        nodes: numbers of nodes along each coordinate.
        free: which values at nodes are unknown, (n_unknowns n_nodes,).
    """
    numbers, ansatz = torch.arange(math.prod(nodes)).reshape(nodes), form.ansatz

    def at(face: Face, layer: int, a: int) -> tuple[Tensor, Tensor]:
        """Rows of an unknown so many nodes from a face, and the nodes on it."""
        axis = ansatz.box.names.index(face.coordinate)
        last, step = (nodes[axis] - 1, -1) if face.is_end else (0, 1)
        on_face, beside = (numbers.select(axis, last + k * step).flatten() for k in (0, layer))
        rows = a * numbers.numel() + beside
        return rows[free[rows]], on_face[free[rows]]

    n_taken: Counter[tuple[int, tuple[str, bool]]] = Counter()
    slopes: list[HeldRows] = []
    for a, faces in enumerate(ansatz.hard):
        for face in faces:
            n_taken[a, face.side] = 1 + face.with_slope
            if face.with_slope:
                slopes.append(SlopeRows(*at(face, 1, a), ansatz, a, face.coordinate))
    conditions: list[HeldRows] = []
    for condition, function in zip(form.conditions, form.condition_functions, strict=True):
        a, face = form.unknowns.number(condition.field), condition.face
        conditions.append(ConditionRows(*at(face, n_taken[a, face.side], a), function))
        n_taken[a, face.side] += 1
    return [*conditions, *slopes]
