"""What a model on a reduced basis says about the data.

    mean(xi) = h(V c(xi) + L a(z)),     cov(xi) = H cov(u | z) H^T

c is the mean of the forward map or, corrected, the solution of the reduced problem, whose
derivative is that of an implicit function: dc/dxi = -(V^T K V)^{-1} d(V^T r)/dxi.
"""

import torch
from torch import Tensor

from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.galerkin.refinement import correct
from pddlvm.latent.surrogate import ModelSurrogate
from pddlvm.linalg.derivatives import linearise
from pddlvm.sensors.observation import LinearObservation, Observation

__all__ = ["GalerkinSurrogate"]


class GalerkinSurrogate(ModelSurrogate):
    """The forward map of a finite element problem, or its correction in the reduced basis.

    Args:
        model: a trained model.
        observation: sensors and noise.
        corrections: Newton steps in the reduced basis; 0 for the forward map as it is.
    """

    def __init__(self, model: GalerkinMaps, observation: Observation, corrections: int) -> None:
        super().__init__(model, model.problem.prior, observation)
        self.corrections = corrections
        basis = model.exact.representation.basis
        self._rows: Tensor | None = None
        if isinstance(observation, LinearObservation):
            self._rows = torch.from_numpy(observation.matrix @ basis.numpy())

    def uncorrected(self) -> "GalerkinSurrogate":  # noqa: D102
        return GalerkinSurrogate(self.model, self.observation, 0)

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._data(self._augmented(xi, self._coefficients(xi)))

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        c = self.model.forward_map(xi.to(self.model.sigma_residual))[0].double().cpu()
        return self._data(self._augmented(xi, c))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        c = self._coefficients(xi)
        slope_c = self._implicit(xi, c) if self.corrections else self._network_slope(xi)

        _, slope = linearise(lambda at: self._augmented(at, c), xi)
        m = c.shape[1]
        slope = torch.cat([slope_c, slope[:, m:]], dim=1)
        a = self._augmented(xi, c)
        if self._rows is not None:
            return self._data(a), self._rows @ slope
        at = a.detach().requires_grad_()
        data = self._data(at)
        rows = [
            torch.autograd.grad(data[:, i].sum(), at, retain_graph=True)[0]
            for i in range(data.shape[1])
        ]
        return data.detach(), torch.stack(rows, dim=1) @ slope

    def _data(self, a: Tensor) -> Tensor:
        if self._rows is not None:
            return a @ self._rows.T
        return self.observation.apply(a @ self.model.exact.representation.basis.T)

    def _augmented(self, xi: Tensor, c: Tensor) -> Tensor:
        representation = self.model.exact.representation
        z = self.prior.unstandardise(xi)
        return representation.augment(c, representation.boundary_coordinates(z))

    def _coefficients(self, xi: Tensor) -> Tensor:
        with torch.no_grad():
            c = self.model.forward_map(xi.to(self.model.sigma_residual))[0].double().cpu()
            if not self.corrections:
                return c
            exact = self.model.exact
            return correct(exact, exact, c, self.prior.unstandardise(xi), self.corrections)

    def _network_slope(self, xi: Tensor) -> Tensor:
        """dc/dxi of the forward map, (batch, n_modes, d)."""
        like = self.model.sigma_residual
        return linearise(lambda at: self.model.forward_map(at)[0], xi.to(like))[1].double().cpu()

    def _implicit(self, xi: Tensor, c: Tensor) -> Tensor:
        """dc/dxi of the reduced solution, (batch, n_modes, d)."""
        exact = self.model.exact
        _, slope = linearise(lambda at: exact.residual(c, self.prior.unstandardise(at)), xi)
        k = exact.stiffness(c, self.prior.unstandardise(xi))
        return -torch.linalg.solve_ex(k, slope).result.detach()
