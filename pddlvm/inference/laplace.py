"""Gauss-Newton to the most probable parameters, and the Gaussian there.

    maximise  log p(y | h(xi)) + log p(eta),   xi = T(eta) unbounded,   J = dh/deta
    (J^T P J + D + mu I) step = J^T P (y - h) + d log p(eta) / deta,   D the curvature of the prior
    eta | y  ~  N(eta_max, (J^T P J + D)^{-1}),      P the precision of noise and surrogate

Searches follow the noise alone; a maximum is then moved to where noise and error of the surrogate,
held there, have theirs.

Searches from several starts may find several modes: the posterior is then a mixture of Gaussians
with masses  p(y, eta_max) |J^T P J + D|^{-1/2},  by the evidence of each.

Levenberg-Marquardt: mu falls where a step helps and grows where it does not; all data sets of a
batch iterate together, on the forward map as it is until its maximum is near, then on the corrected
one. Any sensors, missing values included, and nothing is trained. Where the prior is Gaussian eta
is xi; where it has bounds, T keeps every draw within them. Data that contradict the model would
send the iteration out of all numbers: it stays within 12 standard deviations of the prior, where
parameters that it pushes against the edge are held.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.inference.density import Density
from pddlvm.inference.mixture import Mixture
from pddlvm.inference.modes import distinct, objective
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import FAR, Coordinates

__all__ = ["Laplace", "laplace"]

_MAX_ITERATIONS, _MAX_MOVES = 50, 5
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
_HOPELESS, _LEAST_MASS = 50.0, 0.01
"""Log densities below the best, and the mass, with which a maximum does not count as a mode."""


@dataclass(frozen=True)
class Laplace:
    """Result for a batch of data sets.

    Attributes:
        modes: coordinates in which the Gaussian of each mode is standard, the heaviest mode first,
            (n_modes, batch, ...).
        masses: of the modes, by their evidences, (n_modes, batch); 0 where a data set has fewer.
        iterations: Gauss-Newton iterations.
        converged: is the maximum of each data set near? (batch,).
        misfit: `Noise.square` of y - h at the maximum, and |xi|^2 of the parameters with a Gaussian
            prior, (batch,): a chi-square where model, noise and prior are right and the model about
            linear.
        degrees: its degrees of freedom, (batch,): the values that are not missing, less what the
            data say about parameters with bounds, which adapt to the data for nothing.
        n_seen: number of values that are not missing, (batch,).
    """

    modes: Coordinates
    masses: Tensor
    iterations: int
    converged: Tensor
    misfit: Tensor
    degrees: Tensor
    n_seen: Tensor

    @property
    def coordinates(self) -> Coordinates:
        """Those of the heaviest mode of each data set."""
        return self.modes.of(0)

    @property
    def density(self) -> Density:
        """The Gaussian, or the mixture of those of all modes."""
        parts = [PushedGaussian(self.modes.of(k)) for k in range(len(self.masses))]
        return parts[0] if len(parts) == 1 else Mixture(parts, self.masses)

    def of(self, i: int) -> "Laplace":
        """That of one data set, a batch of one."""
        row, n_modes = slice(i, i + 1), int((self.masses[:, i] > 0).sum())
        modes = Coordinates(
            self.modes.prior, self.modes.centre[:n_modes, row], self.modes.factor[:n_modes, row]
        )
        rest = (self.converged[row], self.misfit[row], self.degrees[row], self.n_seen[row])
        return Laplace(modes, self.masses[:n_modes, row], self.iterations, *rest)

    def modes_of(self, i: int) -> list[Coordinates]:
        """Those of one data set."""
        n_modes = int((self.masses[:, i] > 0).sum())
        return [self.modes.of(k).of(i) for k in range(n_modes)]


def laplace(surrogate: Surrogate, y: Tensor, start: Tensor | None = None) -> Laplace:
    """Laplace approximations for data sets.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        start: unbounded parameters where searches begin, (batch, n_starts, d), from
            `pddlvm.inference.modes.starts` for instance; by default the centre of the prior alone.

    Raises:
        ConvergenceError: the surrogate is not finite at the centre of the prior, or its error is
            not at a maximum.
    """
    prior, noise, before = surrogate.prior, surrogate.observation.noise, 0
    plain = Coordinates.plain(prior)
    if start is None:
        start = torch.zeros(len(y), 1, prior.size, dtype=y.dtype)
    is_new = torch.ones(start.shape[:2], dtype=torch.bool)
    if surrogate.corrections:
        start, is_new, before = _rough(surrogate, y, start)
    of = is_new.nonzero()[:, 0]
    found = _maximise(surrogate, y[of], start[is_new], _DECREMENT)
    value = objective(surrogate, y[of], found.eta, found.data)
    # Numbers of the searches of each data set; one that was not made has no density.
    index = is_new.flatten().cumsum(0).reshape(is_new.shape) - 1
    value = torch.where(is_new, value[index], -torch.inf)
    best = value.amax(1, keepdim=True)
    is_good = (value == best) | (found.converged[index] & (value > best - _HOPELESS))
    factor = _spread(surrogate, y[of], found)
    value = torch.where(is_good, value, -torch.inf)
    is_mode = distinct(found.eta[index], value, factor[index], partial(_value_at, surrogate, y))
    modes, of = index[is_mode], is_mode.nonzero()[:, 0]
    error = surrogate.covariance(plain.xi_of(found.eta[modes]))
    found = found.with_rows(modes, _moved(surrogate, y[of], found.of(modes), error))
    factor[modes] = _spread(surrogate, y[of], found.of(modes), error)
    masses = is_mode.to(y)
    if len(modes) > len(y):
        evidence = _log_evidence(surrogate, y[of], found.of(modes), error, factor[modes])
        masses = masses.log().masked_scatter(is_mode, evidence).softmax(1)
        masses = torch.where(masses > _LEAST_MASS, masses, 0.0)
        masses = masses / masses.sum(1, keepdim=True)
    masses, order = masses.sort(dim=1, descending=True)
    n_modes = int((masses > 0).sum(1).max())
    masses, index = masses[:, :n_modes].T, index.gather(1, order)[:, :n_modes].T
    index = torch.where(masses > 0, index, index[0])
    first = index[0]
    xi, misfit = plain.xi_of(found.eta[first]), y - found.data[first]
    has_bounds = torch.isfinite(prior.standard_bounds(xi)[1])
    learnt = 1 - plain.prior_slope(found.eta[first])[1] * factor[first].square().sum(-1)
    n_seen = (~torch.isnan(y)).sum(-1)
    return Laplace(
        modes=Coordinates(prior, found.eta[index], factor[index]),
        masses=masses,
        iterations=before + found.iterations,
        converged=found.converged[first],
        misfit=noise.square(misfit) + torch.where(has_bounds, 0.0, xi.square()).sum(-1),
        degrees=(n_seen - torch.where(has_bounds, learnt, 0.0).sum(-1)).clamp(min=_TINY),
        n_seen=n_seen,
    )


def _rough(surrogate: Surrogate, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor, int]:
    """Searches on the forward map as it is: ends like `start`, which differ, and iterations.

    One that meets predictions which the noise cannot hide from their correction may have crossed
    into the basin of another maximum: the search begins again at its start.
    """
    map_alone, plain = surrogate.uncorrected(), Coordinates.plain(surrogate.prior)
    rows, flat = y.repeat_interleave(start.shape[1], 0), start.flatten(0, 1)
    found = _maximise(map_alone, rows, flat, _ROUGH_DECREMENT)
    seen, is_good, values = ~torch.isnan(rows), torch.ones(len(rows), dtype=torch.bool), []
    for eta in (flat, found.eta):
        xi = plain.xi_of(eta)
        data = surrogate.mean(xi)
        error = torch.where(seen, map_alone.mean(xi) - data, rows)
        is_good = is_good & (surrogate.observation.noise.square(error) <= seen.sum(-1))
        values.append(objective(surrogate, rows, eta, data))
    before, after = values
    is_good = is_good & (after >= before)
    eta = torch.where(is_good[:, None], found.eta, flat).reshape(start.shape)
    value = torch.where(is_good, after, before).reshape(start.shape[:2])
    factor = _spread(surrogate, rows, found).reshape(*start.shape, -1)
    is_new = distinct(eta, value, factor, partial(_value_at, map_alone, y))
    is_new = is_new | ~is_good.reshape(value.shape)
    is_new[:, 0] |= ~is_new.any(1)
    return eta, is_new, found.iterations


def _value_at(surrogate: Surrogate, y: Tensor, of: Tensor, eta: Tensor) -> Tensor:
    """log p(y | eta) + log p(eta) of points (k, d) for the data sets of numbers `of` (k,), (k,)."""
    xi = Coordinates.plain(surrogate.prior).xi_of(eta)
    return objective(surrogate, y[of], eta, surrogate.mean(xi))


def _spread(
    surrogate: Surrogate, y: Tensor, found: "_Maximum", error: Tensor | None = None
) -> Tensor:
    """L of the Gaussian at a maximum, maybe with the error of the surrogate, (batch, d, d)."""
    precision = surrogate.observation.noise.precision(y - found.data)
    if error is not None:
        precision = _with_error(precision, error)
    curvature = Coordinates.plain(surrogate.prior).prior_slope(found.eta)[1]
    return _factor(found.jacobian.mT @ precision @ found.jacobian, curvature)


def _log_evidence(
    surrogate: Surrogate, y: Tensor, found: "_Maximum", error: Tensor, factor: Tensor
) -> Tensor:
    """log p(y | eta) p(eta) |L| at a maximum, with the error of the surrogate, (batch,)."""
    noise, seen = surrogate.observation.noise, ~torch.isnan(y)
    value = [
        noise.of_seen(s, c).log_prob(e[s])
        for s, c, e in zip(seen, error, y - found.data, strict=True)
    ]
    size = factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return torch.stack(value) + Coordinates.plain(surrogate.prior).log_prior(found.eta) + size


@dataclass(frozen=True)
class _Maximum:
    """Where the iteration ended: eta (batch, d), data there, and their derivatives by eta."""

    eta: Tensor
    data: Tensor
    jacobian: Tensor
    iterations: int
    converged: Tensor

    def of(self, rows: Tensor) -> "_Maximum":
        """Some of them."""
        parts = (self.eta[rows], self.data[rows], self.jacobian[rows])
        return _Maximum(*parts, self.iterations, self.converged[rows])

    def with_rows(self, rows: Tensor, new: "_Maximum") -> "_Maximum":
        """Some of them replaced."""
        return _Maximum(
            self.eta.index_copy(0, rows, new.eta),
            self.data.index_copy(0, rows, new.data),
            self.jacobian.index_copy(0, rows, new.jacobian),
            self.iterations,
            self.converged.index_copy(0, rows, new.converged),
        )


def _moved(surrogate: Surrogate, y: Tensor, found: _Maximum, error: Tensor) -> _Maximum:
    """The maximum with the error of the surrogate in the precision, both held, by Gauss-Newton.

    Where the error is larger than the noise in some directions only, their sum weighs the data
    otherwise than the noise does.
    """
    plain = Coordinates.plain(surrogate.prior)
    precision = _with_error(surrogate.observation.noise.precision(y - found.data), error)

    def log_density(eta: Tensor, data: Tensor) -> Tensor:
        misfit = (y - data).nan_to_num()
        square = (misfit[:, None, :] @ precision @ misfit[..., None])[:, 0, 0]
        return plain.log_prior(eta) - 0.5 * square

    eta, data, jacobian = found.eta, found.data, found.jacobian
    best = log_density(eta, data)
    for k in range(_MAX_MOVES + 1):
        hessian, gradient = _newton_system(plain, eta, y - data, jacobian, precision)
        step = _solve(hessian, gradient)
        decrement = (gradient * step).sum(-1)
        if k == _MAX_MOVES or not (decrement >= _DECREMENT).any():
            break
        trial = (eta + step.nan_to_num()).clamp(-FAR, FAR)
        trial_data, trial_jacobian = _linearise(surrogate, plain, trial)
        value = log_density(trial, trial_data)
        better = (value > best) & torch.isfinite(trial_jacobian).flatten(1).all(-1)
        if not better.any():
            break
        eta = torch.where(better[:, None], trial, eta)
        best = torch.where(better, value, best)
        data = torch.where(better[:, None], trial_data, data)
        jacobian = torch.where(better[:, None, None], trial_jacobian, jacobian)
    # Where the error hides what stopped the search, that has arrived.
    converged = found.converged | (decrement < _STUCK_DECREMENT)
    return _Maximum(eta, data, jacobian, found.iterations, converged)


def _linearise(surrogate: Surrogate, plain: Coordinates, eta: Tensor) -> tuple[Tensor, Tensor]:
    """Data, and their derivatives by eta."""
    data, slope = surrogate.linearise(plain.xi_of(eta))
    return data, slope * plain.slope(eta)[:, None, :]


def _newton_system(
    plain: Coordinates, eta: Tensor, misfit: Tensor, jacobian: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """J^T P J + D, (batch, d, d), and the gradient, (batch, d); identity and zero where held."""
    weighted = jacobian.mT @ precision
    of_prior, curvature = plain.prior_slope(eta)
    hessian = weighted @ jacobian + curvature.diag_embed()
    gradient = (weighted @ misfit.nan_to_num()[..., None])[..., 0] + of_prior
    # At the edge, and pushed beyond: held there.
    free = ~((eta.abs() >= FAR) & (gradient * eta > 0))
    hessian = hessian * free[:, None, :] * free[:, :, None] + (~free).diag_embed()
    return hessian, gradient * free


def _maximise(surrogate: Surrogate, y: Tensor, eta: Tensor, tolerance: float) -> _Maximum:
    """Iterate until the squared Newton decrement of each data set is below the tolerance."""
    prior, noise = surrogate.prior, surrogate.observation.noise
    plain = Coordinates.plain(prior)
    damping = torch.full((len(y), 1, 1), _DAMPING, dtype=y.dtype)
    identity = torch.eye(prior.size, dtype=y.dtype)

    def linearise(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        data, jacobian = _linearise(surrogate, plain, at)
        return data, jacobian, objective(surrogate, y, at, data, jacobian)

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
        precision = noise.precision(y - data)
        hessian, gradient = _newton_system(plain, eta, y - data, jacobian, precision)
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
    # Slow at the end, along a curved valley, but there.
    if iterations == _MAX_ITERATIONS:
        converged = converged | (decrement < close_enough)
    return _Maximum(eta, data, jacobian, iterations, converged)


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
