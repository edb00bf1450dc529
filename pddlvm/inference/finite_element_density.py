"""The posterior density under the finite element model, with its gradient by the adjoint method.

    log p(xi | y) = log p(y | u(xi)) + log p(xi) + constant,      r(u(xi), z(xi)) = 0
    d/dxi = d/dxi [ log p(y | u) + lambda . r(u, z(xi)) ],        K^T lambda = - d log p(y | u) / du

with u held except for its boundary values. One Newton solve for each xi, whose last factors also
solve the adjoint equation, with refinement where K has moved since: gradients cost little more than
the value, whatever the number of parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError, ProblemError
from pddlvm.basics.owned import owned
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.target import Target
from pddlvm.sensors.observation import Observation
from pddlvm.weak.problem import Problem

__all__ = ["FiniteElementPosterior", "FiniteElementTarget"]

_BATCH = 8
"""Larger ones leave the caches."""
_TOLERANCE = 1e-10
_MAX_REFINEMENTS = 20


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
        self.y = owned(observation.check(y)).double().cpu()
        self.operators = self.problem.discretisation(torch.float64, torch.device("cpu"))

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density at xi (batch, d), (batch,); -inf where there is no solution."""
        return _each(self._value, xi, _BATCH)[0]

    def log_prob_and_gradient(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (batch,) and its gradient (batch, d) at xi (batch, d).

        -inf and zero where there is no solution, or none of the adjoint equation.
        """
        return _each(self._with_gradient, xi, _BATCH)

    def _value(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        u, _ = self.problem.solve_with_factors(self.problem.prior.unstandardise(xi))
        likelihood = self.observation.noise.log_prob(self.y - self.observation.apply(u))
        return likelihood + self.problem.prior.standard_log_prob(xi), torch.zeros_like(xi)

    def _with_gradient(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        affine, z = self.problem.affine, self.problem.prior.unstandardise(xi)
        u, factors = self.problem.solve_with_factors(z)
        at = u.clone().requires_grad_()
        likelihood = self.observation.noise.log_prob(self.y - self.observation.apply(at))
        (slope,) = torch.autograd.grad(likelihood.sum(), at)
        moved = xi.detach().clone().requires_grad_()
        z = self.problem.prior.unstandardise(moved)
        if affine is None:
            gradient = self._refined(u, z, moved, slope, factors)
        else:
            adjoint = _solve_transposed(factors, -slope[:, self.operators.free])
            lagrangian = affine.lagrangian(u, z, slope, adjoint)
            (gradient,) = torch.autograd.grad(lagrangian, moved, retain_graph=True)
        prior = self.problem.prior.standard_log_prob(moved)
        # Uniform densities have no slope.
        if prior.requires_grad:
            gradient = gradient + torch.autograd.grad(prior.sum(), moved)[0]
        return likelihood.detach() + prior.detach(), gradient

    def _refined(
        self, u: Tensor, z: Tensor, moved: Tensor, slope: Tensor, factors: Sequence[Any]
    ) -> Tensor:
        """Gradient of slope . u + lambda . r(u, z) by moved; lambda by refinement."""
        free = self.operators.free
        # The lift is zero at the free degrees of freedom.
        inside = u[:, free].requires_grad_()
        u_moved = torch.zeros_like(u).index_copy(1, free, inside) + self.operators.lift(z)
        residual = self.operators.residual(u_moved, z)
        right = -slope[:, free]
        adjoint, missing = torch.zeros_like(right), right
        for _ in range(_MAX_REFINEMENTS):
            adjoint = adjoint + _solve_transposed(factors, missing)
            gradient, applied = torch.autograd.grad(
                residual, (moved, inside), adjoint, retain_graph=True
            )
            missing = right - applied
            if (missing.norm(dim=-1) <= _TOLERANCE * right.norm(dim=-1)).all():
                (of_boundary,) = torch.autograd.grad(
                    (slope * u_moved).sum(), moved, materialize_grads=True
                )
                return gradient + of_boundary
        raise ConvergenceError("the adjoint equation was not solved: K changes too fast")


class FiniteElementTarget(Target):
    """The posterior under the finite element likelihood.

    Args:
        posterior: log density of xi.
        coordinates: w.
    """

    def __init__(self, posterior: FiniteElementPosterior, coordinates: Coordinates) -> None:
        super().__init__(coordinates)
        self.posterior = posterior

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        return self.posterior.log_prob(self.coordinates.xi_of(w)) + self.coordinates.log_jacobian(w)

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            xi = self.coordinates.xi_of(at)
            jacobian = self.coordinates.log_jacobian(at)
            value, slope = self.posterior.log_prob_and_gradient(xi.detach())
            (gradient,) = torch.autograd.grad((xi * slope).sum() + jacobian.sum(), at)
        return value + jacobian.detach(), gradient


def _each(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], xi: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Evaluate batches; -inf and zero where there is no solution."""
    found = []
    for part in xi.split(size):
        try:
            found.append(evaluate(part))
        except ConvergenceError:
            # Without a solution there is no density; one by one, to find out where.
            if len(part) > 1:
                found.append(_each(evaluate, part, 1))
            else:
                found.append((part.new_full((1,), -torch.inf), torch.zeros_like(part)))
    values, gradients = zip(*found, strict=True)
    return torch.cat(values), torch.cat(gradients)


def _solve_transposed(factors: Sequence[Any], b: Tensor) -> Tensor:
    rows = [f.solve(one.numpy(), "T") for f, one in zip(factors, b, strict=True)]
    return torch.stack([torch.from_numpy(row) for row in rows])
