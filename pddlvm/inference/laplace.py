"""Gauss-Newton to the most probable parameters, and the Gaussian there.

    maximise  log p(y | h(xi)) + log p(eta),   xi = T(eta) unbounded,   J = dh/deta
    (J^T P J + D + mu I) step = J^T P (y - h) + d log p(eta) / deta,   D the curvature of the prior
    eta | y  ~  N(eta_max, (J^T P J + D)^{-1}),      P the precision of noise and surrogate

Levenberg-Marquardt: mu falls where a step helps and grows where it does not; all data sets of a
batch iterate together, on the forward map as it is until its maximum is near, then on the corrected
one. Any sensors, missing values included, and nothing is trained. Where the prior is Gaussian eta
is xi; where it has bounds, T keeps every draw within them. Data that contradict the model would
send the iteration out of all numbers: it stays within 12 standard deviations of the prior, where
parameters that it pushes against the edge are held.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.errors import ConvergenceError
from pddlvm.inference.coordinates import FAR, Coordinates
from pddlvm.inference.surrogate import Surrogate

__all__ = ["Laplace", "laplace"]

_MAX_ITERATIONS = 50
_DECREMENT = 1e-4
_ROUGH_DECREMENT = 0.1
"""Squared distance to the maximum, in posterior standard deviations, that ends an iteration."""
_NO_BETTER = 1e6
"""Damping at which nothing better is near."""
_STUCK_DECREMENT = 1e-2
"""That up to which a search without a better step has arrived: at a tenth of a deviation."""
_ROUNDED = 1e-12
"""Part of an objective that is rounding."""
_DAMPING = 1e-3
_TINY = 1e-12


@dataclass(frozen=True)
class Laplace:
    """Result for a batch of data sets.

    Attributes:
        coordinates: those in which the Gaussian is standard, of each data set.
        iterations: Gauss-Newton iterations.
        converged: is the maximum of each data set near? (batch,).
        misfit: `Noise.square` of y - h at the maximum, and |xi|^2 of the parameters with a Gaussian
            prior, (batch,): a chi-square where model, noise and prior are right and the model about
            linear.
        degrees: its degrees of freedom, (batch,): the values that are not missing, less what the
            data say about parameters with bounds, which adapt to the data for nothing.
        n_seen: number of values that are not missing, (batch,).
    """

    coordinates: Coordinates
    iterations: int
    converged: Tensor
    misfit: Tensor
    degrees: Tensor
    n_seen: Tensor


def laplace(surrogate: Surrogate, y: Tensor) -> Laplace:
    """Laplace approximations for data sets, from the centre of the prior.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.

    Raises:
        ConvergenceError: the surrogate is not finite at the centre of the prior, or its error is
            not at the maximum.
    """
    prior, noise = surrogate.prior, surrogate.observation.noise
    plain = Coordinates.plain(prior)
    start, before = torch.zeros(len(y), prior.size, dtype=y.dtype), 0
    if surrogate.corrections:
        rough = _maximise(surrogate.uncorrected(), y, start, _ROUGH_DECREMENT)
        before = rough.iterations
        # Far out, a network may fit data with what no correction confirms.
        rest, there = (
            _objective(surrogate, y, eta, surrogate.mean(plain.xi_of(eta)))
            for eta in (start, rough.eta)
        )
        start = torch.where((there >= rest)[:, None], rough.eta, start)
    found = _maximise(surrogate, y, start, _DECREMENT)
    xi, misfit = plain.xi_of(found.eta), y - found.data
    precision = _with_error(noise.precision(misfit), surrogate.covariance(xi))
    curvature = plain.prior_slope(found.eta)[1]
    factor = _factor(found.jacobian.mT @ precision @ found.jacobian, curvature)
    has_bounds = torch.isfinite(prior.standard_bounds(xi)[1])
    learnt = 1 - curvature * factor.square().sum(-1)
    n_seen = (~torch.isnan(y)).sum(-1)
    return Laplace(
        coordinates=Coordinates(prior, found.eta, factor),
        iterations=before + found.iterations,
        converged=found.converged,
        misfit=noise.square(misfit) + torch.where(has_bounds, 0.0, xi.square()).sum(-1),
        degrees=(n_seen - torch.where(has_bounds, learnt, 0.0).sum(-1)).clamp(min=_TINY),
        n_seen=n_seen,
    )


@dataclass(frozen=True)
class _Maximum:
    """Where the iteration ended: eta (batch, d), data there, and their derivatives by eta."""

    eta: Tensor
    data: Tensor
    jacobian: Tensor
    iterations: int
    converged: Tensor


def _maximise(surrogate: Surrogate, y: Tensor, eta: Tensor, tolerance: float) -> _Maximum:
    """Iterate until the squared Newton decrement of each data set is below the tolerance."""
    prior, noise = surrogate.prior, surrogate.observation.noise
    plain = Coordinates.plain(prior)
    damping = torch.full((len(y), 1, 1), _DAMPING, dtype=y.dtype)
    identity = torch.eye(prior.size, dtype=y.dtype)

    def linearise(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        data, jacobian = surrogate.linearise(plain.xi_of(at))
        jacobian = jacobian * plain.slope(at)[:, None, :]
        return data, jacobian, _objective(surrogate, y, at, data, jacobian)

    data, jacobian, best = linearise(eta)
    if not torch.isfinite(best).all():
        eta = torch.where(torch.isfinite(best)[:, None], eta, 0.0)
        data, jacobian, best = linearise(eta)
    if not torch.isfinite(best).all():
        raise ConvergenceError(
            "the predicted data, or their derivatives, are not finite at the centre of the prior; "
            "was the model trained, and does the problem have a solution there?"
        )
    converged = torch.zeros(len(y), dtype=torch.bool)
    is_stuck = converged
    iterations = 0
    while iterations < _MAX_ITERATIONS and not (converged | is_stuck).all():
        iterations += 1
        misfit = y - data
        weighted = jacobian.mT @ noise.precision(misfit)
        of_prior, curvature = plain.prior_slope(eta)
        hessian = weighted @ jacobian + curvature.diag_embed()
        gradient = (weighted @ misfit.nan_to_num()[..., None])[..., 0] + of_prior
        # At the edge, and pushed beyond: held there.
        free = ~((eta.abs() >= FAR) & (gradient * eta > 0))
        gradient = gradient * free
        hessian = hessian * free[:, None, :] * free[:, :, None] + (~free).diag_embed()
        decrement = (gradient * _solve(hessian, gradient)).sum(-1)
        close_enough = _STUCK_DECREMENT + _ROUNDED * best.abs()
        converged = converged | (decrement < tolerance)
        scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        step = _solve(hessian + damping * scale * identity, gradient)
        trial = (eta + step.nan_to_num()).clamp(-FAR, FAR)
        trial_data, trial_jacobian, value = linearise(trial)
        # A step of nothing, at the edge or of a singular matrix, is none: the damping grows.
        better = value > best
        eta = torch.where(better[:, None], trial, eta)
        best = torch.where(better, value, best)
        data = torch.where(better[:, None], trial_data, data)
        jacobian = torch.where(better[:, None, None], trial_jacobian, jacobian)
        damping = torch.where(better[:, None, None], damping * 0.1, damping * 10.0)
        # A step that no damping makes better has reached the accuracy of the surrogate.
        is_stuck = ~better & (damping[:, 0, 0] > _NO_BETTER)
        converged = converged | (is_stuck & (decrement < close_enough))
    return _Maximum(eta, data, jacobian, iterations, converged)


def _objective(surrogate: Surrogate, y: Tensor, eta: Tensor, *predicted: Tensor) -> Tensor:
    """log p(y | eta) + log p(eta) with predicted data, and maybe their derivatives, (batch,)."""
    prior = Coordinates.plain(surrogate.prior).log_prior(eta)
    value = surrogate.observation.noise.log_prob(y - predicted[0]) + prior
    # A misfit that is not finite would count as a missing value.
    finite = torch.stack([torch.isfinite(part).flatten(1).all(-1) for part in predicted]).all(0)
    return torch.where(finite, value, -torch.inf)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions (batch, d), not finite where a matrix is singular."""
    return torch.linalg.solve_ex(matrix, right[..., None]).result[..., 0]


def _factor(information: Tensor, curvature: Tensor) -> Tensor:
    """L with L L^T = (A + D)^{-1}, lower triangular, also where A dwarfs D or is rounded."""
    half = _half(curvature.clamp(min=_TINY).rsqrt().diag_embed(), information)
    factor = torch.linalg.qr(half.mT).R.mT
    return factor * factor.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def _with_error(precision: Tensor, covariance: Tensor) -> Tensor:
    """(P^{-1} + C)^{-1} = S (I + S C S)^{-1} S,  S = P^{1/2}, also where P is singular."""
    squares, vectors = torch.linalg.eigh(precision)
    root = vectors * squares.clamp(min=0).sqrt()[..., None, :] @ vectors.mT
    half = _half(root, covariance)
    return half @ half.mT


def _half(root: Tensor, matrix: Tensor) -> Tensor:
    """H with H H^T = S (I + S M S)^{-1} S, for symmetric S and positive semi-definite M."""
    values, vectors = torch.linalg.eigh(root @ matrix @ root)
    return root @ vectors * (1 + values.clamp(min=0)).rsqrt()[..., None, :]
