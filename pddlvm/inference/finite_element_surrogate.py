"""Data predicted by the reference solver itself: no surrogate, no error.

y = h(u(xi)),   du/dxi = -K^{-1} dr/dxi (u held),   dr/dxi by central differences
"""

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.sensors.observation import Observation
from pddlvm.weak.problem import Problem

__all__ = ["FiniteElements"]

_STEP = 1e-4


class FiniteElements(Surrogate):
    """The finite element model in the place of a surrogate; xi is (batch, d).

    Args:
        observation: sensors and noise, of a finite element problem.
    """

    def __init__(self, observation: Observation) -> None:
        super().__init__(observation.problem.prior, observation)
        assert isinstance(observation.problem, Problem)
        self.problem = observation.problem
        self.operators = self.problem.discretisation(torch.float64, torch.device("cpu"))

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        u = self.problem.solver.solve(self.prior.unstandardise(xi))
        return self.observation.apply(u)

    predict = mean

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        rows = [self._linearise(one[None]) for one in xi]
        return torch.cat([data for data, _ in rows]), torch.stack([slope for _, slope in rows])

    def error(self, xi: Tensor) -> LowRank:  # noqa: D102
        return LowRank.of_factor(xi.new_zeros(len(xi), self.observation.n, 0))

    def _linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        free, d = self.operators.free, xi.shape[1]
        try:
            u, (factors,) = self.problem.solve_with_factors(self.prior.unstandardise(xi))
        except ConvergenceError:
            # Without a solution there are no data: a search does not go there.
            n = self.observation.n
            return xi.new_full((1, n), torch.nan), xi.new_full((n, d), torch.nan)
        steps = _STEP * torch.eye(d, dtype=xi.dtype)
        z = self.prior.unstandardise(torch.cat([xi + steps, xi - steps]))
        lifts = self.operators.lift(z)
        moved = lifts.index_copy(1, free, u[:, free].expand(len(z), -1))
        r = self.operators.residual(moved, z)
        # Half a step to each side: u at xi + steps less u at xi - steps.
        change = lifts[:d] - lifts[d:]
        solved = torch.from_numpy(factors.solve((r[d:] - r[:d]).T.contiguous().numpy()))
        change = change.index_copy(1, free, solved.T.contiguous())
        both = self.observation.apply(torch.cat([u + 0.5 * change, u - 0.5 * change]))
        return self.observation.apply(u), ((both[:d] - both[d:]) / (2 * _STEP)).T
