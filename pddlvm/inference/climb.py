"""Levenberg-Marquardt on log p(y | h(xi)) + log p(eta), for a batch of data sets.

    (J^T P J + D + B + mu I) step = J^T P (y - h - c) + d log p(eta) / deta,   D that of the prior

mu falls where a step gains what it was expected to, and grows where it gains nothing; all data sets
iterate together. c is zero at first. Where a step disappoints, the data turned aside along it, by
c = h(eta + step) - h - J step, and it is tried again with that (Transtrum and Sethna, 2012). B is
what J^T P J leaves out of the curvature near a maximum, of rank one in each step (Dennis, Gay and
Welsch, 1981). The last step is so small that h is linear along it, and costs no prediction. Data
that contradict the model would send the iteration out of all numbers: it stays within 12 standard
deviations of the prior, where parameters that it pushes against the edge are held.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.inference.modes import objective
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sampling.coordinates import FAR, Coordinates

__all__ = [
    "STUCK_DECREMENT",
    "Maximum",
    "Points",
    "maximise",
    "moved",
    "newton_system",
    "points",
    "solve",
    "spread",
]

_MAX_ITERATIONS = 50
_NO_BETTER = 1e6
"""Damping at which nothing better is near."""
STUCK_DECREMENT = 1e-2
"""That up to which a search without a better step has arrived: at a tenth of a deviation."""
_ROUNDED = 1e-12
"""Part of an objective that is rounding."""
_DAMPING, _LEAST_DAMPING = 1e-3, 1e-8
_AS_EXPECTED = 0.5
"""Part of the expected gain with which the damping falls."""
_CLOSE = 1.0
"""Squared distance, in posterior standard deviations, from which on B is that of the maximum."""
_MOST_TURNED = 0.75
"""How far a step is turned aside, in parts of its length."""
_INDEPENDENT = 1e-8
"""Cosine of directions that tell nothing of each other."""
_TINY = 1e-12


@dataclass(frozen=True)
class Points:
    """eta (batch, d), data there, their derivatives by eta, and the log density that is climbed."""

    eta: Tensor
    data: Tensor
    jacobian: Tensor
    value: Tensor

    def of(self, rows: Tensor) -> "Points":
        """Some of them."""
        return Points(*(part[rows] for part in vars(self).values()))

    def linear(self, eta: Tensor, log_density: Callable[[Tensor, Tensor], Tensor]) -> "Points":
        """Those close by, by the derivatives here."""
        data = self.data + (self.jacobian @ (eta - self.eta)[..., None])[..., 0]
        return Points(eta, data, self.jacobian, log_density(eta, data))

    def joined(self, other: "Points") -> "Points":
        """These and others."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Points(*(torch.cat(pair) for pair in pairs))

    def with_rows(self, rows: Tensor, new: "Points") -> "Points":
        """Some of them replaced."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return Points(*(part.index_copy(0, rows, other) for part, other in pairs))

    def or_better(self, new: "Points") -> tuple["Points", Tensor]:
        """Those replaced that the new ones are not worse than; which are better, (batch,).

        A last step gains less than its value is rounded: it is taken, else rounding would decide.
        """
        rounding = _ROUNDED * self.value.abs()
        rows = (new.value > self.value - rounding).nonzero()[:, 0]
        return self.with_rows(rows, new.of(rows)), new.value > self.value


@dataclass(frozen=True)
class Maximum:
    """Where an iteration ended; whether the maximum is near there, (batch,)."""

    at: Points
    iterations: int
    converged: Tensor

    def joined(self, other: "Maximum", order: Tensor) -> "Maximum":
        """Those of both, in another order."""
        at = self.at.joined(other.at).of(order)
        converged = torch.cat([self.converged, other.converged])[order]
        return Maximum(at, max(self.iterations, other.iterations), converged)


def maximise(surrogate: Surrogate, y: Tensor, at: Points, tolerance: float) -> Maximum:
    """Iterate until the squared Newton decrement of each data set is below the tolerance."""
    prior, precision = surrogate.prior, surrogate.observation.noise.precision
    damping = torch.full((len(y), 1, 1), _DAMPING, dtype=y.dtype)
    identity = torch.eye(prior.size, dtype=y.dtype)
    log_density = partial(objective, surrogate, y)
    if not torch.isfinite(at.value).all():
        eta = torch.where(torch.isfinite(at.value)[:, None], at.eta, 0.0)
        at = points(surrogate, eta, log_density)
    if not torch.isfinite(at.value).all():
        raise ConvergenceError(
            "the predicted data, or their derivatives, are not finite at the centre of the prior; "
            "was the model trained, and does the problem have a solution there?"
        )
    # Those that go on: each search is what it would be alone.
    rows, is_near = torch.arange(len(y)), torch.zeros(len(y), dtype=torch.bool)
    bend = y.new_zeros(len(y), prior.size, prior.size)
    for iterations in count(1):
        here, data = at.of(rows), y[rows]
        hessian, gradient = newton_system(prior, here, data, precision(data - here.data))
        newton = solve(hessian, gradient)
        decrement = (gradient * newton).sum(-1)
        is_last = decrement < tolerance
        scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        # A step of nothing, at the edge or of a singular matrix, is none: the damping grows.
        better, is_good = torch.zeros_like(is_last), torch.zeros_like(is_last)
        last, others = is_last.nonzero()[:, 0], (~is_last).nonzero()[:, 0]
        if len(last):
            log_density = partial(objective, surrogate, data[last])
            there, better[last] = here.of(last).or_better(
                here.of(last).linear(moved(here.eta, newton)[last], log_density)
            )
            here = here.with_rows(last, there)
        if len(others):
            own = _System(hessian, bend, damping * scale * identity, gradient).of(others)
            there, gain, bend[others] = _climbed(surrogate, data[others], here.of(others), own)
            is_good[others], better[others] = gain > _AS_EXPECTED, gain > 0
            bend[others] *= (decrement[others] < _CLOSE)[:, None, None]
            here = here.with_rows(others, there)
        at = at.with_rows(rows, here)
        factor = torch.where(is_good, 0.1, torch.where(better, 1.0, 10.0)).to(damping)
        damping = (damping * factor[:, None, None]).clamp(min=_LEAST_DAMPING)
        # A step that no damping makes better has reached the accuracy of the surrogate.
        is_stuck = ~better & (damping[:, 0, 0] > _NO_BETTER)
        # Stuck, or slow along a curved valley, but there.
        is_near[rows] = decrement < STUCK_DECREMENT + _ROUNDED * here.value.abs()
        goes_on = ~(is_last | is_stuck)
        rows, damping, bend = rows[goes_on], damping[goes_on], bend[goes_on]
        if iterations == _MAX_ITERATIONS or not len(rows):
            return Maximum(at, iterations, is_near)
    raise AssertionError("never reached")


@dataclass(frozen=True)
class _System:
    """(H + B + mu I) step = gradient, for a batch; without B where that is not positive."""

    hessian: Tensor
    bend: Tensor
    damping: Tensor
    gradient: Tensor

    def of(self, rows: Tensor) -> "_System":
        return _System(*(part[rows] for part in vars(self).values()))

    def step(self, gradient: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(self.hessian + self.bend + self.damping)
        is_positive = (info == 0) & torch.isfinite(factor).flatten(1).all(-1)
        bend = torch.where(is_positive[:, None, None], self.bend, 0.0)
        return solve(self.hessian + bend + self.damping, gradient)


def _climbed(
    surrogate: Surrogate, y: Tensor, old: Points, system: _System
) -> tuple[Points, Tensor, Tensor]:
    """The best of old points, a step and a turned step; gain in parts of the expected; new B."""
    precision = surrogate.observation.noise.precision
    density = partial(objective, surrogate, y)
    new = points(surrogate, moved(old.eta, system.step(system.gradient)), density)
    change = new.eta - old.eta
    expected = (0.5 * system.gradient * change).sum(-1).clamp(min=_TINY)
    best, _ = old.or_better(new)
    hessian, gradient = newton_system(surrogate.prior, new, y, precision(y - new.data))
    missed = system.gradient - gradient - (hessian @ change[..., None])[..., 0]
    bend = _bent(system.bend, change, missed)
    is_poor = (best.value - old.value < _AS_EXPECTED * expected) & torch.isfinite(new.value)
    rows = is_poor.nonzero()[:, 0]
    if len(rows):
        aside = new.data - old.data - (old.jacobian @ change[..., None])[..., 0]
        root = precision(y - old.data).at(rows)
        white = root.columns(old.jacobian[rows])
        pull = (white.mT @ root.white(aside[rows].nan_to_num())[..., None])[..., 0]
        turned = system.of(rows).step(system.gradient[rows] - pull)
        is_small = (turned - change[rows]).norm(dim=-1) < _MOST_TURNED * change[rows].norm(dim=-1)
        rows, turned = rows[is_small], turned[is_small]
    if len(rows):
        density = partial(objective, surrogate, y[rows])
        other = points(surrogate, moved(old.eta[rows], turned), density)
        best = best.with_rows(rows, best.of(rows).or_better(other)[0])
    return best, (best.value - old.value) / expected, bend


def _bent(bend: Tensor, step: Tensor, missed: Tensor) -> Tensor:
    """B with B step = what the change of the gradient has beside H step, of rank one more."""
    left = missed - (bend @ step[..., None])[..., 0]
    size = (left * step).sum(-1)
    counts = size.abs() > _INDEPENDENT * left.norm(dim=-1) * step.norm(dim=-1)
    counts &= torch.isfinite(left).all(-1)
    more = left[:, :, None] * left[:, None] / torch.where(counts, size, 1.0)[:, None, None]
    return torch.where(counts[:, None, None], bend + more, bend)


def points(
    surrogate: Surrogate, eta: Tensor, log_density: Callable[[Tensor, Tensor], Tensor]
) -> Points:
    """Those of eta, by the log density of eta and the data; -inf where these are not finite."""
    plain = Coordinates.plain(surrogate.prior)
    # Many searches begin at the same places.
    places, index = eta.unique(dim=0, return_inverse=True)
    data, slope = (x[index] for x in surrogate.linearise(plain.xi_of(places)))
    jacobian = slope * plain.slope(eta)[:, None, :]
    finite = torch.isfinite(data).all(-1) & torch.isfinite(jacobian).flatten(1).all(-1)
    return Points(eta, data, jacobian, torch.where(finite, log_density(eta, data), -torch.inf))


def moved(eta: Tensor, step: Tensor) -> Tensor:
    """After a step that ends where predictions are still believed, (batch, d)."""
    return (eta + step.nan_to_num()).clamp(-FAR, FAR)


def newton_system(
    prior: ParameterSpace, at: Points, y: Tensor, precision: Precision
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


def solve(matrix: Tensor, right: Tensor) -> Tensor:
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


def spread(surrogate: Surrogate, y: Tensor, at: "Points", error: LowRank | None = None) -> Tensor:
    """L of the Gaussian at a maximum, maybe with the error of the surrogate, (batch, d, d)."""
    precision = surrogate.observation.noise.precision(y - at.data)
    if error is not None:
        precision = precision.widened(error)
    curvature = Coordinates.plain(surrogate.prior).prior_slope(at.eta)[1]
    return _factor(precision.columns(at.jacobian), curvature)
