"""The forward map of trajectories, and the likelihood that trains it.

    q(c | z) = N(P(xi) + network(xi), diag(var(xi))),   P quadratic, fitted to reduced trajectories
    -log p(r^ = 0 | c, z) = |c - c*(z)|^2 / (2 eps^2 |c*|^2),   c* = G(z)^{-1} g(z)

c are coefficients a of Phi relative to their size. The likelihood is that of the residual rho with
covariance Sigma = eps^2 G G^T, and its solutions come from a pool of solved draws.
"""

import torch
from torch import Tensor, nn

from pddlvm.galerkin.maps import bounded
from pddlvm.galerkin.solved_draws import SolvedPool
from pddlvm.latent.networks import NeuralGaussian
from pddlvm.trajectory.modes import Modes

__all__ = ["TrajectoryLikelihood", "TrajectoryMap"]

_RIDGE, _LEAST = 1e-6, 1e-30


class TrajectoryMap(nn.Module):
    """q(c | z).

    Args:
        network: xi (batch, d) -> mean, log variance (batch, p).
        d: length of xi.
        p: length of c.
    """

    polynomial: Tensor

    def __init__(self, network: nn.Module, d: int, p: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("polynomial", torch.zeros(1 + d + d * (d + 1) // 2, p))

    def fit(self, xi: Tensor, c: Tensor) -> None:
        """P by least squares on draws, (n, d) and (n, p); the network begins at zero."""
        f = quadratic(xi.double())
        gram = f.T @ f + _RIDGE * len(f) * torch.eye(f.shape[1], dtype=torch.float64)
        self.polynomial = torch.linalg.solve(gram, f.T @ c).to(self.polynomial)
        if isinstance(self.network, NeuralGaussian):
            with torch.no_grad():
                self.network.head.weight[: c.shape[1]] = 0
                self.network.head.bias[: c.shape[1]] = 0

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of c, (batch, p) each."""
        mean, log_variance = self.network(xi)
        return mean + quadratic(xi) @ self.polynomial, bounded(log_variance)


def quadratic(xi: Tensor) -> Tensor:
    """(1, xi, all products of two), (batch, n)."""
    i, j = torch.triu_indices(xi.shape[1], xi.shape[1], device=xi.device)
    return torch.cat([torch.ones_like(xi[:, :1]), xi, xi[:, i] * xi[:, j]], dim=1)


class TrajectoryLikelihood:
    """log p(r^ = 0 | c, z), up to a constant.

    Args:
        modes: the p x p equations.
        unit: size of their coefficients.
        tolerance: eps.
        dtype: of the maps.
    """

    def __init__(self, modes: Modes, unit: float, tolerance: float, dtype: torch.dtype) -> None:
        self.draws = _Solved(modes, unit, dtype)
        self._tolerance = tolerance

    def __call__(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:
        """(batch,), of c (batch, p) at z, of standard parameters xi (batch, d)."""
        solution = self.draws.solutions(xi.detach())
        eps = self._tolerance * solution.norm(dim=-1).clamp(min=_LEAST)
        return -0.5 * (c - solution).square().sum(-1) / eps**2


class _Solved(SolvedPool):
    def __init__(self, modes: Modes, unit: float, dtype: torch.dtype) -> None:
        super().__init__(modes.steps.problem.prior, dtype)
        self._modes, self._unit = modes, unit

    def _solve(self, xi: Tensor) -> Tensor:
        return self._modes.solve(self._prior.unstandardise(xi.double())) / self._unit
