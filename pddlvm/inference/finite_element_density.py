"""The posterior density under the finite element model, with its gradient by the adjoint method.

    log p(xi | y) = log p(y | u(xi)) + log p(xi) + constant,      r(u(xi), z(xi)) = 0

One reference solve for each xi, whose factors also solve the adjoint equation
(`pddlvm.parameters.sensitivities`).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.basics.owned import owned
from pddlvm.inference.journal import Journal
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.target import Target
from pddlvm.sensors.observation import Observation

__all__ = ["FiniteElementPosterior", "FiniteElementTarget"]

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
_BATCH = 8
"""Larger ones leave the caches."""


class FiniteElementPosterior:
    """log p(xi | y) up to a constant, float64 on the CPU.

    Args:
        observation: sensors and noise.
        y: data, (n,); NaN where nothing was measured.
        solves: what was found before, and is written down, if anything is.

    Raises:
        ProblemError: the problem is not one of finite elements.
    """

    def __init__(self, observation: Observation, y: Tensor, solves: Journal | None = None) -> None:
        self.prior, self.solutions = observation.problem.prior, observation.problem.sensitivities()
        self.observation = observation
        self.y = owned(observation.check(y)).double().cpu()
        self._solves = solves

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density at xi (batch, d), (batch,); -inf where there is no solution."""
        return self._each(self._value, xi)[0]

    def log_prob_and_gradient(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (batch,) and its gradient (batch, d) at xi (batch, d).

        -inf and zero where there is no solution, or none of the adjoint equation.
        """
        return self._each(self._with_gradient, xi)

    def _each(self, evaluate: Evaluate, xi: Tensor) -> tuple[Tensor, Tensor]:
        solve = partial(_each, evaluate, _BATCH)
        return solve(xi) if self._solves is None else self._solves.answer(solve, xi)

    def _value(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        u = self.solutions.solve(self.prior.unstandardise(xi))
        likelihood = self.observation.noise.log_prob(self.y - self.observation.apply(u))
        return likelihood + self.prior.standard_log_prob(xi), torch.zeros_like(xi)

    def _with_gradient(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        moved = xi.detach().clone().requires_grad_()
        z = self.prior.unstandardise(moved)
        u, pull_back = self.solutions.adjoint(z.detach())
        at = u.clone().requires_grad_()
        likelihood = self.observation.noise.log_prob(self.y - self.observation.apply(at))
        (slope,) = torch.autograd.grad(likelihood.sum(), at)
        (gradient,) = torch.autograd.grad(z, moved, pull_back(slope))
        prior = self.prior.standard_log_prob(moved)
        # Uniform densities have no slope.
        if prior.requires_grad:
            gradient = gradient + torch.autograd.grad(prior.sum(), moved)[0]
        return likelihood.detach() + prior.detach(), gradient


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


def _each(evaluate: Evaluate, size: int, xi: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate batches; -inf and zero where there is no solution."""
    found = []
    for part in xi.split(size):
        try:
            found.append(evaluate(part))
        except ConvergenceError:
            # Without a solution there is no density; one by one, to find out where.
            if len(part) > 1:
                found.append(_each(evaluate, 1, part))
            else:
                found.append((part.new_full((1,), -torch.inf), torch.zeros_like(part)))
    values, gradients = zip(*found, strict=True)
    return torch.cat(values), torch.cat(gradients)
