"""What a model in strong form says about the data: y = h(u(z)), with derivatives and an error."""

from copy import deepcopy

import torch
from torch import Tensor

from pddlvm.collocation.model import CollocationMaps
from pddlvm.latent.surrogate import ModelSurrogate, finite
from pddlvm.linalg.derivatives import linearise
from pddlvm.sensors.observation import LinearObservation, Observation

__all__ = ["CollocationSurrogate"]


class CollocationSurrogate(ModelSurrogate):
    """The forward map of a problem in strong form, in float64.

    Its last layer is found by least squares: large weights that cancel, which float32 leaves rough
    to some 1e-4. The error of a prediction does not mind, its derivatives do.
    """

    def __init__(self, model: CollocationMaps, observation: Observation) -> None:
        super().__init__(model, model.problem.prior, observation)
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
        return finite(forward.covariance(torch.from_numpy(rows)), z)

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        with torch.no_grad():
            return self.predict(xi)

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        z = self.prior.unstandardise(xi)
        n = self._forward_map(xi)[0] @ self._at_nodes.T
        return self.observation.apply(self.model.basis.field_of(n, z))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return linearise(self.predict, xi)
