"""Sizes that follow the parameters: exp of a quadratic function of xi, fitted to draws."""

import torch
from torch import Tensor, nn

__all__ = ["LogQuadratic"]

_LEAST_SIZE = 1e-30


class LogQuadratic(nn.Module):
    """exp of a quadratic function of xi without mixed terms: the size of something positive."""

    coefficients: Tensor

    def __init__(self, n_parameters: int) -> None:
        super().__init__()
        self.register_buffer("coefficients", torch.zeros(1 + 2 * n_parameters))

    def fit(self, xi: Tensor, values: Tensor) -> None:
        """Least squares on log values, with a little ridge so that few draws suffice."""
        features = self._features(xi.double())
        gram = features.T @ features + 1e-3 * torch.eye(features.shape[1], dtype=torch.float64)
        values = values.double()
        logs = values.clamp(min=_LEAST_SIZE * float(values.max())).log()
        self.coefficients = torch.linalg.solve(gram, features.T @ logs).to(self.coefficients)

    def forward(self, xi: Tensor) -> Tensor:
        """Positive size, (batch, d) -> (batch,)."""
        return (self._features(xi) @ self.coefficients).exp()

    @staticmethod
    def _features(xi: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(xi[:, :1]), xi, xi**2], dim=1)
