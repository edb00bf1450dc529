"""A PDE in strong form, as data: what interpolation and Newton's method are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from pddlvm.strong.ansatz import Ansatz
from pddlvm.strong.pointwise import Condition, PointFunction
from pddlvm.strong.unknowns import Unknowns

__all__ = ["StrongForm"]


@dataclass(frozen=True)
class StrongForm:
    """r(u, u_x, ..., x; z) = 0 in a box; see `CollocationProblem`, whose form it is.

    Of several unknowns r has as many rows, and the row of a number takes the place of its unknown.

    Attributes:
        name: of the problem, for messages.
        ansatz: geometry, and how u is written.
        residual_function: r.
        conditions: that hold up to a tolerance.
        condition_functions: their residuals.
        grid: numbers of points along each coordinate.
        nodes: numbers of Chebyshev nodes along each coordinate.
    """

    name: str
    ansatz: Ansatz
    residual_function: PointFunction
    conditions: tuple[Condition, ...]
    condition_functions: tuple[PointFunction, ...]
    grid: tuple[int, ...]
    nodes: tuple[int, ...]

    @property
    def unknowns(self) -> Unknowns:
        """Their names, and the layout of their values."""
        return self.ansatz.unknowns

    def matrices(
        self, s: Sequence[Tensor], nodes: tuple[int, ...], *, hats: bool = False
    ) -> list[Tensor]:
        """From values at so many nodes along each coordinate to values at s, see `Series`."""
        along = zip(self.ansatz.series, s, nodes, strict=True)
        return [(own.hats if hats else own.interpolation)(at, n) for own, at, n in along]

    def node_axes(self, nodes: tuple[int, ...]) -> list[Tensor]:
        """The nodes along each coordinate, float64."""
        return [own.nodes(n) for own, n in zip(self.ansatz.series, nodes, strict=True)]

    def quadrature_weights(self, nodes: tuple[int, ...]) -> Tensor:
        """Weights at all nodes, one unknown after the other, (n_values,), float64."""
        along = zip(self.ansatz.series, nodes, strict=True)
        weights = reduce(torch.kron, [own.quadrature_weights(n) for own, n in along])
        return weights.repeat(self.unknowns.n)

    @cached_property
    def axes(self) -> tuple[Tensor, ...]:
        """The grid along each coordinate, float64."""
        return tuple(
            torch.linspace(*interval, n, dtype=torch.float64)
            for interval, n in zip(self.ansatz.box.intervals.values(), self.grid, strict=True)
        )

    @cached_property
    def grid_points(self) -> Tensor:
        """The grid, (n_points, k), float64; the last coordinate runs fastest."""
        return torch.stack([a.flatten() for a in torch.meshgrid(*self.axes, indexing="ij")], -1)
