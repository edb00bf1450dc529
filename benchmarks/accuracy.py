"""Accuracy after given training times, median of three seeds, against the reference solver."""

import statistics
import time
from typing import Any

import pddlvm
from examples import poisson_mesh_file
from problems import nonlinear_poisson, poisson, shell

_SEEDS = (0, 1, 2)
_METRICS = (
    "relative_l2",
    "relative_l2_corrected",
    "mnse_u",
    "mnse_z",
    "coverage_u",
    "coverage_z",
    "std_ratio",
    "std_ratio_pooled",
    "log_correlation",
)


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem and training time."""
    rows = []
    cases = (
        ("1D", poisson.make_1d(), (10, 30)),
        ("2D 32x32", poisson.make(), (20, 60)),
        ("plate", poisson_mesh_file.make(), (30, 90)),
        ("2D 128x128", poisson.make(128), (37,)),
        ("1D nonlinear", nonlinear_poisson.make_1d(), (4, 60), ("f",)),
        ("2D nonlinear", nonlinear_poisson.make(), (60,), ("f",)),
        ("2D quasilinear", nonlinear_poisson.make_quasilinear(), (60,), ("f",)),
        ("2D advection-diffusion", nonlinear_poisson.make_advection_diffusion(), (60,)),
        ("hare", shell.make(), (60,)),
        ("roof", shell.make_roof(), (60,)),
    )
    for name, problem, budgets, *known in cases:
        for seconds in budgets:
            medians = _median(problem, shorter * seconds, *known)
            rows.append({"case": name, "train_s": seconds, **medians})
    return rows


def _median(
    problem: pddlvm.Problem, seconds: float, known: tuple[str, ...] = ()
) -> dict[str, float]:
    reports, set_up = [], []
    for seed in _SEEDS:
        start = time.perf_counter()
        model = pddlvm.LatentVariableModel(problem, seed=seed)
        set_up.append(time.perf_counter() - start)
        result = pddlvm.train(model, max_seconds=seconds)
        reports.append((pddlvm.validate(model, n_samples=400, known=known), result.seconds))
    medians = {m: statistics.median(getattr(r, m) for r, _ in reports) for m in _METRICS}
    wall = statistics.median(s for _, s in reports)
    return {"set_up_s": statistics.median(set_up), "train_wall_s": wall, **medians}
