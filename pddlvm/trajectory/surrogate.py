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
from pddlvm.linalg.derivatives import linearise
from pddlvm.sensors.observation import LinearObservation, Observation
from pddlvm.trajectory.model import TrajectoryMaps

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
        rows = observation.matrix
        free, steps = model.problem.steady.free_dofs, model.modes.steps
        n_dofs, parts = model.problem.n_dofs, []
        for k in range(model.problem.n_times):
            own = rows[:, k * n_dofs : (k + 1) * n_dofs]
            if own.nnz:
                of_v = torch.from_numpy(own[:, free] @ steps.v.numpy())
                parts.append(of_v @ model.modes.phi[k])
        self._rows = torch.stack(parts).sum(0)

    def uncorrected(self) -> "TrajectorySurrogate":  # noqa: D102
        other = copy(self)
        other.corrections = 0
        return other

    def forward(self, z: Tensor) -> Prediction:  # noqa: D102
        a = self._coefficients(self.prior.standardise(z))
        found: Prediction = self.model.forward_of(z, self.corrections, None, a)
        return found

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._coefficients(xi) @ self._rows.T + self._of_lift(xi)

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        a = self.model.unit * self.model.forward_map(xi.to(self.model.sigma_residual))[0]
        return a.double().cpu() @ self._rows.T + self._of_lift(xi)

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        parts = [self._linearised(part) for part in xi.split(_CHUNK)]
        data, slope = (torch.cat(part) for part in zip(*parts, strict=True))
        return data, slope

    def _linearised(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        if self.corrections:
            a = self._coefficients(xi)
            z = self.prior.unstandardise(xi)
            matrix = self.model.modes.tangent(a, z)

            def residual(at: Tensor) -> Tensor:
                found: Tensor = self.model.modes.residual(a, self.prior.unstandardise(at))
                return found

            slope = -torch.linalg.solve(matrix, linearise(residual, xi)[1])
        else:
            a, slope = linearise(lambda at: self.model.unit * self._forward_map(at)[0], xi)
        data, of_lift = a @ self._rows.T, self._of_lift(xi)
        slope = self._rows @ slope
        if self._has_lift:
            slope = slope + linearise(self._of_lift, xi)[1]
        return data + of_lift, slope

    @torch.no_grad()
    def _coefficients(self, xi: Tensor) -> Tensor:
        if self.corrections:
            found: Tensor = self.model.modes.solve(self.prior.unstandardise(xi))
            return found
        a: Tensor = self.model.unit * self._forward_map(xi)[0]
        return a

    @property
    def _has_lift(self) -> bool:
        return len(self.model.modes.steps.lifts) > 0

    def _of_lift(self, xi: Tensor) -> Tensor:
        """Data of the Dirichlet values, (batch, n)."""
        steps = self.model.modes.steps
        if not self._has_lift:
            return xi.new_zeros(len(xi), self.observation.n)
        b = steps.drive(self.prior.unstandardise(xi)).b
        b = b.expand(-1, steps.h + len(steps.ta), -1)[:, steps.h :]
        assert isinstance(self.observation, LinearObservation)
        matrix = self.observation.matrix
        n_dofs = self.model.problem.n_dofs
        parts = [
            torch.from_numpy(matrix[:, k * n_dofs : (k + 1) * n_dofs] @ steps.lifts.numpy().T)
            for k in range(len(steps.ta))
        ]
        return torch.einsum("bkr,knr->bn", b, torch.stack(parts))
