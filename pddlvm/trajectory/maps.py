"""The forward map of trajectories, and the likelihood that trains it.

    q(c | z) = N(P(xi) + network(xi), diag(var(xi))),   P a polynomial, see `polynomials`
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
from pddlvm.trajectory.polynomials import Polynomial, Products

__all__ = ["TrajectoryLikelihood", "TrajectoryMap"]


_N_NONLINEAR = 8192
"""Draws that are solved by Newton's method."""


class TrajectoryMap(nn.Module):
    """q(c | z).

    Args:
        network: xi (batch, d) -> mean, log variance (batch, p).
        polynomial: P.
    """

    polynomial: Tensor

    def __init__(self, network: nn.Module, polynomial: Polynomial) -> None:
        super().__init__()
        self.network = network
        self.products = Products(polynomial.degrees, polynomial.columns)
        self.register_buffer("polynomial", polynomial.weights)
        if isinstance(network, NeuralGaussian):
            # The polynomial is the better start of the mean.
            p = polynomial.weights.shape[1]
            with torch.no_grad():
                network.head.weight[:p] = 0
                network.head.bias[:p] = 0

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of c, (batch, p) each."""
        mean, log_variance = self.network(xi)
        return self._beside(mean, xi), bounded(log_variance)

    def mean(self, xi: Tensor) -> Tensor:
        """The mean alone, (batch, p)."""
        return self._beside(self.network(xi)[0], xi)

    def _beside(self, mean: Tensor, xi: Tensor) -> Tensor:
        return torch.addmm(mean, self.products(xi), self.polynomial)


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
        return self.draws.log_likelihood(c, xi, self._tolerance)


class _Solved(SolvedPool):
    def __init__(self, modes: Modes, unit: float, dtype: torch.dtype) -> None:
        problem = modes.steps.problem
        more = {} if problem.is_linear else {"n_most": _N_NONLINEAR}
        super().__init__(problem.prior, dtype, **more)
        self._modes, self._unit = modes, unit

    def _solve(self, xi: Tensor) -> Tensor:
        return self._modes.solve(self._prior.unstandardise(xi.double())) / self._unit
