"""What a model of trajectories says about the data.

    mean(xi) = H (V Phi a(xi) + lift),     cov(xi) = H cov(u | z) H^T

a is the mean of the forward map or, corrected, the solution of the p x p equations, whose
derivative is that of an implicit function: da/dxi = -G^{-1} d rho/dxi.
"""

from copy import copy, deepcopy

import torch
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.latent.prediction import Prediction
from pddlvm.latent.surrogate import ModelSurrogate
from pddlvm.linalg.derivatives import linearise, linearise_at_once
from pddlvm.sensors.observation import LinearObservation, Observation
from pddlvm.trajectory.answer import forward_of
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.trajectory.slopes import linearised_modes

__all__ = ["TrajectorySurrogate"]

_CHUNK = 256


class TrajectorySurrogate(ModelSurrogate):
    """The forward map, or the solution of its p x p equations, float64 on the CPU.

    Args:
        model: a trained model.
        observation: linear, at times.
        corrections: 0 for the forward map as it is.

    Raises:
        InputError: an observation that is not linear in u.
    """

    def __init__(self, model: TrajectoryMaps, observation: Observation, corrections: int) -> None:
        super().__init__(model, model.problem.prior, observation)
        if not isinstance(observation, LinearObservation):
            raise InputError(
                "data of problems in time are linear in u so far: a PointObservation with times, "
                f"or a LinearObservation, got {observation!r}"
            )
        self.corrections = min(corrections, 1)
        self._forward_map = deepcopy(model.forward_map).double().cpu()
        problem = model.problem
        at = problem.between(problem.times)
        self._functionals = model.functionals.of(problem.times, at, observation.matrix)
        self._has_lift = bool(len(model.modes.steps.lifts))

    def uncorrected(self) -> "TrajectorySurrogate":  # noqa: D102
        other = copy(self)
        other.corrections = 0
        return other

    def forward(self, z: Tensor) -> Prediction:  # noqa: D102
        a = self._coefficients(self.prior.standardise(z))
        found: Prediction = forward_of(self.model, z, self.corrections, None, a)
        return found

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._data(self._coefficients(xi), xi)

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        a = self.model.unit * self.model.forward_map.mean(xi.to(self.model.sigma_residual))
        return self._data(a.double().cpu(), xi)

    def _data(self, a: Tensor, xi: Tensor) -> Tensor:
        data = self._functionals.values(a)
        return data + self._lifted(xi) if self._has_lift else data

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        parts = [self._linearised(part) for part in xi.split(_CHUNK)]
        data, slope = (torch.cat(part) for part in zip(*parts, strict=True))
        return data, slope

    def _linearised(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        found = self._functionals
        if self.corrections:
            z, by_xi = self.prior.with_slope(xi)
            at = linearised_modes(self.model.modes, z)
            a, slope = at.solve()
            data, slope = found.values(a), found.of_modes @ slope
            if self._has_lift:
                data = data + found.lifted(at.boundary)
                slope = slope + torch.einsum("bkrd,nkr->bnd", at.boundary_slope, found.of_lift)
            return data, by_xi(slope)
        a, slope = linearise_at_once(lambda at: self.model.unit * self._forward_map.mean(at), xi)
        data, slope = found.values(a), found.of_modes @ slope
        if self._has_lift:
            lifted, own = linearise(self._lifted, xi)
            data, slope = data + lifted, slope + own
        return data, slope

    @torch.no_grad()
    def _coefficients(self, xi: Tensor) -> Tensor:
        if self.corrections:
            found: Tensor = self.model.modes.solve(self.prior.unstandardise(xi))
            return found
        a: Tensor = self.model.unit * self._forward_map.mean(xi)
        return a

    def _lifted(self, xi: Tensor) -> Tensor:
        """Data of Dirichlet values, (batch, n)."""
        steps = self.model.modes.steps
        return self._functionals.lifted(steps.boundary(steps.drive(self.prior.unstandardise(xi))))
