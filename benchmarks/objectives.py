"""Spread and coverage of the uncalibrated maps, default objective against that of the paper.

`detached` (default) trains the inverse map on detached draws of u; `coupled` is the objective of
Vadeboncoeur et al. (arXiv 2208.04856), in which log p(z | u) also trains the forward map.
"""

import statistics
from typing import Any, Literal

import torch

import pddlvm
from problems import nonlinear_poisson, poisson

_SEEDS = (0, 1, 2)
_N_SAMPLES = 400
_TOLERANCE = 0.1
_OBJECTIVES: tuple[Literal["detached", "coupled"], ...] = ("detached", "coupled")


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem and objective, medians of the seeds; 0.954 inside +-2 std is right."""
    rows = []
    cases = (("1D linear", poisson.make_1d()), ("1D nonlinear", nonlinear_poisson.make_1d()))
    for name, problem in cases:
        for objective in _OBJECTIVES:
            runs = [_measure(problem, objective, seed, 30 * shorter) for seed in _SEEDS]
            medians = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
            rows.append({"case": name, "objective": objective, **medians})
    return rows


def _measure(
    problem: pddlvm.Problem, objective: Literal["detached", "coupled"], seed: int, seconds: float
) -> dict[str, float]:
    model = pddlvm.LatentVariableModel(
        problem, objective=objective, covariance=pddlvm.EnergyNorm(_TOLERANCE), seed=seed
    )
    pddlvm.train(model, max_seconds=seconds, calibrate=False)
    z = problem.prior.sample((_N_SAMPLES,), seed=1)
    u, xi = problem.solve(z), problem.prior.standardise(z)
    forward, inverse = model.forward(z), model.inverse(u, corrections=0)
    free = torch.from_numpy(problem.free_dofs)
    error = (forward.mean - u)[:, free]
    missed_z = (inverse.xi_mean - xi).abs() > 2 * inverse.xi_std
    plain = {
        "relative_l2": float(((forward.mean - u).norm(dim=1) / u.norm(dim=1)).mean()),
        "relative_std": float((forward.std.norm(dim=1) / u.norm(dim=1)).mean()),
        "coverage_u": float((error.abs() <= 2 * forward.std[:, free]).double().mean()),
        "coverage_z": 1 - float(missed_z.double().mean()),
    }
    model.calibrate()
    report = pddlvm.validate(model, _N_SAMPLES)
    calibrated = {"calibrated_u": report.coverage_u, "calibrated_z": report.coverage_z}
    return {**plain, **calibrated}
