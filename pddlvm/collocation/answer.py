"""Answers of the forward map in strong form: means now, variances when they are asked for.

They are differentiable in a z that requires a gradient. Those of corrections are solutions n of
the equations at the nodes, r(lift + n, z) = 0, and not of the steps that led there:

    dn/dz  =  -(dr/dn)^{-1} dr/dz
"""

from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import is_recorded
from pddlvm.basics.errors import InputError
from pddlvm.basics.unchanged import Unchanged
from pddlvm.collocation.field import Asked, FieldForward, Spread
from pddlvm.latent.prediction import unflatten
from pddlvm.linalg.derivatives import with_slope
from pddlvm.strong.jets import Jet, rows_of
from pddlvm.strong.newton import SpaceTimeNewton

__all__ = ["forward_of"]


def forward_of(
    model: Any, z: Tensor, corrections: int, points: Tensor | None, check: bool
) -> FieldForward:
    """What a model says of u at z, (..., d).

    Args:
        model: `CollocationMaps`.
        z: parameters.
        corrections: Newton steps on the nodes.
        points: where, (n_points, k); by default on the grid.
        check: refuse means that are not finite.
    """
    recorded, level = is_recorded(z), 1 if corrections else 0
    batch, like, same = z.shape[:-1], model.sigma_residual, Unchanged(model)
    problem = model.problem
    with torch.set_grad_enabled(recorded):
        # Standardised before it is rounded: the prior may be narrow and far from zero.
        work = z.to(like.device, torch.float64, copy=True).reshape(-1, z.shape[-1])
        xi = problem.prior.standardise(work).to(like)
        c, log_variance = model.forward_map(xi)
        nodal = model.basis.nodal(c)
        jet = _corrected(model.newton, nodal, work, corrections) if corrections else {}
        residual = size = model.log_residual(c, work, jet)
        if points is not None and not jet:
            mean = model.basis.at_points(c, work, points)
        else:
            nodal = problem.unknowns.join(jet[()]) if jet else nodal
            mean = model.basis.field_of(nodal, work, points)
            size = model.newton.log_tail(nodal, model.basis.unit).to(like) if jet else residual
    if check:
        model.basis.check(mean.detach(), xi, z.dtype)
    x = problem.grid_points if points is None else points
    field = model.error_field(work, points, level)

    def variances() -> tuple[Tensor, Tensor]:
        same().uncertainty.warn_if_not_fitted()
        found: tuple[Tensor, Tensor] = same().variances(xi, size, log_variance, level)
        return found

    def std() -> Tensor:
        with torch.set_grad_enabled(recorded):
            return field.std(*variances())

    def spread() -> Spread:
        with torch.set_grad_enabled(recorded):
            return field.spread(*variances()).to(z.device)

    norm = unflatten(residual.exp(), batch)[..., 0].to(z)
    shape = model.uncertainty.forward_shape(level)
    mean = unflatten(mean.to(z), batch)
    asked = Asked(problem, work.cpu(), points is None, model.law_of(corrections))
    return FieldForward(mean, x.detach().to(z), norm, shape, problem.unknowns, std, spread, asked)


def _corrected(newton: SpaceTimeNewton, nodal: Tensor, z: Tensor, n_steps: int) -> Jet:
    """Jet of corrected u less its lift, at the nodes, with a derivative where z has one."""
    recorded, there = is_recorded(z), z.cpu()
    if recorded and newton.is_separable:
        raise InputError(
            "z requires a gradient, and corrections in three coordinates have none; take that of "
            "corrections=0, or give z.detach()"
        )
    with torch.no_grad():
        n = newton.steps(nodal, there, n_steps)
    if recorded:
        with torch.no_grad():
            jet = newton.jet(n, there)
            one_by_one = (rows_of(jet, slice(i, i + 1)) for i in range(len(n)))
            pairs = zip(one_by_one, there.split(1), strict=True)
            solvers = [newton.factorise(at, own) for at, own in pairs]
        rows = newton.rows(newton.jet(n, there), there).split(1)
        step = torch.cat([solve(r) for solve, r in zip(solvers, rows, strict=True)])
        n = with_slope(n, step)
    return {k: u.to(nodal.device) for k, u in newton.unlifted(n, there).items()}
