"""Reference solutions with their derivatives by z, as exact inference asks a problem for them.

    r(u(z), z) = 0,     K = dr/du
    adjoint:    slope . du/dz  =  d/dz [slope . u_D(z) + lambda . r(u, z)],    K^T lambda = -slope
    forward:    du  =  du_D - K^{-1} dr

with u held except for its boundary values u_D.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pddlvm.linalg.derivatives import only_once

__all__ = ["Sensitivities", "recorded_solve"]


class Sensitivities(ABC):
    """Those of a problem whose reference solver has factors of K; float64 on the CPU."""

    @abstractmethod
    def solve(self, z: Tensor) -> Tensor:
        """Solutions, (batch, d) -> (batch, n_dofs).

        Raises:
            ConvergenceError: a sample has none.
        """

    @abstractmethod
    def adjoint(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Solutions, and slopes of functions of them (batch, n_dofs) -> gradients by z (batch, d).

        Raises:
            ConvergenceError: a sample has no solution, or its adjoint equation.
        """

    @abstractmethod
    def change(self, z: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The solution at z (1, d), (1, n_dofs), and u(end) - u(start), (n, n_dofs).

        The latter to first order, for start and end (n, d) next to z.

        Raises:
            ConvergenceError: there is no solution at z.
        """


class _Solve(torch.autograd.Function):
    """z (batch, d) -> u(z), whose gradient is an adjoint solution of each sample."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, solutions: Sensitivities) -> Tensor:
        u, ctx.pull_back = solutions.adjoint(z.detach())
        return u

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return ctx.pull_back(slopes[0]), None


def recorded_solve(solutions: Sensitivities, z: Tensor) -> Tensor:
    """Solutions with a graph, (batch, d) -> (batch, ...); backwards, and once."""
    return only_once(_Solve.apply(z, solutions))
