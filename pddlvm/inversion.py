"""Gauss-Newton corrections of the inverse map: the residual of a given u, minimised over z.

For a full solution the PDE itself says how wrong a guess of z is:

    min_xi  |V^T r(u, z(xi)) / sigma|^2 + |(b(z(xi)) - b(u)) / sigma_b|^2 + |xi|^2

sigma is what V^T r of a true solution amounts to, because u has a part outside of the basis; it is
measured by the calibration. No PDE is solved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.derivatives import linearise
from pddlvm.reduced import ReducedModel

__all__ = ["N_INVERSE_CORRECTIONS", "GaussNewton", "Laplace", "inverse_features"]

N_INVERSE_CORRECTIONS = 8
"""At most this many Gauss-Newton steps after the neural inverse map."""

_CHUNK = 256
_SIGMA_BOUNDARY = 1e-4
_SMALL_STEP = 1e-4
"""In standard deviations of the prior; the steps shrink quadratically."""
_SHRINK = (1.0, 0.25, 0.0625)


@dataclass(frozen=True)
class Laplace:
    """Minimiser, Laplace standard deviations (batch, d) and the misfit there (batch,)."""

    xi: Tensor
    std: Tensor
    misfit: Tensor


class GaussNewton:
    """Damped Gauss-Newton steps in standard coordinates, batched.

    Args:
        reduced: the reduced model.
        sigma: standard deviation of V^T r / |c| for a true solution, (n_modes,).
    """

    def __init__(self, reduced: ReducedModel, sigma: Tensor) -> None:
        self.reduced = reduced
        self.prior = reduced.prior
        self.sigma = sigma

    def __call__(self, c: Tensor, b: Tensor, xi: Tensor, unknown: Tensor, n_steps: int) -> Laplace:
        """Correct xi, (batch, d), for the solutions with coefficients c and boundary values b.

        Args:
            c: coefficients of u, (batch, n_modes).
            b: boundary coordinates of u, (batch, rank).
            xi: start; known parameters already in place.
            unknown: 1 where a parameter may move, 0 elsewhere, (batch, d).
            n_steps: number of steps; fewer where they become small.
        """
        pieces = [slice(i, i + _CHUNK) for i in range(0, max(1, len(c)), _CHUNK)]
        parts = [self._correct(c[p], b[p], xi[p], unknown[p], n_steps) for p in pieces]
        return Laplace(*(torch.cat(t) for t in zip(*parts, strict=True)))

    def misfit(self, c: Tensor, b: Tensor, xi: Tensor) -> Tensor:
        """The first two terms of the objective, (batch,)."""
        a = self.reduced.representation.augment(c, b)
        size = c.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return self._rows(a, b, size, xi).square().sum(-1)

    def _correct(
        self, c: Tensor, b: Tensor, xi: Tensor, unknown: Tensor, n_steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        a = self.reduced.representation.augment(c, b)
        size = c.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        rows = self._rows(a, b, size, xi)
        for _ in range(n_steps):
            jacobian, hessian = self._linearise(a, b, size, xi, unknown)
            gradient = (jacobian.mT @ rows.double()[..., None])[..., 0] + xi * unknown
            step = -torch.linalg.solve(hessian, gradient[..., None])[..., 0].to(xi)
            before = xi
            xi, rows = self._search(a, b, size, xi, rows, step)
            if not ((xi - before).abs() > _SMALL_STEP).any():
                break
        _, hessian = self._linearise(a, b, size, xi, unknown)
        std = torch.linalg.inv(hessian).diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().to(xi)
        return xi, std, rows.square().sum(-1)

    def _rows(self, a: Tensor, b: Tensor, size: Tensor, xi: Tensor) -> Tensor:
        z = self.prior.unstandardise(xi.double())
        r = self.reduced.residual_of(a, z) / (self.sigma * size)
        if b.shape[-1] == 0:
            return r
        misfit = self.reduced.representation.boundary_coordinates(z) - b
        scale = _SIGMA_BOUNDARY * b.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return torch.cat([r, misfit / scale], dim=-1)

    def _linearise(
        self, a: Tensor, b: Tensor, size: Tensor, xi: Tensor, unknown: Tensor
    ) -> tuple[Tensor, Tensor]:
        """d rows / d xi (batch, n_rows, d), zero for known parameters, and J^T J + I."""
        _, slopes = linearise(lambda at: self._rows(a, b, size, at), xi)
        # Directions that u does not determine live on the prior alone, the I: keep it in float64.
        jacobian = (slopes * unknown[:, None, :]).double()
        identity = torch.eye(xi.shape[-1], dtype=torch.float64, device=xi.device)
        return jacobian, jacobian.mT @ jacobian + identity

    def _search(
        self, a: Tensor, b: Tensor, size: Tensor, xi: Tensor, rows: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first of a few shrunk steps that lowers the objective, per sample; else none."""
        best = rows.square().sum(-1) + xi.square().sum(-1)
        done = torch.zeros_like(best, dtype=torch.bool)
        for shrink in _SHRINK:
            trial = self.prior.clamp_standard(xi + shrink * step)
            trial_rows = self._rows(a, b, size, trial)
            objective = trial_rows.square().sum(-1) + trial.square().sum(-1)
            better = (objective < best) & ~done
            xi = torch.where(better[:, None], trial, xi)
            rows = torch.where(better[:, None], trial_rows, rows)
            done = done | better
            if done.all():
                break
        return xi, rows


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
