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

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pddlvm.inference.basins import explore, explore_roughly, points_of
from pddlvm.inference.climb import (
    STUCK_DECREMENT,
    Points,
    moved,
    newton_system,
    points,
    solve,
    spread,
)
from pddlvm.inference.density import Density
from pddlvm.inference.mixture import Mixture
from pddlvm.inference.modes import distinct, value_at
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["Laplace", "laplace"]

_MAX_MOVES = 5
_DECREMENT, _NEAR_DECREMENT = 1e-6, 1e-4
"""Squared distance to the maximum, in posterior standard deviations, that ends an iteration; and of
one that more data will move."""
_LINEAR = 1e-5
"""The same of steps along which the data are linear to a tenth of their length."""
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


def laplace(
    surrogate: Surrogate, y: Tensor, start: Tensor | None = None, *, is_near: bool = False
) -> Laplace:
    """Laplace approximations for data sets.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        start: unbounded parameters where searches begin, (batch, n_starts, d), from
            `pddlvm.inference.modes.starts` for instance; by default the centre of the prior alone.
        is_near: are they close to maxima, so that no rough surrogate needs to lead there?

    Raises:
        ConvergenceError: the surrogate is not finite at the centre of the prior, or its error is
            not at a maximum.
    """
    prior, noise, before = surrogate.prior, surrogate.observation.noise, 0
    plain = Coordinates.plain(prior)
    if start is None:
        start = torch.zeros(len(y), 1, prior.size, dtype=y.dtype)
    asked = torch.ones(start.shape[:2], dtype=torch.bool)
    if surrogate.corrections and not is_near:
        at, asked, before = explore_roughly(surrogate, y, start)
    else:
        at = points_of(surrogate, y, start, asked)
    searched = explore(surrogate, y, at, asked, _NEAR_DECREMENT if is_near else _DECREMENT)
    kept, found = searched.kept, searched.found
    at, converged, of = found.at, found.converged, kept.nonzero()[:, 0]
    # Numbers of the searches of each data set; one that was not made has no density.
    index = (kept.flatten().cumsum(0).reshape(kept.shape) - 1).clamp(min=0)
    value = torch.where(kept, at.value[index], -torch.inf)
    best = value.amax(1, keepdim=True)
    is_good = (value == best) | (converged[index] & (value > best - _HOPELESS))
    factor = spread(surrogate, y[of], at)
    value = torch.where(is_good, value, -torch.inf)
    is_mode = distinct(at.eta[index], value, factor[index], partial(value_at, surrogate, y))
    modes, of = index[is_mode], is_mode.nonzero()[:, 0]
    error = surrogate.error(plain.xi_of(at.eta[modes]))
    better, arrived = _with_errors(surrogate, y[of], at.of(modes), error)
    at = at.with_rows(modes, better)
    # Where the error hides what stopped the search, that has arrived.
    converged[modes] |= arrived
    factor[modes] = spread(surrogate, y[of], better, error)
    masses = is_mode.to(y)
    if len(modes) > len(y):
        evidence = _log_evidence(surrogate, y[of], better, error, factor[modes])
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


def _log_evidence(
    surrogate: Surrogate, y: Tensor, at: Points, error: LowRank, factor: Tensor
) -> Tensor:
    """log p(y | eta) p(eta) |L| at a maximum, with the error of the surrogate, (batch,)."""
    value = surrogate.observation.noise.widened(~torch.isnan(y), error).log_prob(y - at.data)
    size = factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return value + Coordinates.plain(surrogate.prior).log_prior(at.eta) + size


def _with_errors(
    surrogate: Surrogate, y: Tensor, at: Points, error: LowRank
) -> tuple[Points, Tensor]:
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
        hessian, gradient = newton_system(surrogate.prior, here, y[rows], precision.at(rows))
        step = solve(hessian, gradient)
        decrement[rows] = (gradient * step).sum(-1)
        is_last = decrement[rows] < _LINEAR
        if is_last.any():
            last, eta = rows[is_last], moved(here.eta, step)[is_last]
            there = here.of(is_last).linear(eta, partial(log_density, last))
            at = at.with_rows(last, here.of(is_last).or_better(there)[0])
        goes_on = ~is_last
        if k == _MAX_MOVES or not goes_on.any():
            break
        rows, eta = rows[goes_on], moved(here.eta, step)[goes_on]
        new = points(surrogate, eta, partial(log_density, rows))
        here, better = here.of(goes_on).or_better(new)
        at, rows = at.with_rows(rows, here), rows[better]
        if not len(rows):
            break
    return at, decrement < STUCK_DECREMENT
