"""Levenberg-Marquardt corrections of the inverse map: the residual of a given u, minimised over z.

For a full solution the PDE itself says how wrong a guess of z is:

    min_xi  |rows(u, xi)|^2 + |xi|^2

    rows  =  V^T r(u, z(xi)) / (sigma |c|),   (b(z(xi)) - b(u)) / (sigma_b |b|)       steady ones

sigma is what V^T r / |c| of a true solution amounts to, because u has a part outside of the basis;
it is measured by the calibration. No PDE is solved. The damping follows the misfit (Yamashita and
Fukushima, 2001), so that it vanishes where u is explained. The search of `pddlvm.inference.laplace`
for the parameters behind data only ever goes up, between no bounds; here it has to cross ridges.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.linalg.derivatives import linearise
from pddlvm.parameters.space import ParameterSpace
from pddlvm.reduced.fixed_state import FixedState
from pddlvm.reduced.residual import ReducedModel

__all__ = [
    "N_INVERSE_CORRECTIONS",
    "SIGMA_BOUNDARY",
    "GaussNewton",
    "Minimum",
    "ResidualRows",
    "Rows",
    "Solutions",
    "inverse_features",
]

N_INVERSE_CORRECTIONS = 20
"""At most this many steps after the neural inverse map."""

_CHUNK, _ROOM = 256, 2**26
"""Solutions of which rows are held at once; on large meshes numbers, some 256 MiB, in these."""
SIGMA_BOUNDARY = 1e-4
"""Of boundary values, relative to their size."""
_SMALL_STEP = 1e-4
"""In standard deviations of the prior; the steps shrink quadratically."""
_DAMPING, _LOWER, _RAISE = 1e-2, 0.2, 10.0
_FARTHEST = 1e6
"""Times the least objective that a step may have: valleys are narrow and bent, and a search that
only ever goes down creeps along them. The best point is kept."""
_STUCK = 10.0
"""Times the misfit that a true solution is expected to have, from which on a search begins again:
most ends beyond are local minima at the bounds, the others are of a u that is no solution."""
_N_RESTARTS = 8
"""Near its start and as many anywhere: valleys are narrow, and the neural map is hardly ever far
from the right one."""
_NEAR = 0.1
_FAR = 12.0
"""Standard deviations of the prior within which a search stays."""

Solutions = tuple[Tensor, ...]
"""What rows know of solutions, (batch, ...) each."""


class Rows(ABC):
    """How badly parameters explain solutions: the sum of the squares of the rows.

    Attributes:
        n: number of rows, which is about what a true solution has.
    """

    n: int

    @abstractmethod
    def __call__(self, of: Solutions, xi: Tensor) -> Tensor:
        """Rows (batch, n) at xi (batch, d), differentiable."""

    @abstractmethod
    def linearise(self, of: Solutions, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, and their derivatives by xi, (batch, n, d)."""

    @property
    def n_at_once(self) -> int:
        """Solutions that there is room for."""
        return _CHUNK

    def held(self, of: Solutions) -> "Held":
        """Rows of some solutions, for many xi."""
        return Held(self, of)


@dataclass(frozen=True)
class Held:
    """Rows of some solutions, `of`, as a function of xi alone."""

    rows: Rows
    of: Solutions

    def __call__(self, xi: Tensor) -> Tensor:
        """Rows (batch, n) at xi (batch, d)."""
        return self.rows(self.of, xi)

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, and their derivatives by xi, (batch, n, d)."""
        return self.rows.linearise(self.of, xi)

    def take(self, rows: Tensor) -> "Held":
        """Of some of the solutions."""
        return Held(self.rows, tuple(part[rows] for part in self.of))


class ResidualRows(Rows):
    """Those of steady solutions.

    Args:
        reduced: the reduced model.
        sigma: standard deviation of V^T r / |c| for a true solution, (n_modes,).
        rank: number of boundary coordinates.
    """

    def __init__(self, reduced: ReducedModel, sigma: Tensor, rank: int) -> None:
        self.reduced, self._sigma = reduced, sigma
        self.n = len(sigma) + rank

    def of(self, c: Tensor, b: Tensor) -> Solutions:
        """Of coefficients (batch, n_modes) and boundary coordinates (batch, rank)."""
        size = c.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return self.reduced.representation.augment(c, b), b, size

    def __call__(self, of: Solutions, xi: Tensor) -> Tensor:  # noqa: D102
        z = self.reduced.prior.unstandardise(xi.double())
        return self.joined(of, self.reduced.residual_of(of[0], z), z)

    def linearise(self, of: Solutions, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.held(of).linearise(xi)

    @property
    def n_at_once(self) -> int:  # noqa: D102
        return max(1, min(_CHUNK, _ROOM // max(1, FixedState.size_of(self.reduced))))

    def held(self, of: Solutions) -> Held:  # noqa: D102
        return _HeldResidual(self, of, FixedState.of(self.reduced, of[0]))

    def joined(self, of: Solutions, r: Tensor, z: Tensor) -> Tensor:
        """Rows, of W^T r (batch, n_tests) at z."""
        _, b, size = of
        r = r / (self._sigma * size)
        if b.shape[-1] == 0:
            return r
        misfit = self.reduced.representation.boundary_coordinates(z) - b
        return torch.cat([r, misfit / _scale(b)], dim=-1)

    def joined_slopes(self, of: Solutions, slope: Tensor, z: Tensor) -> Tensor:
        """Their derivatives by z, of those of W^T r (batch, n_tests, d)."""
        _, b, size = of
        slope = slope / (self._sigma * size)[..., None]
        if b.shape[-1] == 0:
            return slope
        _, by_z = linearise(self.reduced.representation.boundary_coordinates, z)
        return torch.cat([slope, (by_z / _scale(b)[..., None]).to(slope)], dim=1)


@dataclass(frozen=True)
class _HeldResidual(Held):
    """What does not depend on z is made once."""

    rows: ResidualRows
    state: FixedState

    def __call__(self, xi: Tensor) -> Tensor:
        z = self.rows.reduced.prior.unstandardise(xi.double())
        return self.rows.joined(self.of, self.state.residual(z), z)

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        z, by_xi = self.rows.reduced.prior.with_slope(xi.double())
        r, slope = self.state.linearise(z)
        return self.rows.joined(self.of, r, z), by_xi(self.rows.joined_slopes(self.of, slope, z))

    def take(self, rows: Tensor) -> "_HeldResidual":
        of = tuple(part[rows] for part in self.of)
        return _HeldResidual(self.rows, of, self.state.take(rows))


def _scale(b: Tensor) -> Tensor:
    return SIGMA_BOUNDARY * b.norm(dim=-1, keepdim=True).clamp(min=1e-6)


@dataclass(frozen=True)
class Minimum:
    """Minimiser, Laplace standard deviations (batch, d) and the misfit there (batch,)."""

    xi: Tensor
    std: Tensor
    misfit: Tensor

    @property
    def objective(self) -> Tensor:
        """The misfit and |xi|^2, (batch,)."""
        return self.misfit.double() + self.xi.double().square().sum(-1)

    def rows(self, rows: Tensor) -> "Minimum":
        """Some of them."""
        return Minimum(self.xi[rows], self.std[rows], self.misfit[rows])

    def better_of(self, others: "Minimum", rows: Tensor) -> "Minimum":
        """These, but for the rows, (n_rows,), that the others, one for each, explain better."""
        is_better = others.objective < self.rows(rows).objective
        rows, others = rows[is_better], others.rows(is_better)
        pairs = (self.xi, others.xi), (self.std, others.std), (self.misfit, others.misfit)
        return Minimum(*(old.index_copy(0, rows, new) for old, new in pairs))


class GaussNewton:
    """Levenberg-Marquardt steps in standard coordinates, batched.

    Args:
        prior: of z.
        rows: what is minimised.
    """

    def __init__(self, prior: ParameterSpace, rows: Rows) -> None:
        self.prior, self.rows = prior, rows

    def __call__(self, of: Solutions, xi: Tensor, unknown: Tensor, n_steps: int) -> Minimum:
        """Correct xi, (batch, d), for solutions.

        A search that got stuck begins again, near its start and at draws of the prior (always the
        same ones).

        Args:
            of: the solutions, as the rows know them.
            xi: start; known parameters already in place.
            unknown: 1 where a parameter may move, 0 elsewhere, (batch, d).
            n_steps: number of steps; fewer where they become small.
        """
        found = self._search(of, xi, unknown, n_steps)
        is_stuck = found.misfit > _STUCK * self.rows.n
        if n_steps == 0 or not is_stuck.any():
            return found
        stuck = is_stuck.nonzero()[:, 0]
        draws = self.prior.sample_standard((2, _N_RESTARTS), generator=generator_of(0)).to(xi)
        near = self.prior.clamp_standard(xi[stuck, None] + _NEAR * draws[0])
        starts = torch.cat([near, draws[1].expand_as(near)], dim=1).flatten(0, 1)
        again = stuck.repeat_interleave(2 * _N_RESTARTS)
        of, xi, unknown = tuple(part[again] for part in of), xi[again], unknown[again]
        starts = torch.where(unknown > 0, starts, xi)
        ends = self._search(of, starts, unknown, n_steps)
        best = ends.objective.reshape(len(stuck), -1).argmin(1)
        first = torch.arange(0, len(again), 2 * _N_RESTARTS, device=best.device)
        return found.better_of(ends.rows(first + best), stuck)

    def _search(self, of: Solutions, xi: Tensor, unknown: Tensor, n_steps: int) -> Minimum:
        found = []
        for own in torch.arange(len(xi), device=xi.device).split(self.rows.n_at_once):
            part = tuple(x[own] for x in of)
            found.append(self._correct(part, xi[own], unknown[own], n_steps))
        return Minimum(*(torch.cat(t) for t in zip(*found, strict=True)))

    def misfit(self, of: Solutions, xi: Tensor) -> Tensor:
        """The first term of the objective, (batch,)."""
        return self.rows(of, xi).square().sum(-1)

    def _correct(
        self, of: Solutions, xi: Tensor, unknown: Tensor, n_steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        part = held = self.rows.held(of)
        here = _Linearised(*held.linearise(xi))
        found, least = xi, _objective(here.rows, xi)
        at, damping = xi, torch.full_like(least, _DAMPING)
        going = torch.arange(len(xi), device=xi.device)
        for _ in range(n_steps):
            if not len(going):
                break
            trial, _ = self._step(here, at, unknown[going], damping)
            there = _Linearised(*part.linearise(trial))
            objective, best = _objective(there.rows, trial), least[going]
            is_better, is_near = objective < best, objective < _FARTHEST * best
            found = found.index_copy(0, going, torch.where(is_better[:, None], trial, found[going]))
            least = least.index_copy(0, going, torch.where(is_better, objective, best))
            is_going = ~is_near | ((trial - at).abs() > _SMALL_STEP).any(-1)
            at = torch.where(is_near[:, None], trial, at)[is_going]
            here = there.where(is_near, here).take(is_going)
            damping = torch.where(is_near, _LOWER * damping, _RAISE * damping)[is_going]
            if not is_going.all():
                going, part = going[is_going], part.take(is_going.nonzero()[:, 0])
        # Without damping the last step is exact where the residual is affine.
        here = _Linearised(*held.linearise(found))
        trial, hessian = self._step(here, found, unknown, torch.zeros_like(least))
        is_better = _objective(held(trial), trial) < least
        found = torch.where(is_better[:, None], trial, found)
        std = torch.linalg.inv(hessian).diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().to(xi)
        # Of the rows themselves, whatever was held.
        return found, std, self.misfit(of, found)

    def _step(
        self, here: "_Linearised", xi: Tensor, unknown: Tensor, damping: Tensor
    ) -> tuple[Tensor, Tensor]:
        """xi - (J^T J + I + damping |rows|^2)^{-1} gradient, within bounds; and J^T J + I."""
        # Directions that u does not determine live on the prior alone, the I: keep it in float64.
        rows, jacobian = here.rows.double(), (here.slopes * unknown[:, None, :]).double()
        identity = torch.eye(xi.shape[-1], dtype=torch.float64, device=xi.device)
        hessian = jacobian.mT @ jacobian + identity
        gradient = (jacobian.mT @ rows[..., None])[..., 0] + xi * unknown
        low, high = (x.clamp(-_FAR, _FAR) for x in self.prior.standard_bounds(xi))
        # At a bound, and pushed beyond: held there.
        free = ~(((xi <= low) & (gradient > 0)) | ((xi >= high) & (gradient < 0)))
        matrix = hessian * free[:, None, :] * free[:, :, None]
        extra = (damping * rows.square().sum(-1))[:, None] + (~free).double()
        step = torch.linalg.solve(matrix + extra.diag_embed(), (gradient * free)[..., None])
        return (xi - step[..., 0].to(xi)).clamp(low, high), hessian


@dataclass(frozen=True)
class _Linearised:
    """Rows (batch, n) and their derivatives (batch, n, d) somewhere."""

    rows: Tensor
    slopes: Tensor

    def where(self, taken: Tensor, other: "_Linearised") -> "_Linearised":
        """These for those that are taken (batch,), the other ones for the rest."""
        if taken.all():
            return self
        return _Linearised(
            torch.where(taken[:, None], self.rows, other.rows),
            torch.where(taken[:, None, None], self.slopes, other.slopes),
        )

    def take(self, kept: Tensor) -> "_Linearised":
        """Of some of the batch."""
        return self if kept.all() else _Linearised(self.rows[kept], self.slopes[kept])


def _objective(rows: Tensor, xi: Tensor) -> Tensor:
    return rows.double().square().sum(-1) + xi.double().square().sum(-1)


def inverse_features(
    xi: Tensor, base: Tensor, misfit: Tensor | None, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of the inverse map's variance model, and its base log variance.

    The features are xi, the mean base of the unknown parameters, the misfit, what is known.
    """
    # The Laplace variance of a known parameter says nothing: it is left out.
    unknown = 1 - known
    base = base * unknown
    level = base.sum(-1, keepdim=True) / unknown.sum(-1, keepdim=True).clamp(min=1)
    extra = torch.zeros_like(level) if misfit is None else (misfit[:, None] + 1e-12).log()
    return torch.cat([xi, level, extra, known], dim=-1), base
