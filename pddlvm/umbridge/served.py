"""What is served: functions of z with their derivatives, F: R^d -> R^m.

    Evaluate        F(z)
    Gradient        s^T dF/dz      by one backward pass
    ApplyJacobian   dF/dz v        by one backward pass for each of the m outputs, in batches

The functions of a model: `forward`, the mean of u, or of what sensors see; each quantity, as
`forward(z).of(quantity)` has its mean; and `posterior`, log p(y | mean(z)) + log p(z) of data.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import check_corrections
from pddlvm.basics.errors import InputError
from pddlvm.models import LatentVariableModel
from pddlvm.sensors.observation import LinearObservation, Observation
from pddlvm.sensors.quantity import Quantity, check_quantity

__all__ = ["NOTHING", "Served", "served"]

NOTHING = -sys.float_info.max
"""The log density outside of the support of the prior: JSON has no infinity."""
_AT_ONCE = 256
_CONFIG = "corrections"

Function = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Served:
    """A function of parameters.

    Attributes:
        name: by which clients ask for it.
        n_inputs: d.
        n_outputs: m.
        has_derivatives: are Gradient and ApplyJacobian offered?
        corrections: Newton steps in the basis, where a client does not say.
        function: z (n, d), corrections -> values (n, m); differentiable where it says so.
    """

    name: str
    n_inputs: int
    n_outputs: int
    has_derivatives: bool
    corrections: int
    function: Function

    def evaluate(self, z: Tensor, config: Mapping[str, Any]) -> Tensor:
        """F(z), (d,) -> (m,)."""
        with torch.no_grad():
            return self.function(z[None], self._corrections(config))[0]

    def gradient(self, z: Tensor, weights: Tensor, config: Mapping[str, Any]) -> Tensor:
        """s^T dF/dz, (d,), of weights s (m,)."""
        return self._rows(z[None], weights[None], self._corrections(config))[0]

    def apply_jacobian(self, z: Tensor, vector: Tensor, config: Mapping[str, Any]) -> Tensor:
        """dF/dz v, (m,), of a vector v (d,)."""
        corrections, one = self._corrections(config), torch.eye(self.n_outputs, dtype=z.dtype)
        rows = [
            self._rows(z.expand(len(part), -1), part, corrections) for part in one.split(_AT_ONCE)
        ]
        return torch.cat(rows) @ vector

    def _rows(self, z: Tensor, weights: Tensor, corrections: int) -> Tensor:
        """s_i^T dF/dz, (n, d), of z (n, d) and s (n, m)."""
        with torch.enable_grad():
            at = z.detach().clone().requires_grad_()
            value = self.function(at, corrections)
            if not value.requires_grad:
                return torch.zeros_like(z)
            (found,) = torch.autograd.grad(value, at, weights)
        return found

    def _corrections(self, config: Mapping[str, Any]) -> int:
        unknown = sorted(set(config) - {_CONFIG})
        if unknown:
            raise InputError(f"config may have {_CONFIG!r}, a number; got {unknown}")
        found: int = config.get(_CONFIG, self.corrections)
        check_corrections(found)
        return found


def served(
    model: LatentVariableModel,
    *,
    sensors: LinearObservation | None = None,
    quantities: Sequence[Quantity] = (),
    data: tuple[Observation, Tensor] | None = None,
    corrections: int = 0,
) -> tuple[Served, ...]:
    """The functions of a model.

    Args:
        model: trained.
        sensors: `forward` is what they see, without their noise; by default all of u.
        quantities: of the mean, each by its name.
        data: sensors and what they measured, (n,), of `posterior`.
        corrections: Newton steps in the basis, where a client does not say.

    Raises:
        InputError: names that are not unique; a quantity, or sensors, of another problem.
    """
    problem = model.problem
    functions: list[tuple[str, int, Function]] = []
    if sensors is None:
        size = math.prod(problem.solution_shape)
        functions.append(("forward", size, partial(_mean, model)))
    else:
        functions.append(("forward", sensors.n, partial(_applied, model, sensors.apply)))
    for quantity in quantities:
        check_quantity(problem, quantity)
        functions.append((quantity.name, quantity.n, partial(_asked, model, quantity)))
    if data is not None:
        observation, y = data[0].of(problem), data[0].check(data[1])
        functions.append(("posterior", 1, partial(_log_posterior, model, observation, y)))
    names = [name for name, *_ in functions]
    if len(set(names)) < len(names):
        raise InputError(f"what is served needs names of its own each, got {names}")
    z = problem.prior.sample((1,), seed=0)
    return tuple(
        Served(name, problem.n_parameters, m, _has_derivative(f, z, corrections), corrections, f)
        for name, m, f in functions
    )


def _has_derivative(function: Function, z: Tensor, corrections: int) -> bool:
    """Marches in time, for one, refuse a z that requires a gradient."""
    try:
        with torch.enable_grad():
            return bool(function(z.clone().requires_grad_(), corrections).requires_grad)
    except InputError:
        return False


def _mean(model: LatentVariableModel, z: Tensor, corrections: int) -> Tensor:
    return model.forward(z, corrections=corrections).mean.flatten(1)


def _applied(
    model: LatentVariableModel, function: Callable[[Tensor], Tensor], z: Tensor, corrections: int
) -> Tensor:
    return function(model.forward(z, corrections=corrections).mean)


def _asked(model: Any, quantity: Quantity, z: Tensor, corrections: int) -> Tensor:
    found: Tensor = model.forward(z, corrections=corrections).of(quantity).mean
    return found


def _log_posterior(
    model: LatentVariableModel, observation: Observation, y: Tensor, z: Tensor, corrections: int
) -> Tensor:
    prior = model.problem.prior
    inside = prior.contains(z.detach()).all(-1)
    if not inside.all():
        # Of chains, which propose one z at a time.
        return torch.full_like(z[:, :1], NOTHING).detach()
    u = model.forward(z, corrections=corrections).mean
    likelihood = observation.noise.log_prob(y.to(u) - observation.apply(u))
    return (likelihood + prior.log_prob(z))[:, None]
