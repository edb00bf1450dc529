"""Data predicted by the reference solver itself: no surrogate, no error.

    y = h(u(xi)),   dy/dxi by central differences of u to first order

u to first order comes from the factors of one solve (`pddlvm.parameters.sensitivities`).
"""

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.sensors.observation import Observation

__all__ = ["FiniteElements"]

_STEP = 1e-4


class FiniteElements(Surrogate):
    """The finite element model in the place of a surrogate; xi is (batch, d).

    Args:
        observation: sensors and noise, of a finite element problem.
    """

    def __init__(self, observation: Observation) -> None:
        super().__init__(observation.problem.prior, observation)
        self.problem, self.solutions = observation.problem, observation.problem.sensitivities()

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self.observation.apply(self.problem.solve(self.prior.unstandardise(xi)))

    predict = mean

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        rows = [self._linearise(one[None]) for one in xi]
        return torch.cat([data for data, _ in rows]), torch.stack([slope for _, slope in rows])

    def error(self, xi: Tensor) -> LowRank:  # noqa: D102
        return LowRank.of_factor(xi.new_zeros(len(xi), self.observation.n, 0))

    def _linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        d = xi.shape[1]
        steps = _STEP * torch.eye(d, dtype=xi.dtype)
        ends, starts = (self.prior.unstandardise(xi + sign * steps) for sign in (1, -1))
        try:
            u, change = self.solutions.change(self.prior.unstandardise(xi), starts, ends)
        except ConvergenceError:
            # Without a solution there are no data: a search does not go there.
            n = self.observation.n
            return xi.new_full((1, n), torch.nan), xi.new_full((n, d), torch.nan)
        # Half of it to each side: u at xi + steps less u at xi - steps.
        both = self.observation.apply(torch.cat([u + 0.5 * change, u - 0.5 * change]))
        return self.observation.apply(u), ((both[:d] - both[d:]) / (2 * _STEP)).T
