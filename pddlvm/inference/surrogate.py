"""What a trained model says about the data: y = h(u(z)), with derivatives and an error.

    mean(xi) = h(V c(xi) + L a(z)),     cov(xi) = H cov(u | z) H^T

c is the mean of the forward map or, corrected, the solution of the reduced problem, whose
derivative is that of an implicit function: dc/dxi = -(V^T K V)^{-1} d(V^T r)/dxi.
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.basics.unchanged import Unchanged
from pddlvm.collocation.model import CollocationModel
from pddlvm.derivatives import linearise
from pddlvm.latent.core import LatentVariableModel
from pddlvm.model import GalerkinModel
from pddlvm.parameters.identity import is_like
from pddlvm.parameters.space import ParameterSpace
from pddlvm.refinement import correct
from pddlvm.sensors.observation import LinearObservation, Observation

__all__ = ["Surrogate", "surrogate_of"]

_N_DRAWS = 128


class Surrogate(ABC):
    """Predicts data, float64 on the CPU; xi is (batch, d)."""

    corrections = 0

    def __init__(self, prior: ParameterSpace, observation: Observation) -> None:
        self.prior = prior
        self.observation = observation

    @abstractmethod
    def mean(self, xi: Tensor) -> Tensor:
        """Predicted data, (batch, n)."""

    @abstractmethod
    def predict(self, xi: Tensor) -> Tensor:
        """Data predicted by the forward map as it is, (batch, n); differentiable."""

    @abstractmethod
    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted data (batch, n) and their derivatives (batch, n, d)."""

    def uncorrected(self) -> "Surrogate":
        """The forward map as it is."""
        return self

    @abstractmethod
    def covariance(self, xi: Tensor) -> Tensor:
        """Covariance of the error of `mean`, (batch, n, n)."""


class ModelSurrogate(Surrogate):
    """The forward map of a model.

    Args:
        model: a trained model.
        observation: sensors and noise.
    """

    def __init__(self, model: LatentVariableModel, observation: Observation) -> None:
        super().__init__(model.problem.prior, observation)
        self._model = Unchanged(model)

    @property
    def model(self) -> Any:
        """The model, unless it has changed since."""
        return self._model()

    def covariance(self, xi: Tensor) -> Tensor:
        """From draws of u.

        Raises:
            ConvergenceError: they are not finite.
        """
        z = self.prior.unstandardise(xi)
        draws = self.model.forward(z, corrections=self.corrections).sample((_N_DRAWS,), seed=0)
        data = self.observation.apply(draws)
        centred = data - data.mean(0)
        return _finite(torch.einsum("sbi,sbj->bij", centred, centred) / (len(draws) - 1), z)


class GalerkinSurrogate(ModelSurrogate):
    """The forward map of a finite element problem, or its correction in the reduced basis.

    Args:
        model: a trained model.
        observation: sensors and noise.
        corrections: Newton steps in the reduced basis; 0 for the forward map as it is.
    """

    def __init__(self, model: GalerkinModel, observation: Observation, corrections: int) -> None:
        super().__init__(model, observation)
        self.corrections = corrections
        basis = model.exact.representation.basis
        self._rows: Tensor | None = None
        if isinstance(observation, LinearObservation):
            self._rows = torch.from_numpy(observation.matrix @ basis.numpy())

    def uncorrected(self) -> "GalerkinSurrogate":
        return GalerkinSurrogate(self.model, self.observation, 0)

    def mean(self, xi: Tensor) -> Tensor:
        return self._data(self._augmented(xi, self._coefficients(xi)))

    def predict(self, xi: Tensor) -> Tensor:
        c = self.model.forward_map(xi.to(self.model.sigma_residual))[0].double().cpu()
        return self._data(self._augmented(xi, c))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
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


class CollocationSurrogate(ModelSurrogate):
    """The forward map of a problem in strong form, in float64.

    Its last layer is found by least squares: large weights that cancel, which float32 leaves rough
    to some 1e-4. The error of a prediction does not mind, its derivatives do.
    """

    def __init__(self, model: CollocationModel, observation: Observation) -> None:
        super().__init__(model, observation)
        self._forward_map = deepcopy(model.forward_map).double().cpu()
        self._at_nodes = (model.basis.unit * model.basis.at_nodes.double()).cpu()

    def covariance(self, xi: Tensor) -> Tensor:
        """H cov(u | z) H^T by its parts; from draws of u where the sensors are not linear.

        Raises:
            ConvergenceError: it is not finite.
        """
        if not isinstance(self.observation, LinearObservation):
            return super().covariance(xi)
        z, rows = self.prior.unstandardise(xi), self.observation.matrix.toarray()
        forward = self.model.forward(z, extrapolate=True)
        return _finite(forward.covariance(torch.from_numpy(rows)), z)

    def mean(self, xi: Tensor) -> Tensor:
        with torch.no_grad():
            return self.predict(xi)

    def predict(self, xi: Tensor) -> Tensor:
        z = self.prior.unstandardise(xi)
        n = self._forward_map(xi)[0] @ self._at_nodes.T
        return self.observation.apply(self.model.basis.field_of(n, z))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        return linearise(self.predict, xi)


def _finite(covariance: Tensor, z: Tensor) -> Tensor:
    bad = torch.nonzero(~torch.isfinite(covariance.flatten(1)).all(-1))
    if len(bad):
        raise ConvergenceError(
            f"the error of the prediction at z = {z[int(bad[0])].tolist()} is not finite: it is "
            "far from where the map was trained; do the data contradict the prior?"
        )
    return covariance


def surrogate_of(
    model: LatentVariableModel, observation: Observation, corrections: int = 0
) -> Surrogate:
    """The surrogate that fits a model.

    Raises:
        InputError: the observation belongs to another problem.
    """
    if not is_like(model.problem, observation.problem):
        raise InputError(
            f"the observation is of problem {observation.problem.name!r}, the model of "
            f"{model.problem.name!r} or of one with another mesh, other fields or other physics; "
            "make the observation of model.problem"
        )
    if isinstance(model, CollocationModel):
        return CollocationSurrogate(model, observation)
    assert isinstance(model, GalerkinModel)
    return GalerkinSurrogate(model, observation, corrections)
