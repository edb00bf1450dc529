"""A quantity of many draws, by what is cheap and close: g(xi) = q(u(xi), z(xi)).

u is the solution in the reduced basis where that costs no mesh (a sum of few operators), else what
the forward map says; for a q that is not linear always the corrected solution.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pddlvm.latent.core import LatentModel
from pddlvm.sensors.observation import LinearObservation
from pddlvm.sensors.quantity import Quantity, check_quantity

__all__ = ["Answers", "solved"]

_CHUNK = 4096
_MOST = 2**25
"""Numbers in the solutions of a chunk."""


class Answers:
    """Values of a quantity, float64 on the CPU.

    Args:
        model: trained.
        quantity: of its problem.

    Raises:
        InputError: it is of another problem.
    """

    def __init__(self, model: LatentModel, quantity: Quantity) -> None:
        self.model, self.quantity = model, check_quantity(model.problem, quantity)
        self.prior = model.problem.prior
        self._mean: Callable[[Tensor], Tensor] = self._of_solutions
        if quantity.is_linear:
            sensors = LinearObservation(model.problem, quantity.matrix, 1.0)
            surrogate = model.surrogate(sensors, corrections=model.cheap_corrections)
            self._mean = surrogate.rough().mean

    @torch.no_grad()
    def __call__(self, xi: Tensor) -> Tensor:
        """g, (..., d) -> (..., n)."""
        flat = xi.reshape(-1, xi.shape[-1])
        found = torch.cat([self._mean(part) for part in flat.split(_CHUNK)])
        return found.double().cpu().reshape(*xi.shape[:-1], self.quantity.n)

    @torch.no_grad()
    def error(self, xi: Tensor) -> Tensor:
        """Root mean square error of g as the model itself says, over draws (n_draws, d), (n,)."""
        z, corrections = self.prior.unstandardise(xi), self.model.cheap_corrections
        forward: Any = self.model.forward(z, corrections=corrections)
        found = forward.of(self.quantity)
        squares = (self(xi) - found.mean.double()).square() + found.std.double().square()
        return squares.mean(0).sqrt()

    def _of_solutions(self, xi: Tensor) -> Tensor:
        part = max(1, _MOST // self.model.problem.n_dofs)
        z, corrections = self.prior.unstandardise(xi), self.model.cheap_corrections
        found = [self.quantity(self.model.forward(p, corrections).mean, p) for p in z.split(part)]
        return torch.cat(found)


def solved(quantity: Quantity, z: Tensor) -> Tensor:
    """The quantity of reference solutions, (n, d) -> (n, n_values).

    Thousands of whole solutions need not fit into memory.
    """
    if not len(z):
        return z.new_zeros(0, quantity.n)
    part = max(1, _MOST // quantity.problem.n_dofs)
    return torch.cat([quantity(quantity.problem.solve(own), own) for own in z.split(part)])
