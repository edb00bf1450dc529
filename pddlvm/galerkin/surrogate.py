"""What a model on a reduced basis says about the data.

    mean(xi) = h(V c(xi) + L a(z)),     cov(xi) = H cov(u | z) H^T

c is the mean of the forward map or, corrected, the solution of the reduced problem, whose
derivative is that of an implicit function: dc/dxi = -(V^T K V)^{-1} d(V^T r)/dxi.
"""

from copy import copy, deepcopy
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.galerkin.refinement import correct_and_stiffness
from pddlvm.latent.surrogate import ModelSurrogate
from pddlvm.linalg.derivatives import linearise
from pddlvm.sensors.observation import LinearObservation, Observation

__all__ = ["GalerkinSurrogate"]

_ROUND_OFF = 1e-12


class GalerkinSurrogate(ModelSurrogate):
    """The forward map of a finite element problem, or its correction in the reduced basis.

    Mean and derivatives are those of the map in float64: the rounding of others depends on the size
    of a batch, and a search would end where its neighbours have it end.

    Args:
        model: a trained model.
        observation: sensors and noise.
        corrections: Newton steps in the reduced basis; 0 for the forward map as it is.
    """

    def __init__(self, model: GalerkinMaps, observation: Observation, corrections: int) -> None:
        super().__init__(model, model.problem.prior, observation)
        self.corrections = corrections
        self._forward_map = deepcopy(model.forward_map).double().cpu()
        basis = model.exact.representation.basis
        self._rows: Tensor | None = None
        if isinstance(observation, LinearObservation):
            self._rows = torch.from_numpy(observation.matrix @ basis.numpy())

    @cached_property
    def _is_linear(self) -> bool:
        """Is the stiffness the same whatever c is?"""
        exact, reduction = self.model.exact, self.model.reduction
        c = reduction.c[:1] / reduction.units.energy**0.5
        z = self.prior.unstandardise(reduction.xi[:1])
        here, there = exact.stiffness(c, z), exact.stiffness(-2 * c, z)
        return torch.allclose(here, there, rtol=0, atol=_ROUND_OFF * float(here.abs().max()))

    def uncorrected(self) -> "GalerkinSurrogate":  # noqa: D102
        other = copy(self)
        other.corrections = 0
        return other

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._data(self._augmented(xi, self._coefficients(xi)[0]))

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        c = self.model.forward_map(xi.to(self.model.sigma_residual))[0].double().cpu()
        return self._data(self._augmented(xi, c))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        c, k = self._coefficients(xi)
        slope_c = self._network_slope(xi) if k is None else self._implicit(xi, c, k)

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

    def _coefficients(self, xi: Tensor) -> tuple[Tensor, Tensor | None]:
        """c, and the stiffness of the last correction."""
        with torch.no_grad():
            c = self._forward_map(xi)[0]
            if not self.corrections:
                return c, None
            exact, z = self.model.exact, self.prior.unstandardise(xi)
            return correct_and_stiffness(exact, exact, c, z, self.corrections)

    def _network_slope(self, xi: Tensor) -> Tensor:
        """dc/dxi of the forward map, (batch, n_modes, d)."""
        return linearise(lambda at: self._forward_map(at)[0], xi)[1]

    def _implicit(self, xi: Tensor, c: Tensor, k: Tensor) -> Tensor:
        """dc/dxi of the reduced solution, (batch, n_modes, d)."""
        exact = self.model.exact
        _, slope = linearise(lambda at: exact.residual(c, self.prior.unstandardise(at)), xi)
        if not self._is_linear:
            k = exact.stiffness(c, self.prior.unstandardise(xi))
        return -torch.linalg.solve_ex(k, slope).result.detach()
