"""Coefficients of draws by a reduced model alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.linalg.newton import least_squares, newton
from pddlvm.reduced.many_matrices import systems_of_many
from pddlvm.reduced.residual import ReducedModel

__all__ = ["LinearSystems", "solve_reduced"]

_SOLVED = 1e-12


@dataclass(frozen=True)
class LinearSystems:
    """K_i c_i + r_i = 0 of many draws of a linear problem, whose matrices are what costs.

    Attributes:
        k: (n, n_modes, n_modes).
        r: (n, n_modes).
    """

    k: Tensor
    r: Tensor

    @classmethod
    def of(cls, model: ReducedModel, z: Tensor) -> "LinearSystems":
        """Those of a model."""
        return cls(*systems_of_many(model, z))

    def within(self, rotation: Tensor) -> "LinearSystems":
        """The same in fewer modes, combinations (n_modes, n_kept) of these."""
        return LinearSystems(rotation.T @ self.k @ rotation, self.r @ rotation)

    def solve(self) -> Tensor:
        """c, (n, n_modes); see `newton` for those that have none."""

        def residual(rows: Tensor, c: Tensor) -> Tensor:
            return self.r[rows] + (self.k[rows] @ c[..., None])[..., 0]

        zero = torch.zeros_like(self.r)
        return newton(residual, lambda rows, c: self.k[rows], zero, _SOLVED)


def solve_reduced(model: ReducedModel, z: Tensor, start: Tensor | None = None) -> Tensor:
    """Coefficients by the reduced model alone, (batch, n_modes): Newton's method or least squares.

    A draw on which it fails is a poor snapshot, and no error: what comes of a basis is measured.
    """

    def residual(rows: Tensor, c: Tensor) -> Tensor:
        return model.residual(c, z[rows])

    def matrix(rows: Tensor, c: Tensor) -> Tensor:
        return model.stiffness(c, z[rows])

    zero = z.new_zeros(len(z), model.n_modes)
    if model.n_tests > model.n_modes:
        return least_squares(residual, matrix, zero if start is None else start, _SOLVED)
    if start is None:
        return newton(residual, matrix, zero, _SOLVED)
    # However near they start.
    solved = _SOLVED * model.residual(zero, z).norm(dim=1)
    return newton(residual, matrix, start, _SOLVED, solved)
