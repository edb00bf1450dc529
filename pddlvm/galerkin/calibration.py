"""Calibration of a trained model on fresh prior draws, without solving a PDE.

The error of a predicted mean is measured against a solution refined by iterations that use only the
factors of K0 and reduced solves (`refinement`), until little of the corrected error is left. Its
part in the basis and the rest are fitted apart. The inverse map is then given the refined
solutions, because those are what a user will give it.
"""

import torch

from pddlvm.basics.checks import check_count
from pddlvm.basics.random import generator_of
from pddlvm.galerkin.gauss_newton import N_INVERSE_CORRECTIONS
from pddlvm.galerkin.inverse_calibration import (
    InverseAnswers,
    fit_inverse,
    is_astray,
    repeats_of,
)
from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.galerkin.refinement import nearly_exact
from pddlvm.parameters.problem import LARGE

__all__ = ["calibrate"]

_MIN_SAMPLES, _MISFITS = 32, 64


def default_n_samples(n_dofs: int) -> int:
    """1024 draws, on large meshes fewer, so that the calibration takes no longer than the rest."""
    return max(128 if n_dofs <= LARGE else 64, min(1024, 550_000 // n_dofs))


def calibrate(model: GalerkinMaps, n_samples: int | None, seed: int) -> None:
    """See `LatentVariableModel.calibrate`."""
    if n_samples is None:
        n_samples = default_n_samples(model.problem.n_dofs)
    check_count(_MIN_SAMPLES, n_samples=n_samples)
    generator = generator_of(seed)
    _calibrate_maps(model, n_samples, generator)
    n_misfits = max(min(_MISFITS, n_samples // 2), n_samples // 8)
    _calibrate_misfit(model, n_misfits, generator)


def _calibrate_maps(model: GalerkinMaps, n_samples: int, generator: torch.Generator) -> None:
    """Fit all variance models; see the module's docstring."""
    problem, like = model.problem, model.sigma_residual
    z64 = problem.prior.sample((n_samples,), generator=generator)
    z = z64.to(like.device)
    xi = problem.prior.standardise(z).to(like)
    predicted, corrected = model.forward(z64), model.forward(z64, corrections=1)
    # Read before the calibration changes what their spread would be.
    means = predicted.mean, corrected.mean
    start = corrected.mean.double().cpu()
    truth = nearly_exact(model.exact, model.reduction.reference, start, z64)
    exact = model.exact.representation
    c_true = exact.project(truth)
    # What is left of the answer itself, so that its rounding is in it; relative to the size of u.
    inside = (c_true - corrected.c.double().cpu()) @ exact.vectors.T
    outside = (truth - corrected.mean.double().cpu()) / exact.units.u
    rest = (outside - inside).to(like)
    uncertainty = model.uncertainty
    uncertainty.is_calibrated.fill_(False)

    free = torch.from_numpy(problem.free_dofs)
    norms = None, corrected.residual_norm[:, None].to(like)
    norms_c = _norms(model)
    fields = [(d.start <= free) & (free < d.stop) for d in problem.fields_of_u.values()]
    for level, forward in enumerate((predicted, corrected)):
        with torch.no_grad():
            sizes = model.log_sizes(forward.c.to(like), z, norms[level])
        features, base = uncertainty.forward_features(xi, *sizes)
        errors = (c_true.to(forward.c) - forward.c).to(like)
        log_c = uncertainty.c[level].fit(features, base, errors, norms=norms_c)
        base = uncertainty.rest_base(*sizes, level)
        log_rest = uncertainty.rest[level].fit(xi, base, rest, norms=torch.ones_like(rest[0]))
        mean = means[level]
        std = model.reduced.representation.std(log_c.exp(), log_rest.exp(), mean).cpu()[:, free]
        error = (mean.cpu() - truth)[:, free]
        scores = error / std.clamp(min=torch.finfo(std.dtype).tiny)
        uncertainty.fit_forward_shape(level, [scores[:, own] for own in fields])
    uncertainty.is_calibrated.fill_(True)
    xi64 = problem.prior.standardise(z64)
    _calibrate_inverse(model, truth.to(like.device), xi64, generator)


def _norms(model: GalerkinMaps) -> torch.Tensor:
    """By how much each coefficient moves u, in all fields alike, (n_modes,)."""
    squares = model.reduced.representation.vectors.square()
    own = [squares[dofs].sum(0) for dofs in model.problem.fields_of_u.values()]
    if len(own) == 1:
        return own[0]
    sizes = torch.stack([part / part.sum().clamp(min=torch.finfo(part.dtype).tiny) for part in own])
    return sizes.sum(0)


def _calibrate_inverse(
    model: GalerkinMaps,
    u: torch.Tensor,
    xi64: torch.Tensor,
    generator: torch.Generator,
) -> None:
    """Residual noise of true solutions, then the variances of the inverse map on them."""
    n_draws, xi = len(xi64), xi64.to(model.sigma_residual)
    z = model.problem.prior.unstandardise(xi64.to(u))
    # In the model's own precision, as for a query: where the map is exact, round-off is the error.
    c = model.reduced.representation.project(u)
    b = model.reduced.representation.boundary_coordinates_of(u)
    with torch.no_grad():
        r = model.reduced.residual(c, z) / c.norm(dim=1, keepdim=True)
        # The largest of them keeps weak directions from being trusted beyond round-off.
        noise = r.square().mean(0).sqrt()
        model.sigma_residual.copy_(noise.clamp(min=1e-6 + 1e-3 * float(noise.max())))
        repeats = repeats_of(n_draws, model.has_known)
        xi64, xi, u, c, b = (part.repeat(repeats, 1) for part in (xi64, xi, u, c, b))
        known = model.draw_known(len(xi), generator)
        mean, log_variance = model.neural_inverse(c, b, xi * known, known)
        found = model.correct_inverse(c, b, mean, known, N_INVERSE_CORRECTIONS)
        misfit = model.misfit(u, xi)
    answers = InverseAnswers(xi64, known, mean, log_variance, found, misfit)
    fit_inverse(model.uncertainty, answers, n_draws)


def _calibrate_misfit(model: GalerkinMaps, n_samples: int, generator: torch.Generator) -> None:
    """Misfits of true solutions, by which those of a query are judged; on draws of their own."""
    z = model.problem.prior.sample((n_samples,), generator=generator)
    start = model.forward(z, corrections=1).mean.double().cpu()
    like = model.sigma_residual
    # As in a query, u keeps its precision until it has no units.
    u = nearly_exact(model.exact, model.reduction.reference, start, z).to(like.device)
    xi = model.problem.prior.standardise(z).to(like)
    none = torch.zeros_like(xi)
    with torch.no_grad():
        plain, searched = (model.invert(u, none, none, n)[0] for n in (0, N_INVERSE_CORRECTIONS))
        model.plausibility.fit(0, model.misfit(u, plain))
        misfit, truth = model.misfit(u, searched), model.misfit(u, xi)
    lost = is_astray(misfit, searched, truth, xi)
    model.plausibility.fit(1, torch.where(lost, truth, misfit))
