"""What a trained model says about the data: y = h(u(z)), with derivatives and an error."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from pddlvm.basics.errors import ConvergenceError
from pddlvm.basics.unchanged import Unchanged
from pddlvm.latent.prediction import Prediction
from pddlvm.linalg.low_rank import LowRank
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sensors.observation import LinearObservation, Observation

__all__ = ["ModelSurrogate", "Surrogate"]

_N_DRAWS = 128
_MOST = 2**19
"""Values of solutions that are formed at once."""


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

    def rough(self) -> "Surrogate":
        """One that is cheap and close, on which searches begin."""
        return self.uncorrected()

    @abstractmethod
    def error(self, xi: Tensor) -> LowRank:
        """Covariance of the error of `mean`, for each of the batch."""


class ModelSurrogate(Surrogate):
    """The forward map of a model.

    Args:
        model: a trained model.
        prior: of its z.
        observation: sensors and noise.
    """

    def __init__(self, model: nn.Module, prior: ParameterSpace, observation: Observation) -> None:
        super().__init__(prior, observation)
        self._model = Unchanged(model)

    @property
    def model(self) -> Any:
        """The model, unless it has changed since."""
        return self._model()

    def error(self, xi: Tensor) -> LowRank:
        """H cov(u | z) H^T by its parts; from draws of u where the sensors are not linear.

        Raises:
            ConvergenceError: it is not finite.
        """
        found = self.raw_error(xi)
        bad = torch.nonzero(~torch.isfinite(found.diagonal()).all(-1))
        if len(bad):
            z = self.prior.unstandardise(xi[int(bad[0])])
            raise ConvergenceError(
                f"the error of the prediction at z = {z.tolist()} is not finite: it "
                "is far from where the map was trained; do the data contradict the prior?"
            )
        return found

    def raw_error(self, xi: Tensor) -> LowRank:
        """The same, whether finite or not."""
        n = 1
        if isinstance(self.observation, LinearObservation):
            n = max(1, _MOST // self.observation.problem.n_dofs)
        # Else one by one: the draws are then the same whatever stands beside.
        return LowRank.joined([self._error(part) for part in xi.split(n)])

    def _error(self, xi: Tensor) -> LowRank:
        forward = self.forward(self.prior.unstandardise(xi))
        if isinstance(self.observation, LinearObservation):
            return forward.error_of(self.observation.matrix)
        data = self.observation.apply(forward.sample((_N_DRAWS,), seed=0))
        centred = (data - data.mean(0)).permute(1, 2, 0)
        return LowRank.of_factor(centred / (_N_DRAWS - 1) ** 0.5)

    def forward(self, z: Tensor) -> Prediction:
        """What the model says of u, (batch, d) -> (batch, n_dofs)."""
        found: Prediction = self.model.forward(z, corrections=self.corrections)
        return found
