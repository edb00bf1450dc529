"""Calibration of a trained model of trajectories on fresh draws, without solving the PDE.

    u - mean  =  V Phi e_a  +  rest,     rest = (error of c beyond Phi) + (error beyond V)

The truth is a march in all shapes, more than those of the model; what is beyond these, of a few
draws, -A0^{-1} R of the residual on the mesh. e_a is fitted for each mode, the rest by its size for
each draw and by its shape in space and time.
"""

import math

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count
from pddlvm.basics.random import generator_of
from pddlvm.galerkin.gauss_newton import N_INVERSE_CORRECTIONS, Solutions
from pddlvm.galerkin.inverse_calibration import (
    InverseAnswers,
    fit_inverse,
    is_astray,
    repeats_of,
)
from pddlvm.trajectory.enrichment import full_error
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.trajectory.uncertainty import N_LEVELS

__all__ = ["calibrate"]

_N_SAMPLES, _MIN_SAMPLES = 256, 64
_N_ON_MESH, _MEMORY = 20, 2**24
"""Draws whose residual is taken on the mesh, fewer on large ones: numbers in their trajectories."""
_N_POINTS = 1000
"""Of a trajectory, at which errors are compared."""
_LEAST = 1e-300
_ROUNDING = 1e-7


def calibrate(model: TrajectoryMaps, n_samples: int | None, seed: int) -> None:
    """See `LatentVariableModel.calibrate`."""
    n_samples = _N_SAMPLES if n_samples is None else n_samples
    check_count(_MIN_SAMPLES, n_samples=n_samples)
    generator = generator_of(seed)
    z = model.problem.prior.sample((n_samples,), generator=generator)
    steps = model.reduction.steps
    true = steps.march(steps.drive(z))
    on_mesh = max(4, min(_N_ON_MESH, _MEMORY // math.prod(model.problem.solution_shape), len(z)))
    own = slice(0, on_mesh)
    beyond = torch.from_numpy(full_error(steps, model.reduction.reference, z[own], true[own])[1])
    model.uncertainty.is_calibrated.fill_(False)
    _calibrate_forward(model, z, true, beyond, generator)
    _calibrate_inverse(model, z, true, beyond, generator)
    model.uncertainty.is_calibrated.fill_(True)
    z = model.problem.prior.sample((n_samples,), generator=generator)
    _calibrate_misfit(model, z, steps.march(steps.drive(z)), beyond)


@torch.no_grad()
def _calibrate_forward(
    model: TrajectoryMaps, z: Tensor, true: Tensor, beyond: Tensor, generator: torch.Generator
) -> None:
    """Variances of all levels, from z (n, d) and trajectories (n, N, n_shapes) in all shapes."""
    problem, modes, like = model.problem, model.modes, model.sigma_residual
    uncertainty, steps, m = model.uncertainty, model.reduction.steps, model.modes.steps.n
    xi = problem.prior.standardise(z).to(like)
    mapped = model.unit * model.forward_map(xi)[0].double().cpu()
    solved = modes.solve(z)
    marched = modes.steps.march(modes.steps.drive(z))
    free = torch.from_numpy(problem.steady.free_dofs)
    time = torch.randint(problem.n_times, (_N_POINTS,), generator=generator)
    place = torch.randint(len(free), (_N_POINTS,), generator=generator)
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
        scaled, on_mesh = rest / sizes, beyond / sizes[: len(beyond)]
        squares = _squares(steps.v, scaled) + on_mesh.square().mean(0)
        whole = torch.zeros(problem.n_times, problem.n_dofs, dtype=torch.float64)
        whole[:, free] = squares
        uncertainty.fit_rest(level, whole)
        variance = log_a.exp().double().cpu() @ at_modes.square().T * model.unit**2
        shape = uncertainty.rest_of(level, time, free[place]).double().cpu()
        variance = variance + model.unit_of_u**2 * log_rest.exp().double().cpu() * shape
        # What is beyond all shapes is that of another draw where it was not taken.
        borrowed = on_mesh[:, time, place][torch.arange(len(z)) % len(beyond)]
        errors = torch.einsum("bjm,jm->bj", error[:, time], v)
        errors = errors + model.unit_of_u * growth[:, None] * borrowed
        uncertainty.fit_forward_shape(level, [errors / variance.sqrt().clamp(min=_LEAST)])


def _squares(v: Tensor, c: Tensor) -> Tensor:
    """Mean squares of V c (batch, N, n) over the batch, (N, n_free)."""
    grams = torch.einsum("bki,bkj->kij", c, c) / len(c)
    values, vectors = torch.linalg.eigh(grams)
    factors = vectors * values.clamp(min=0).sqrt()[:, None]
    return torch.stack([(v @ factor).square().sum(1) for factor in factors])


@torch.no_grad()
def _calibrate_inverse(
    model: TrajectoryMaps, z: Tensor, true: Tensor, beyond: Tensor, generator: torch.Generator
) -> None:
    """Residual noise of nearly exact trajectories, then the variances of the inverse map."""
    like, prior = model.sigma_residual, model.problem.prior
    of = _solutions(model, z, true, beyond)
    noise = (model.modes.residual(of[0], z) / of[1]).square().mean(0).sqrt()
    # No direction is to be trusted beyond the rounding of a trajectory in float32.
    model.sigma_residual.copy_(noise.clamp(min=_ROUNDING + 1e-3 * float(noise.max())))
    repeats = repeats_of(len(z), model.has_known)
    xi, of = prior.standardise(z).repeat(repeats, 1), tuple(x.repeat(repeats, 1) for x in of)
    known = model.draw_known(len(xi), generator)
    mean, log_variance = model.neural_inverse(of, xi.to(like.device) * known, known)
    found = model.correct_inverse(of, mean, known, N_INVERSE_CORRECTIONS)
    misfit = model.misfit(of, xi).to(like.device)
    answers = InverseAnswers(xi, known, mean, log_variance, found, misfit)
    fit_inverse(model.uncertainty, answers, len(z))


@torch.no_grad()
def _calibrate_misfit(model: TrajectoryMaps, z: Tensor, true: Tensor, beyond: Tensor) -> None:
    """Misfits of true trajectories, by which those of a query are judged; on draws of their own."""
    of, xi = _solutions(model, z, true, beyond), model.problem.prior.standardise(z)
    truth, none = model.misfit(of, xi), torch.zeros_like(xi).to(model.sigma_residual)
    for level, corrections in enumerate((0, N_INVERSE_CORRECTIONS)):
        found = model.invert_rows(of, none, none, corrections)[0].double().cpu()
        misfit = model.misfit(of, found)
        if corrections:
            misfit = torch.where(is_astray(misfit, found, truth, xi), truth, misfit)
        model.plausibility.fit(level, misfit)
    steps, modes = model.reduction.steps, model.modes
    left = true.clone()
    left[..., : modes.steps.n] -= modes.expand(modes.project(true[..., : modes.steps.n]))
    borrowed = steps.size_on_mesh(beyond)[torch.arange(len(z)) % len(beyond)]
    size = (steps.size(left).square() + borrowed.square()).sqrt()
    model.of_left_out.fit(0, size / of[1][:, 0])


def _solutions(model: TrajectoryMaps, z: Tensor, true: Tensor, beyond: Tensor) -> Solutions:
    """What the inverse map sees of trajectories in all shapes, and of what is beyond these."""
    steps = model.modes.steps
    a = model.modes.project(true[..., : steps.n])
    # Of another draw where it was not taken.
    borrowed = model.modes.project(beyond @ steps.mass_v)[torch.arange(len(z)) % len(beyond)]
    return model.rows.of_parts(a + borrowed, steps.boundary(steps.drive(z)))
