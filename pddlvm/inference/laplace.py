"""Gauss-Newton to the most probable parameters, and the Gaussian there.

    maximise  log p(y | h(xi)) + log p(xi),     J = dh/dxi,  P the precision of noise and surrogate
    (J^T P J + D + mu I) step = J^T P (y - h(xi)) - D xi,       D = 1 where the prior is Gaussian
    xi | y  ~  N(xi_max, (J^T P J + D)^{-1})

Levenberg-Marquardt: mu falls where a step helps and grows where it does not; all data sets of a
batch iterate together. Any sensors, missing values included, and nothing is trained.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.inference.gaussian import GaussianDensity
from pddlvm.inference.surrogate import Surrogate

__all__ = ["Laplace", "laplace"]

_MAX_ITERATIONS = 30
_SMALL_STEP = 1e-4
_DAMPING = 1e-2
_MIN_CURVATURE = 1e-6


@dataclass(frozen=True)
class Laplace:
    """Result for a batch of data sets.

    Attributes:
        density: the Gaussian, (batch, d).
        iterations: Gauss-Newton iterations.
        converged: did the last step of each data set become small? (batch,).
        misfit: (y - h)^T P (y - h) + xi^T D xi at the maximum, (batch,), P that of the noise: a
            chi-square of as many degrees of freedom as there are values, where model, noise and
            prior are right and the data Gaussian.
        n_seen: number of values that are not missing, (batch,).
    """

    density: GaussianDensity
    iterations: int
    converged: Tensor
    misfit: Tensor
    n_seen: Tensor


def laplace(surrogate: Surrogate, y: Tensor, start: Tensor) -> Laplace:
    """Laplace approximations for data sets.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        start: xi to start from, (batch, d), float64.
    """
    prior, noise = surrogate.prior, surrogate.observation.noise
    low, high = prior.standard_bounds(start)
    # Uniform priors have no curvature inside their support; a little keeps the matrix regular.
    curvature = torch.where(torch.isinf(high), 1.0, _MIN_CURVATURE)
    xi = start.clamp(low, high)
    damping = torch.full((len(xi), 1, 1), _DAMPING, dtype=xi.dtype)
    identity = torch.eye(xi.shape[1], dtype=xi.dtype)

    def objective(data: Tensor, at: Tensor) -> Tensor:
        return noise.log_prob(y - data) - 0.5 * (curvature * at.square()).sum(-1)

    data, jacobian = surrogate.linearise(xi)
    best = objective(data, xi)
    converged = torch.zeros(len(xi), dtype=torch.bool)
    iterations = 0
    while iterations < _MAX_ITERATIONS and not converged.all():
        iterations += 1
        misfit = y - data
        weighted = jacobian.mT @ noise.precision(misfit)
        hessian = weighted @ jacobian + curvature.diag()
        gradient = (weighted @ misfit.nan_to_num()[..., None])[..., 0] - curvature * xi
        scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        step = torch.linalg.solve(hessian + damping * scale * identity, gradient[..., None])
        trial = (xi + step[..., 0]).clamp(low, high)
        trial_data = surrogate.mean(trial)
        value = objective(trial_data, trial)
        better = value >= best
        small = (trial - xi).abs().amax(-1) < _SMALL_STEP
        converged = converged | (small & better)
        xi = torch.where(better[:, None], trial, xi)
        best = torch.where(better, value, best)
        damping = torch.where(better[:, None, None], damping * 0.1, damping * 10.0)
        # A step that no damping makes better has reached the accuracy of the surrogate.
        converged = converged | (~better & (damping[:, 0, 0] > 1e6))
        data, jacobian = surrogate.linearise(xi)
    misfit = y - data
    of_noise = noise.precision(misfit)
    precision = _with_error(of_noise, surrogate.covariance(xi))
    hessian = jacobian.mT @ precision @ jacobian + curvature.diag()
    covariance = torch.linalg.inv(hessian)
    found = misfit.nan_to_num()
    return Laplace(
        density=GaussianDensity(xi, 0.5 * (covariance + covariance.mT), prior),
        iterations=iterations,
        converged=converged,
        misfit=torch.einsum("bi,bij,bj->b", found, of_noise, found)
        + (curvature * xi.square()).sum(-1),
        n_seen=(~torch.isnan(y)).sum(-1),
    )


def _with_error(precision: Tensor, covariance: Tensor) -> Tensor:
    """(P^{-1} + C)^{-1} = (I + P C)^{-1} P, also where P is singular."""
    identity = torch.eye(precision.shape[-1], dtype=precision.dtype)
    return torch.linalg.solve(identity + precision @ covariance, precision)
