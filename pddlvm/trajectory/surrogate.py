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
from pddlvm.linalg.low_rank import LowRank, columns_of
from pddlvm.sensors.observation import LinearObservation, Observation
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
        steps, n_dofs = model.modes.steps, model.problem.n_dofs
        own, touched = columns_of(observation.matrix)
        step, dof = touched // n_dofs, touched % n_dofs
        modes = torch.einsum("jm,jmp->jp", steps.at_dofs(dof), model.modes.phi[step])
        self._rows = torch.from_numpy(own @ modes.numpy())
        self._own, self._touched = own, (step, dof)
        self._of_lift = None
        if len(steps.lifts):
            each = torch.zeros(observation.n, model.problem.n_times, len(steps.lifts)).double()
            parts = torch.from_numpy(own.toarray())[..., None] * steps.lifts[:, dof].T
            self._of_lift = each.index_add_(1, step, parts)

    def uncorrected(self) -> "TrajectorySurrogate":  # noqa: D102
        other = copy(self)
        other.corrections = 0
        return other

    def forward(self, z: Tensor) -> Prediction:  # noqa: D102
        a = self._coefficients(self.prior.standardise(z))
        found: Prediction = self.model.forward_of(z, self.corrections, None, a)
        return found

    def raw_error(self, xi: Tensor) -> LowRank:  # noqa: D102
        model, level = self.model, self.corrections
        if not model.is_calibrated:
            return super().raw_error(xi)
        with torch.no_grad():
            z, own = self.prior.unstandardise(xi), xi.to(model.sigma_residual)
            var_a, scale = model.variances(own, z, self._coefficients(xi), level)
        rest = model.uncertainty.rest_of(level, *self._touched).double().cpu()
        factor = self._rows * var_a.sqrt()[:, None]
        return LowRank(factor, self._own, scale[:, None] ** 2 * rest)

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        data = self._coefficients(xi) @ self._rows.T
        return data if self._of_lift is None else data + self._lifted(self._boundary(xi))

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        a = self.model.unit * self.model.forward_map(xi.to(self.model.sigma_residual))[0]
        data = a.double().cpu() @ self._rows.T
        return data if self._of_lift is None else data + self._lifted(self._boundary(xi))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        parts = [self._linearised(part) for part in xi.split(_CHUNK)]
        data, slope = (torch.cat(part) for part in zip(*parts, strict=True))
        return data, slope

    def _linearised(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        if self.corrections:
            z, dz = self.prior.with_slope(xi)
            at = linearised_modes(self.model.modes, z)
            a, slope = at.solve()
            data, slope = a @ self._rows.T, self._rows @ slope
            if self._of_lift is not None:
                data = data + self._lifted(at.boundary)
                slope = slope + torch.einsum("bkrd,nkr->bnd", at.boundary_slope, self._of_lift)
            return data, slope * dz[:, None]
        a, slope = linearise_at_once(lambda at: self.model.unit * self._forward_map(at)[0], xi)
        data, slope = a @ self._rows.T, self._rows @ slope
        if self._of_lift is not None:
            lifted, own = linearise(lambda at: self._lifted(self._boundary(at)), xi)
            data, slope = data + lifted, slope + own
        return data, slope

    @torch.no_grad()
    def _coefficients(self, xi: Tensor) -> Tensor:
        if self.corrections:
            found: Tensor = self.model.modes.solve(self.prior.unstandardise(xi))
            return found
        a: Tensor = self.model.unit * self._forward_map(xi)[0]
        return a

    def _boundary(self, xi: Tensor) -> Tensor:
        """Dirichlet values at the steps, (batch, N, R)."""
        steps = self.model.modes.steps
        found: Tensor = steps.boundary(steps.drive(self.prior.unstandardise(xi)))
        return found

    def _lifted(self, b: Tensor) -> Tensor:
        """Data of Dirichlet values, (batch, n)."""
        return torch.einsum("bkr,nkr->bn", b, self._of_lift)
