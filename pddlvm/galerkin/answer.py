"""Answers of the forward map of a finite element problem: means now, variances when asked for.

They are differentiable in a z that requires a gradient.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import check_predictions, is_recorded
from pddlvm.basics.unchanged import Unchanged
from pddlvm.galerkin.bounds import ErrorBounds, reduced_coercivity
from pddlvm.galerkin.forward import Forward
from pddlvm.galerkin.implicit import certificate, solved
from pddlvm.galerkin.refinement import correct, refine
from pddlvm.latent.prediction import unflatten
from pddlvm.reduced.online import Certificate

__all__ = ["forward_of"]


def forward_of(model: Any, z: Tensor, corrections: int, corrected: Tensor | None = None) -> Forward:
    """What a model says of u at z, (..., d).

    Args:
        model: `GalerkinMaps`.
        z: parameters in the support of the prior.
        corrections: Newton steps in the reduced basis.
        corrected: the coefficients after these, (batch, n_modes), where they are known.
    """
    recorded = is_recorded(z)
    if corrections and corrected is None and model.online is not None and not recorded:
        return _solved(model, z)
    with torch.set_grad_enabled(recorded):
        like = model.sigma_residual
        # Standardised before it is rounded: the prior may be narrow and far from zero.
        flat_z = z.to(like.device, torch.float64, copy=True).reshape(-1, z.shape[-1])
        flat = model.problem.prior.standardise(flat_z).to(like)
        c, log_variance = model.forward_map(flat)
        if corrected is not None:
            c = corrected.to(like.device)
        elif corrections:
            with torch.no_grad():
                c = correct(model.exact, model.reduced, c, flat_z, corrections)
            if recorded:
                c = solved(model.exact, c.double().cpu(), flat_z.cpu()).to(c)
        check_predictions(c, flat)
        # Corrections are exact to more digits than the matrices of the map.
        shown = (model.exact if corrections else model.reduced).representation
        b = shown.boundary_coordinates(flat_z.to(shown.rows.device))
        augmented = shown.augment(c.to(shown.rows), b)
        shown.check_range(augmented, z.dtype)
    batch = z.shape[:-1]
    calibrated, reduced = Unchanged(model.uncertainty), Unchanged(model.reduced)

    @cache
    def residual_norm() -> Tensor:
        reduced()
        with torch.set_grad_enabled(recorded):
            mean, there = shown.solution(augmented, torch.float64).cpu(), flat_z.cpu()
            reference, fixed = model.reduction.reference, (mean.detach(), there.detach())
            found = refine(model.exact, reference, *fixed, max_iterations=0).residual_norm
            if recorded:
                found = certificate(model.exact, reference, found, mean, there)
            return found.reshape(batch).to(z)

    def variances() -> tuple[Tensor, Tensor]:
        reduced()
        calibrated().warn_if_not_fitted()
        with torch.set_grad_enabled(recorded):
            norm = residual_norm().reshape(-1, 1).to(flat) if corrections else None
            var_c, var_rest = model.variances(flat, flat_z, c, log_variance, norm)
            return unflatten(var_c, batch), unflatten(var_rest, batch)

    @torch.no_grad()
    def bounds(mean: Callable[[], Tensor]) -> ErrorBounds | None:
        reduced()
        flat_mean = mean().reshape(-1, model.problem.n_dofs).to("cpu", torch.float64)
        found: ErrorBounds | None = model.certifier(flat_mean, flat_z.cpu())
        return found

    @torch.no_grad()
    def stability() -> Tensor:
        reduced()
        return reduced_coercivity(model.exact, c.to("cpu", torch.float64), flat_z.cpu())

    return Forward(
        c=unflatten(c.to(z), batch),
        level=1 if corrections else 0,
        _calibrated=calibrated,
        _reduced=reduced,
        _source=Unchanged(model.exact) if corrections else reduced,
        _augmented=unflatten(augmented, batch),
        _variances=variances,
        _residual_norm=residual_norm,
        _bounds=bounds,
        _stability=stability,
        _primal_dual=model.primal_dual,
        _certifier=lambda: model.certifier,
        _law=model.law_of(min(1, corrections) if model.problem.is_linear else corrections),
        _z=flat_z.cpu(),
    )


def _solved(model: Any, z: Tensor) -> Forward:
    """Solutions in the basis, of a problem whose reduced operators need no mesh (`model.online`).

    Until the mean is asked for nothing has the size of the mesh, certificates and bounds included.
    """
    like, shown, online = model.sigma_residual, model.exact.representation, model.online
    with torch.no_grad():
        flat_z = z.detach().to("cpu", torch.float64, copy=True).reshape(-1, z.shape[-1])
        a, weights = online.solve(flat_z)
        c = a[:, : shown.n_modes]
        largest = float(a.abs().max()) if a.numel() else 0.0
        if not math.isfinite(largest):
            check_predictions(c, model.problem.prior.standardise(flat_z))
        shown.check_size(largest, z.dtype)
    batch = z.shape[:-1]
    calibrated, reduced = Unchanged(model.uncertainty), Unchanged(model.reduced)
    exact = Unchanged(model.exact)
    mapped = None if model.is_calibrated else Unchanged(model.forward_map)

    @cache
    def certificate() -> Certificate:
        exact()
        found: Certificate = online.certify(a, weights, z.dtype)
        return found

    def residual_norm() -> Tensor:
        found = certificate()
        return (found.residual / found.size).reshape(batch).to(z)

    def variances() -> tuple[Tensor, Tensor]:
        reduced()
        calibrated().warn_if_not_fitted()
        z_there = flat_z.to(like.device)
        flat = model.problem.prior.standardise(z_there).to(like)
        with torch.no_grad():
            log_variance = like if mapped is None else mapped()(flat)[1]
            norm = residual_norm().reshape(-1, 1).to(flat)
            var_c, var_rest = model.variances(flat, z_there, c.to(flat), log_variance, norm)
        return unflatten(var_c, batch), unflatten(var_rest, batch)

    def bounds(mean: Callable[[], Tensor]) -> ErrorBounds:
        found = certificate()
        size = torch.zeros_like(found.residual), found.residual, found.rounding
        return ErrorBounds(*size, found.moved, found.lower, found.upper)

    return Forward(
        c=unflatten(c.to(z), batch),
        level=1,
        _calibrated=calibrated,
        _reduced=reduced,
        _source=exact,
        _augmented=unflatten(a, batch),
        _variances=variances,
        _residual_norm=residual_norm,
        _bounds=bounds,
        _stability=lambda: certificate().lower,
        _primal_dual=model.primal_dual,
        _certifier=lambda: model.certifier,
        _law=model.law_of(1),
        _z=flat_z,
    )
