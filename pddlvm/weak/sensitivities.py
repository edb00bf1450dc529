"""Reference solutions and their derivatives by z, from the last factors of Newton's method.

    adjoint:    slope . du/dz  =  d/dz [slope . u_D(z) + lambda . r(u, z)],    K^T lambda = -slope
    forward:    u(end) - u(start)  =  u_D(end) - u_D(start)
                                      - K^{-1} (r(u_i, u_D(end), end) - r(u_i, u_D(start), start))

u_i are the values at the free degrees of freedom, u_D those on the boundary. The factors also serve
where K has moved since: the adjoint equation is refined then. Gradients cost little more than the
solution, whatever the number of parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg.factorisation import Factorisation
from pddlvm.parameters.sensitivities import Sensitivities
from pddlvm.weak.affine_system import AffineSystem
from pddlvm.weak.discretisation import Discretisation

__all__ = ["ElementSensitivities"]

_TOLERANCE = 1e-10
_MAX_REFINEMENTS = 20

Solve = Callable[[Tensor], tuple[Tensor, Sequence[Factorisation]]]


class ElementSensitivities(Sensitivities):
    """Those of a finite element problem.

    Args:
        operators: discretisation, float64 on the CPU.
        affine: the problem as a sum of few fixed operators, where it is one.
        solve: z -> solutions, and factors of K at each or close to it.
    """

    def __init__(
        self, operators: Discretisation, affine: AffineSystem | None, solve: Solve
    ) -> None:
        self._operators, self._affine, self._solve = operators, affine, solve

    def solve(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._solve(z)[0]

    def adjoint(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:  # noqa: D102
        u, factors = self._solve(z)

        def pull_back(slope: Tensor) -> Tensor:
            with torch.enable_grad():
                moved = z.detach().clone().requires_grad_()
                if self._affine is None:
                    return self._refined(u, moved, slope, factors)
                adjoint = _solve_transposed(factors, -slope[:, self._operators.free])
                lagrangian = self._affine.lagrangian(u, moved, slope, adjoint)
                (gradient,) = torch.autograd.grad(lagrangian, moved)
                return gradient

        return u, pull_back

    def change(  # noqa: D102
        self, z: Tensor, start: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor]:
        n, free = len(start), self._operators.free
        u, (factors,) = self._solve(z)
        at = torch.cat([end, start])
        lifts = self._operators.lift(at)
        moved = lifts.index_copy(1, free, u[:, free].expand(len(at), -1))
        r = self._operators.residual(moved, at)
        change = lifts[:n] - lifts[n:]
        solved = torch.from_numpy(factors.solve((r[n:] - r[:n]).T.contiguous().numpy()))
        return u, change.index_copy(1, free, solved.T.contiguous())

    def _refined(
        self, u: Tensor, z: Tensor, slope: Tensor, factors: Sequence[Factorisation]
    ) -> Tensor:
        """Gradient of slope . u + lambda . r(u, z) by z; lambda by refinement."""
        free = self._operators.free
        # The lift is zero at the free degrees of freedom.
        inside = u[:, free].requires_grad_()
        u_moved = torch.zeros_like(u).index_copy(1, free, inside) + self._operators.lift(z)
        residual = self._operators.residual(u_moved, z)
        right = -slope[:, free]
        adjoint, missing = torch.zeros_like(right), right
        for _ in range(_MAX_REFINEMENTS):
            adjoint = adjoint + _solve_transposed(factors, missing)
            gradient, applied = torch.autograd.grad(
                residual, (z, inside), adjoint, retain_graph=True
            )
            missing = self._operators.balanced(right - applied)
            if (missing.norm(dim=-1) <= _TOLERANCE * right.norm(dim=-1)).all():
                (of_boundary,) = torch.autograd.grad(
                    (slope * u_moved).sum(), z, materialize_grads=True
                )
                return gradient + of_boundary
        raise ConvergenceError("the adjoint equation was not solved: K changes too fast")


def _solve_transposed(factors: Sequence[Any], b: Tensor) -> Tensor:
    rows = [f.solve(one.numpy(), "T") for f, one in zip(factors, b, strict=True)]
    return torch.stack([torch.from_numpy(row) for row in rows])
