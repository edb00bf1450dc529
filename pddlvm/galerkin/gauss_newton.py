"""Levenberg-Marquardt corrections of the inverse map: the residual of a given u, minimised over z.

For a full solution the PDE itself says how wrong a guess of z is:

    min_xi  |V^T r(u, z(xi)) / sigma|^2 + |(b(z(xi)) - b(u)) / sigma_b|^2 + |xi|^2

sigma is what V^T r of a true solution amounts to, because u has a part outside of the basis; it is
measured by the calibration. No PDE is solved. The damping follows the misfit (Yamashita and
Fukushima, 2001), so that it vanishes where u is explained. The search of `pddlvm.inference.laplace`
for the parameters behind data only ever goes up, between no bounds; here it has to cross ridges.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.linalg.derivatives import linearise
from pddlvm.reduced.residual import ReducedModel

__all__ = ["N_INVERSE_CORRECTIONS", "GaussNewton", "Minimum", "inverse_features"]

N_INVERSE_CORRECTIONS = 20
"""At most this many steps after the neural inverse map."""

_CHUNK = 256
_SIGMA_BOUNDARY = 1e-4
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
_FAR = 12.0
"""Standard deviations of the prior within which a search stays."""

Solutions = tuple[Tensor, Tensor, Tensor]
"""Augmented coefficients, boundary coordinates and sizes of solutions."""


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
        reduced: the reduced model.
        sigma: standard deviation of V^T r / |c| for a true solution, (n_modes,).
    """

    def __init__(self, reduced: ReducedModel, sigma: Tensor) -> None:
        self.reduced = reduced
        self.prior = reduced.prior
        self.sigma = sigma

    def __call__(self, c: Tensor, b: Tensor, xi: Tensor, unknown: Tensor, n_steps: int) -> Minimum:
        """Correct xi, (batch, d), for the solutions with coefficients c and boundary values b.

        A search that got stuck begins again, at draws of the prior (always the same ones).

        Args:
            c: coefficients of u, (batch, n_modes).
            b: boundary coordinates of u, (batch, rank).
            xi: start; known parameters already in place.
            unknown: 1 where a parameter may move, 0 elsewhere, (batch, d).
            n_steps: number of steps; fewer where they become small.
        """
        found = self._search(c, b, xi, unknown, n_steps)
        is_stuck = found.misfit > _STUCK * (len(self.sigma) + b.shape[-1])
        if n_steps == 0 or not is_stuck.any():
            return found
        stuck = is_stuck.nonzero()[:, 0]
        starts = self.prior.sample_standard((_N_RESTARTS,), generator=generator_of(0)).to(xi)
        again = stuck.repeat_interleave(_N_RESTARTS)
        c, b, xi, unknown = (part[again] for part in (c, b, xi, unknown))
        starts = torch.where(unknown > 0, starts.repeat(len(stuck), 1), xi)
        ends = self._search(c, b, starts, unknown, n_steps)
        best = ends.objective.reshape(-1, _N_RESTARTS).argmin(1)
        first = torch.arange(0, len(again), _N_RESTARTS, device=best.device)
        return found.better_of(ends.rows(first + best), stuck)

    def _search(self, c: Tensor, b: Tensor, xi: Tensor, unknown: Tensor, n_steps: int) -> Minimum:
        n = _CHUNK
        pieces = zip(c.split(n), b.split(n), xi.split(n), unknown.split(n), strict=True)
        parts = [self._correct(*piece, n_steps) for piece in pieces]
        return Minimum(*(torch.cat(t) for t in zip(*parts, strict=True)))

    def misfit(self, c: Tensor, b: Tensor, xi: Tensor) -> Tensor:
        """The first two terms of the objective, (batch,)."""
        return self._rows(*self._solutions(c, b), xi).square().sum(-1)

    def _correct(
        self, c: Tensor, b: Tensor, xi: Tensor, unknown: Tensor, n_steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        of = a, b, size = self._solutions(c, b)
        found, least = xi, _objective(self._rows(*of, xi), xi)
        at, damping = xi, torch.full_like(least, _DAMPING)
        going = torch.arange(len(c), device=c.device)
        for _ in range(n_steps):
            if not len(going):
                break
            part = a[going], b[going], size[going]
            trial, _ = self._step(part, at, unknown[going], damping)
            objective = _objective(self._rows(*part, trial), trial)
            best = least[going]
            is_better, is_near = objective < best, objective < _FARTHEST * best
            found = found.index_copy(0, going, torch.where(is_better[:, None], trial, found[going]))
            least = least.index_copy(0, going, torch.where(is_better, objective, best))
            is_going = ~is_near | ((trial - at).abs() > _SMALL_STEP).any(-1)
            at = torch.where(is_near[:, None], trial, at)[is_going]
            damping = torch.where(is_near, _LOWER * damping, _RAISE * damping)[is_going]
            going = going[is_going]
        # Without damping the last step is exact where the residual is affine.
        trial, hessian = self._step(of, found, unknown, torch.zeros_like(least))
        is_better = _objective(self._rows(*of, trial), trial) < least
        found = torch.where(is_better[:, None], trial, found)
        std = torch.linalg.inv(hessian).diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().to(xi)
        return found, std, self._rows(*of, found).square().sum(-1)

    def _step(
        self, of: Solutions, xi: Tensor, unknown: Tensor, damping: Tensor
    ) -> tuple[Tensor, Tensor]:
        """xi - (J^T J + I + damping |rows|^2)^{-1} gradient, within bounds; and J^T J + I."""
        values, slopes = linearise(lambda at: self._rows(*of, at), xi)
        # Directions that u does not determine live on the prior alone, the I: keep it in float64.
        rows, jacobian = values.double(), (slopes * unknown[:, None, :]).double()
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

    def _solutions(self, c: Tensor, b: Tensor) -> Solutions:
        size = c.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return self.reduced.representation.augment(c, b), b, size

    def _rows(self, a: Tensor, b: Tensor, size: Tensor, xi: Tensor) -> Tensor:
        z = self.prior.unstandardise(xi.double())
        r = self.reduced.residual_of(a, z) / (self.sigma * size)
        if b.shape[-1] == 0:
            return r
        misfit = self.reduced.representation.boundary_coordinates(z) - b
        scale = _SIGMA_BOUNDARY * b.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return torch.cat([r, misfit / scale], dim=-1)


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
