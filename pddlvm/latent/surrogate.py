"""What a trained model says about the data: y = h(u(z)), with derivatives and an error."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from pddlvm.basics.errors import ConvergenceError
from pddlvm.basics.unchanged import Unchanged
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sensors.observation import Observation

__all__ = ["ModelSurrogate", "Surrogate", "finite"]

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

    def covariance(self, xi: Tensor) -> Tensor:
        """From draws of u.

        Raises:
            ConvergenceError: they are not finite.
        """
        z = self.prior.unstandardise(xi)
        draws = self.model.forward(z, corrections=self.corrections).sample((_N_DRAWS,), seed=0)
        data = self.observation.apply(draws)
        centred = data - data.mean(0)
        return finite(torch.einsum("sbi,sbj->bij", centred, centred) / (len(draws) - 1), z)


def finite(covariance: Tensor, z: Tensor) -> Tensor:
    """The covariances of errors of predictions at z, or a ConvergenceError that names one."""
    bad = torch.nonzero(~torch.isfinite(covariance.flatten(1)).all(-1))
    if len(bad):
        raise ConvergenceError(
            f"the error of the prediction at z = {z[int(bad[0])].tolist()} is not finite: it is "
            "far from where the map was trained; do the data contradict the prior?"
        )
    return covariance
