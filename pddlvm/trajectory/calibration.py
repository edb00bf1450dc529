"""Calibration of a trained model of trajectories on fresh draws, without solving the PDE.

    u - mean  =  V Phi e_a  +  rest,     rest = (error of c beyond Phi) + (error beyond V)

The truth is a march in all shapes, more than those of the model; what is beyond these, of a few
draws, -A0^{-1} R of the residual on the mesh. e_a is fitted for each mode, the rest by its size for
each draw and by its shape in space and time.
"""

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count
from pddlvm.basics.random import generator_of
from pddlvm.galerkin.gauss_newton import inverse_features
from pddlvm.trajectory.enrichment import full_error
from pddlvm.trajectory.fields import points_of_fields
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.trajectory.uncertainty import N_LEVELS

__all__ = ["calibrate"]

_N_SAMPLES, _N_NONLINEAR, _MIN_SAMPLES = 256, 128, 64
_N_ON_MESH, _MEMORY = 20, 2**24
"""Draws whose residual is taken on the mesh, fewer on large ones: numbers in their trajectories."""
_N_POINTS = 1000
"""Of a trajectory, at which errors are compared."""
_LEAST = 1e-300


def calibrate(model: TrajectoryMaps, n_samples: int | None, seed: int) -> None:
    """See `LatentVariableModel.calibrate`."""
    if n_samples is None:
        n_samples = _N_SAMPLES if model.problem.is_linear else _N_NONLINEAR
    check_count(_MIN_SAMPLES, n_samples=n_samples)
    generator = generator_of(seed)
    z = model.problem.prior.sample((n_samples,), generator=generator)
    steps = model.reduction.steps
    true = steps.march(steps.drive(z))
    model.uncertainty.is_calibrated.fill_(False)
    _calibrate_forward(model, z, true, generator)
    _calibrate_inverse(model, z, true, generator)
    model.uncertainty.is_calibrated.fill_(True)


@torch.no_grad()
def _calibrate_forward(
    model: TrajectoryMaps, z: Tensor, true: Tensor, generator: torch.Generator
) -> None:
    """Variances of all levels, (n, d) and (n, N, n_shapes) of all shapes."""
    problem, modes, like = model.problem, model.modes, model.sigma_residual
    uncertainty, steps, m = model.uncertainty, model.reduction.steps, model.modes.steps.n
    xi = problem.prior.standardise(z).to(like)
    n_on_mesh = max(4, min(_N_ON_MESH, _MEMORY // (problem.n_times * problem.n_dofs), len(z)))
    own = slice(0, n_on_mesh)
    beyond = torch.from_numpy(full_error(steps, model.reduction.reference, z[own], true[own])[1])
    mapped = model.unit * model.forward_map(xi)[0].double().cpu()
    solved = modes.solve(z)
    marched = modes.steps.march(modes.steps.drive(z))
    free = torch.from_numpy(problem.steady.free_dofs)
    time = torch.randint(problem.n_times, (_N_POINTS,), generator=generator)
    place, field = points_of_fields(problem, _N_POINTS, generator)
    v = steps.v[place]
    at_modes = torch.einsum("jm,jmp->jp", v[:, :m], modes.phi[time])
    for level in range(N_LEVELS):
        a = (mapped, solved, solved)[level]
        c = marched if level == N_LEVELS - 1 else modes.expand(a)
        error = true.clone()
        error[..., :m] -= c
        of_a = modes.project(error[..., :m])
        rest = error.clone()
        rest[..., :m] -= modes.expand(of_a)
        log_size, log_residual = (x.to(xi) for x in model.log_sizes(a, z, level))
        features, base = uncertainty.forward_features(xi, log_size, log_residual)
        log_a = uncertainty.c[level].fit(
            features, base, (of_a / model.unit).to(like), norms=torch.ones_like(like)
        )
        size = (steps.size(rest) / model.unit)[:, None].to(like)
        base = 2 * log_size
        log_rest = uncertainty.rest[level].fit(xi, base, size)
        growth = (0.5 * (uncertainty.rest[level](xi, base))).exp().double().cpu()[:, 0]
        sizes = (model.unit_of_u * growth).clamp(min=_LEAST)[:, None, None]
        scaled, on_mesh = rest / sizes, beyond / sizes[own]
        squares = _squares(steps.v, scaled) + on_mesh.square().mean(0)
        whole = torch.zeros(problem.n_times, problem.n_dofs, dtype=torch.float64)
        whole[:, free] = squares
        uncertainty.fit_rest(level, whole)
        variance = log_a.exp().double().cpu() @ at_modes.square().T * model.unit**2
        shape = uncertainty.rest_of(level, time, free[place]).double().cpu()
        variance = variance + model.unit_of_u**2 * log_rest.exp().double().cpu() * shape
        # What is beyond all shapes is that of another draw where it was not taken.
        borrowed = on_mesh[:, time, place][torch.arange(len(z)) % n_on_mesh]
        errors = torch.einsum("bjm,jm->bj", error[:, time], v)
        errors = errors + model.unit_of_u * growth[:, None] * borrowed
        scores = errors / variance.sqrt().clamp(min=_LEAST)
        of_fields = [scores[:, field == i] for i in range(uncertainty.n_fields)]
        uncertainty.fit_forward_shape(level, of_fields)


def _squares(v: Tensor, c: Tensor) -> Tensor:
    """Mean squares of V c (batch, N, n) over the batch, (N, n_free)."""
    grams = torch.einsum("bki,bkj->kij", c, c) / len(c)
    values, vectors = torch.linalg.eigh(grams)
    factors = vectors * values.clamp(min=0).sqrt()[:, None]
    return torch.stack([(v @ factor).square().sum(1) for factor in factors])


@torch.no_grad()
def _calibrate_inverse(
    model: TrajectoryMaps, z: Tensor, true: Tensor, generator: torch.Generator
) -> None:
    """Variances of the inverse map, and misfits, on nearly exact trajectories."""
    like, uncertainty = model.sigma_residual, model.uncertainty
    exact = model.modes.project(true[..., : model.modes.steps.n]) / model.unit
    xi64 = model.problem.prior.standardise(z)
    known = model.draw_known(len(z), generator)
    mean, log_variance = model.neural_inverse(exact.to(like), xi64.to(like) * known, known)
    features, base = inverse_features(mean, log_variance, None, known)
    errors, unknown = (mean.double().cpu() - xi64).to(like), known == 0
    fitted = uncertainty.xi[0].fit(features, base, errors, counts=unknown.to(like))
    uncertainty.fit_inverse_shapes(0, known, errors / (0.5 * fitted).exp(), unknown)
    none = torch.zeros_like(mean)
    plain = model.neural_inverse(exact.to(like), none, none)[0]
    model.plausibility.fit(0, model.misfit(exact, plain))
