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

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.inference.density import Density
from pddlvm.inference.mixture import Mixture
from pddlvm.inference.modes import distinct, objective
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision
from pddlvm.parameters.space import ParameterSpace
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
    at, converged = found.at, found.converged
    # Numbers of the searches of each data set; one that was not made has no density.
    index = is_new.flatten().cumsum(0).reshape(is_new.shape) - 1
    value = torch.where(is_new, at.value[index], -torch.inf)
    best = value.amax(1, keepdim=True)
    is_good = (value == best) | (converged[index] & (value > best - _HOPELESS))
    factor = _spread(surrogate, y[of], at)
    value = torch.where(is_good, value, -torch.inf)
    is_mode = distinct(at.eta[index], value, factor[index], partial(_value_at, surrogate, y))
    modes, of = index[is_mode], is_mode.nonzero()[:, 0]
    error = surrogate.error(plain.xi_of(at.eta[modes]))
    moved, is_near = _with_errors(surrogate, y[of], at.of(modes), error)
    at = at.with_rows(modes, moved)
    # Where the error hides what stopped the search, that has arrived.
    converged[modes] |= is_near
    factor[modes] = _spread(surrogate, y[of], moved, error)
    masses = is_mode.to(y)
    if len(modes) > len(y):
        evidence = _log_evidence(surrogate, y[of], moved, error, factor[modes])
        masses = masses.log().masked_scatter(is_mode, evidence).softmax(1)
        masses = torch.where(masses > _LEAST_MASS, masses, 0.0)
        masses = masses / masses.sum(1, keepdim=True)
    masses, order = masses.sort(dim=1, descending=True)
    n_modes = int((masses > 0).sum(1).max())
    masses, index = masses[:, :n_modes].T, index.gather(1, order)[:, :n_modes].T
    index = torch.where(masses > 0, index, index[0])
    first = index[0]
    xi, misfit = plain.xi_of(at.eta[first]), y - at.data[first]
    has_bounds = torch.isfinite(prior.standard_bounds(xi)[1])
    learnt = 1 - plain.prior_slope(at.eta[first])[1] * factor[first].square().sum(-1)
    n_seen = (~torch.isnan(y)).sum(-1)
    return Laplace(
        modes=Coordinates(prior, at.eta[index], factor[index]),
        masses=masses,
        iterations=before + found.iterations,
        converged=converged[first],
        misfit=noise.square(misfit) + torch.where(has_bounds, 0.0, xi.square()).sum(-1),
        degrees=(n_seen - torch.where(has_bounds, learnt, 0.0).sum(-1)).clamp(min=_TINY),
        n_seen=n_seen,
    )


def _rough(surrogate: Surrogate, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor, int]:
    """Searches on the forward map as it is: ends like `start`, which differ, and iterations.

    One that meets predictions which the noise cannot hide from their correction may have crossed
    into the basin of another maximum: the search begins again at its start. Where the best end of
    each mode is none of these, the others are not asked.
    """
    map_alone = surrogate.uncorrected()
    rows, flat = y.repeat_interleave(start.shape[1], 0), start.flatten(0, 1)
    found = _maximise(map_alone, rows, flat, _ROUGH_DECREMENT)
    eta = found.at.eta
    is_hidden, before = _checked(surrogate, map_alone, rows, flat)
    factor = _spread(surrogate, rows, found.at).reshape(*start.shape, -1)

    def modes(ends: Tensor, value: Tensor) -> Tensor:
        """Which of the ends, of this log density, are modes of their own, (batch, n_starts)."""
        shape, log_density = start.shape, partial(_value_at, map_alone, y)
        return distinct(ends.reshape(shape), value.reshape(shape[:2]), factor, log_density)

    after, is_good = torch.full_like(before, -torch.inf), is_hidden.clone()
    is_asked = torch.zeros_like(is_hidden)
    asked = modes(eta, torch.where(is_hidden, found.at.value, -torch.inf)).flatten()
    while asked.any():
        is_fine, after[asked] = _checked(surrogate, map_alone, rows[asked], eta[asked])
        is_good[asked] &= is_fine & (after[asked] >= before[asked])
        # Then all of the data sets of one that is not.
        is_lost = (is_hidden & ~is_good).reshape(start.shape[:2]).any(1, True)
        is_asked = is_asked | asked
        asked = is_lost.expand(start.shape[:2]).flatten() & is_hidden & ~is_asked
    eta = torch.where(is_good[:, None], eta, flat)
    is_new = modes(eta, torch.where(is_good, after, before))
    is_new = is_new | ~is_good.reshape(is_new.shape)
    is_new[:, 0] |= ~is_new.any(1)
    return eta.reshape(start.shape), is_new, found.iterations


def _checked(
    surrogate: Surrogate, map_alone: Surrogate, y: Tensor, eta: Tensor
) -> tuple[Tensor, Tensor]:
    """Does the noise hide the correction there, and the corrected log density, (batch,) each."""
    xi, index = Coordinates.plain(surrogate.prior).xi_of(eta).unique(dim=0, return_inverse=True)
    # Many searches begin at the same places.
    data, rough = surrogate.mean(xi)[index], map_alone.mean(xi)[index]
    seen = ~torch.isnan(y)
    error = torch.where(seen, rough - data, y)
    is_hidden = surrogate.observation.noise.square(error) <= seen.sum(-1)
    return is_hidden, objective(surrogate, y, eta, data)


def _value_at(surrogate: Surrogate, y: Tensor, of: Tensor, eta: Tensor) -> Tensor:
    """log p(y | eta) + log p(eta) of points (k, d) for the data sets of numbers `of` (k,), (k,)."""
    xi = Coordinates.plain(surrogate.prior).xi_of(eta)
    return objective(surrogate, y[of], eta, surrogate.mean(xi))


def _spread(surrogate: Surrogate, y: Tensor, at: "_Points", error: LowRank | None = None) -> Tensor:
    """L of the Gaussian at a maximum, maybe with the error of the surrogate, (batch, d, d)."""
    precision = surrogate.observation.noise.precision(y - at.data)
    if error is not None:
        precision = precision.widened(error)
    curvature = Coordinates.plain(surrogate.prior).prior_slope(at.eta)[1]
    return _factor(precision.columns(at.jacobian), curvature)


def _log_evidence(
    surrogate: Surrogate, y: Tensor, at: "_Points", error: LowRank, factor: Tensor
) -> Tensor:
    """log p(y | eta) p(eta) |L| at a maximum, with the error of the surrogate, (batch,)."""
    value = surrogate.observation.noise.widened(~torch.isnan(y), error).log_prob(y - at.data)
    size = factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return value + Coordinates.plain(surrogate.prior).log_prior(at.eta) + size


@dataclass(frozen=True)
class _Points:
    """eta (batch, d), data there, their derivatives by eta, and the log density that is climbed."""

    eta: Tensor
    data: Tensor
    jacobian: Tensor
    value: Tensor

    def of(self, rows: Tensor) -> "_Points":
        """Some of them."""
        return _Points(*(part[rows] for part in vars(self).values()))

    def with_rows(self, rows: Tensor, new: "_Points") -> "_Points":
        """Some of them replaced."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return _Points(*(part.index_copy(0, rows, other) for part, other in pairs))

    def or_better(self, new: "_Points") -> tuple["_Points", Tensor]:
        """Those replaced that the new ones are not worse than; which are better, (batch,).

        A last step gains less than its value is rounded: it is taken, else rounding would decide.
        """
        rounding = _ROUNDED * self.value.abs()
        rows = (new.value > self.value - rounding).nonzero()[:, 0]
        return self.with_rows(rows, new.of(rows)), new.value > self.value


@dataclass(frozen=True)
class _Maximum:
    """Where an iteration ended; whether the maximum is near there, (batch,)."""

    at: _Points
    iterations: int
    converged: Tensor


def _maximise(surrogate: Surrogate, y: Tensor, eta: Tensor, tolerance: float) -> _Maximum:
    """Iterate until the squared Newton decrement of each data set is below the tolerance."""
    prior, precision = surrogate.prior, surrogate.observation.noise.precision
    damping = torch.full((len(y), 1, 1), _DAMPING, dtype=y.dtype)
    identity = torch.eye(prior.size, dtype=y.dtype)
    log_density = partial(objective, surrogate, y)
    at = _points(surrogate, eta, log_density)
    if not torch.isfinite(at.value).all():
        eta = torch.where(torch.isfinite(at.value)[:, None], eta, 0.0)
        at = _points(surrogate, eta, log_density)
    if not torch.isfinite(at.value).all():
        raise ConvergenceError(
            "the predicted data, or their derivatives, are not finite at the centre of the prior; "
            "was the model trained, and does the problem have a solution there?"
        )
    # Those that go on: each search is what it would be alone.
    rows, is_near = torch.arange(len(y)), torch.zeros(len(y), dtype=torch.bool)
    for iterations in count(1):
        here, data = at.of(rows), y[rows]
        hessian, gradient = _newton_system(prior, here, data, precision(data - here.data))
        decrement = (gradient * _solve(hessian, gradient)).sum(-1)
        scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        step = _solve(hessian + damping * scale * identity, gradient)
        # A step of nothing, at the edge or of a singular matrix, is none: the damping grows.
        log_density = partial(objective, surrogate, data)
        here, better = here.or_better(_points(surrogate, _moved(here.eta, step), log_density))
        at = at.with_rows(rows, here)
        damping = torch.where(better[:, None, None], 0.1 * damping, 10.0 * damping)
        # A step that no damping makes better has reached the accuracy of the surrogate.
        is_stuck = ~better & (damping[:, 0, 0] > _NO_BETTER)
        # Stuck, or slow along a curved valley, but there.
        is_near[rows] = decrement < _STUCK_DECREMENT + _ROUNDED * here.value.abs()
        goes_on = ~((decrement < tolerance) | is_stuck)
        rows, damping = rows[goes_on], damping[goes_on]
        if iterations == _MAX_ITERATIONS or not len(rows):
            return _Maximum(at, iterations, is_near)
    raise AssertionError("never reached")


def _with_errors(
    surrogate: Surrogate, y: Tensor, at: _Points, error: LowRank
) -> tuple[_Points, Tensor]:
    """The maximum with the error of the surrogate in the precision, both held; is it near?

    Where the error is larger than the noise in some directions only, their sum weighs the data
    otherwise than the noise does. It is not far: undamped steps, as long as they help.
    """
    plain = Coordinates.plain(surrogate.prior)
    precision = surrogate.observation.noise.precision(y - at.data).widened(error)

    def log_density(rows: Tensor, eta: Tensor, data: Tensor) -> Tensor:
        white = precision.at(rows).white((y[rows] - data).nan_to_num())
        return plain.log_prior(eta) - 0.5 * white.square().sum(-1)

    rows = torch.arange(len(y))
    at, decrement = replace(at, value=log_density(rows, at.eta, at.data)), y.new_zeros(len(y))
    for k in range(_MAX_MOVES + 1):
        here = at.of(rows)
        hessian, gradient = _newton_system(surrogate.prior, here, y[rows], precision.at(rows))
        step = _solve(hessian, gradient)
        decrement[rows] = (gradient * step).sum(-1)
        goes_on = decrement[rows] >= _DECREMENT
        if k == _MAX_MOVES or not goes_on.any():
            break
        rows, eta = rows[goes_on], _moved(here.eta, step)[goes_on]
        new = _points(surrogate, eta, partial(log_density, rows))
        here, better = here.of(goes_on).or_better(new)
        at, rows = at.with_rows(rows, here), rows[better]
    return at, decrement < _STUCK_DECREMENT


def _points(
    surrogate: Surrogate, eta: Tensor, log_density: Callable[[Tensor, Tensor], Tensor]
) -> _Points:
    """Those of eta, by the log density of eta and the data; -inf where these are not finite."""
    plain = Coordinates.plain(surrogate.prior)
    # Many searches begin at the same places.
    places, index = eta.unique(dim=0, return_inverse=True)
    data, slope = (x[index] for x in surrogate.linearise(plain.xi_of(places)))
    jacobian = slope * plain.slope(eta)[:, None, :]
    finite = torch.isfinite(data).all(-1) & torch.isfinite(jacobian).flatten(1).all(-1)
    return _Points(eta, data, jacobian, torch.where(finite, log_density(eta, data), -torch.inf))


def _moved(eta: Tensor, step: Tensor) -> Tensor:
    return (eta + step.nan_to_num()).clamp(-FAR, FAR)


def _newton_system(
    prior: ParameterSpace, at: _Points, y: Tensor, precision: Precision
) -> tuple[Tensor, Tensor]:
    """J^T P J + D, (batch, d, d), and the gradient, (batch, d); identity and zero where held."""
    white, misfit = precision.columns(at.jacobian), precision.white((y - at.data).nan_to_num())
    of_prior, curvature = Coordinates.plain(prior).prior_slope(at.eta)
    hessian = white.mT @ white + curvature.diag_embed()
    gradient = (white.mT @ misfit[..., None])[..., 0] + of_prior
    # At the edge, and pushed beyond: held there.
    free = ~((at.eta.abs() >= FAR) & (gradient * at.eta > 0))
    hessian = hessian * free[:, None, :] * free[:, :, None] + (~free).diag_embed()
    return hessian, gradient * free


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions (batch, d), not finite where a matrix is singular."""
    return torch.linalg.solve_ex(matrix, right[..., None]).result[..., 0]


def _factor(white: Tensor, curvature: Tensor) -> Tensor:
    """L with L L^T = (W^T W + D)^{-1}, lower triangular, also where W dwarfs D or is rounded."""
    root = curvature.clamp(min=_TINY).rsqrt()
    scaled = white * root[:, None, :]
    squares, vectors = torch.linalg.eigh(scaled.mT @ scaled)
    half = root[..., None] * vectors * (1 + squares.clamp(min=0)).rsqrt()[..., None, :]
    factor = torch.linalg.qr(half.mT).R.mT
    return factor * factor.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
