"""The uncertain part of a field in strong form: error modes and the rest, given at the nodes.

    u - mean  =  U (E c + r),     c ~ N(0, diag(var_c)),     r ~ N(0, diag(var_rest))

Modes are interpolated as polynomials; standard deviations by hats, which keep them positive.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.collocation.predictions import Spread
from pddlvm.strong import chebyshev
from pddlvm.strong.interpolation import interpolate
from pddlvm.strong.problem import CollocationProblem

__all__ = ["ErrorField"]


@dataclass(frozen=True)
class ErrorField:
    """Errors at points, or on the grid, of means for a batch of z.

    Attributes:
        problem: for its box, grid and nodes.
        modes: E, (n_nodes, n_modes).
        unit: U, the size of u.
        z: (batch, d).
        points: (n_points, k); None for the grid.
    """

    problem: CollocationProblem
    modes: Tensor
    unit: Tensor
    z: Tensor
    points: Tensor | None = None

    def std(self, var_c: Tensor, var_rest: Tensor) -> Tensor:
        """Standard deviation of u, (batch, n_points), float64.

        Args:
            var_c: (batch, n_modes).
            var_rest: (batch, n_nodes).
        """
        relative = (var_c @ self.modes.square().T + var_rest).sqrt()
        found = self.unit * self._hats(relative).double()
        # Exactly zero where u is prescribed, whatever round-off says.
        x = self.problem.grid_points if self.points is None else self.points
        return torch.where(self.problem.ansatz.is_hard(x).to(found.device), 0.0, found)

    def spread(self, var_c: Tensor, var_rest: Tensor) -> Spread:
        """The parts of the covariance of u, of the same variances."""
        batch = len(self.z)
        shapes = [
            interpolate(self.problem.form, mode.expand(batch, -1), self.z, self.points)
            for mode in self.modes.T
        ]
        modes, rest = torch.stack(shapes, dim=-1), self._hats(var_rest.sqrt())
        return Spread(self.unit * modes.double(), var_c, self.unit * rest.double())

    def _hats(self, values: Tensor) -> Tensor:
        return interpolate(self.problem.form, values, self.z, self.points, chebyshev.hats)
