"""The uncertain part of a field in strong form: error modes and the rest, given at finer nodes.

    u - mean  =  U (E c + r),     c ~ N(0, diag(var_c)),     r ~ N(0, diag(var_rest))

Modes are interpolated as polynomials; standard deviations by hats, which keep them positive. The
map and its corrections have modes of their own. What a correction leaves is what the nodes of the
problem miss: it swings between them, and is often near a corner alone, where it is no sum of the
errors of the map.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.collocation.field import Spread
from pddlvm.linalg.derivatives import root
from pddlvm.strong.interpolation import interpolate
from pddlvm.strong.problem import CollocationProblem

__all__ = ["ERROR_MODES", "ErrorField", "finer_nodes"]

ERROR_MODES = slice(0, 22), slice(22, 24)
"""Columns of the error modes: those of the map, and of corrected means, found from few draws."""
_FINER = 2.25
"""Times as many of them."""


def finer_nodes(problem: CollocationProblem) -> tuple[int, ...]:
    """Numbers of nodes that see what those of a problem miss."""
    factor = _FINER ** (1 / len(problem.nodes))
    is_odd = [c in problem.ansatz.periodic for c in problem.box.names]
    return tuple(round(factor * n) | odd for n, odd in zip(problem.nodes, is_odd, strict=True))


@dataclass(frozen=True)
class ErrorField:
    """Errors at points, or on the grid, of means for a batch of z.

    Attributes:
        problem: for its box and grid.
        nodes: numbers of them along each coordinate.
        modes: E, (n_values, n_modes), one unknown after the other.
        unit: U, the size of u, () or (n_unknowns,).
        z: (batch, d).
        points: (n_points, k); None for the grid.
        swings: whether the modes swing between the nodes, so that they have to be interpolated one
            by one for a standard deviation.
    """

    problem: CollocationProblem
    nodes: tuple[int, ...]
    modes: Tensor
    unit: Tensor
    z: Tensor
    points: Tensor | None = None
    swings: bool = False

    def std(self, var_c: Tensor, var_rest: Tensor) -> Tensor:
        """Standard deviation of u, (batch, n_points), float64.

        Args:
            var_c: (batch, n_modes).
            var_rest: (batch, n_values).
        """
        if self.swings:
            variance = self._hats(root(var_rest)).double().square()
            for k in range(self.modes.shape[1]):
                variance = variance + var_c[:, k, None] * self._mode(k).square()
            found = root(variance)
        else:
            found = self._hats(root(var_c @ self.modes.square().T + var_rest)).double()
        # Exactly zero where u is prescribed, whatever round-off says.
        is_hard = self.problem.ansatz.is_hard(self._x).to(found.device)
        return torch.where(is_hard, 0.0, self.with_unit(found))

    def spread(self, var_c: Tensor, var_rest: Tensor) -> Spread:
        """The parts of the covariance of u, of the same variances."""
        shapes = [self._mode(k) for k in range(self.modes.shape[1])]
        modes, rest = torch.stack(shapes, dim=-1), self._hats(root(var_rest))
        modes = self.with_unit(modes.mT).mT
        return Spread(modes, var_c, self.with_unit(rest.double()))

    def with_unit(self, values: Tensor) -> Tensor:
        """Values at the points (..., n) that are relative to U, in the units of u."""
        return self.problem.unknowns.beside_vectors(self.unit, len(self._x)) * values

    @property
    def _x(self) -> Tensor:
        return self.problem.grid_points if self.points is None else self.points

    def of_nodes(self, values: Tensor) -> Tensor:
        """A field given at the nodes, (batch, n_values) -> (batch, n)."""
        return interpolate(self.problem.form, values, self.z, self.points, nodes=self.nodes)

    def _mode(self, k: int) -> Tensor:
        return self.of_nodes(self.modes[:, k].double().expand(len(self.z), -1))

    def _hats(self, values: Tensor) -> Tensor:
        return interpolate(
            self.problem.form, values, self.z, self.points, nodes=self.nodes, hats=True
        )
