"""The posterior density under the finite element model, with its gradient by the adjoint method.

    log p(xi | y) = log p(y | u(xi)) + log p(xi) + constant,      r(u(xi), z(xi)) = 0
    d/dxi = d/dxi [ log p(y | u) + lambda . r(u, z(xi)) ],        K^T lambda = - d log p(y | u) / du

with u held except for its boundary values. One Newton solve and one solve with the transpose of the
tangent for each xi: gradients cost twice the value, whatever the number of parameters.
"""

from typing import Any

import torch
from scipy.sparse.linalg import SuperLU
from torch import Tensor

from pddlvm.errors import ProblemError
from pddlvm.observation import Observation
from pddlvm.problem import Problem
from pddlvm.solver import factorise

__all__ = ["FiniteElementPosterior"]


class FiniteElementPosterior:
    """log p(xi | y) up to a constant, float64 on the CPU.

    Args:
        observation: sensors and noise.
        y: data, (n,); NaN where nothing was measured.

    Raises:
        ProblemError: the problem is not one of finite elements.
    """

    def __init__(self, observation: Observation, y: Tensor) -> None:
        if not isinstance(observation.problem, Problem):
            raise ProblemError(
                "method 'exact' needs the likelihood of a finite element problem, and a problem in "
                "strong form has none; try 'nuts'"
            )
        self.problem = observation.problem
        self.observation = observation
        self.y = observation.check(y).detach().double().cpu()
        self.operators = self.problem.discretisation(torch.float64, torch.device("cpu"))

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density at xi (batch, d), (batch,)."""
        z = self.problem.prior.unstandardise(xi)
        u = self.problem.solver.solve(z)
        likelihood = self.observation.noise.log_prob(self.y - self.observation.apply(u))
        return likelihood + self.problem.prior.standard_log_prob(xi)

    def log_prob_and_gradient(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (batch,) and its gradient (batch, d) at xi (batch, d)."""
        z = self.problem.prior.unstandardise(xi)
        u = self.problem.solver.solve(z)
        at = u.clone().requires_grad_()
        likelihood = self.observation.noise.log_prob(self.y - self.observation.apply(at))
        (slope,) = torch.autograd.grad(likelihood.sum(), at)
        free = self.operators.free
        adjoint = torch.stack(
            [_solve_transposed(self._factors(u[i], z[i]), -slope[i, free]) for i in range(len(xi))]
        )
        moved = xi.detach().clone().requires_grad_()
        z_moved = self.problem.prior.unstandardise(moved)
        # The lift is zero at the free degrees of freedom.
        inside = torch.zeros_like(u).index_copy(1, free, u[:, free])
        u_moved = inside + self.operators.lift(z_moved)
        lagrangian = (
            (slope * u_moved).sum()
            + (adjoint * self.operators.residual(u_moved, z_moved)).sum()
            + self.problem.prior.standard_log_prob(moved).sum()
        )
        (gradient,) = torch.autograd.grad(lagrangian, moved)
        value = likelihood.detach() + self.problem.prior.standard_log_prob(xi)
        return value, gradient

    def _factors(self, u: Tensor, z: Tensor) -> SuperLU:
        matrix = self.problem.solver.matrix(u, z)
        return factorise(matrix, symmetric=self.problem.has_potential)


def _solve_transposed(factors: Any, b: Tensor) -> Tensor:
    return torch.from_numpy(factors.solve(b.numpy(), trans="T"))
