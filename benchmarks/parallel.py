"""Reference solves in this process, and on two workers of joblib side by side.

Workers import the package and make the problem anew when they are first asked: `first_s` has that,
`later_s` does not. Run it where two cores are idle.
"""

import time
from typing import Any

import joblib
import torch

from benchmarks.size import elasticity

_N_SAMPLES, _N_WORKERS = 64, 2


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem: seconds of 64 solves, and whether the numbers are equal."""
    return [_compare(n) for n in ((4,) if shorter < 1 else (8, 12))]


def _compare(n: int) -> dict[str, Any]:
    problem = elasticity(n)
    z = problem.prior.sample((_N_SAMPLES,), seed=0)
    problem.solve(z[:1])
    u, serial = _timed(problem, z)
    with joblib.parallel_config(backend="loky", n_jobs=_N_WORKERS):
        first, first_s = _timed(problem, z)
        later, later_s = _timed(problem, z)
    return {
        "case": problem.name,
        "dofs": problem.n_dofs,
        "serial_s": serial,
        "first_s": first_s,
        "later_s": later_s,
        "speed_up": serial / later_s,
        "is_equal": torch.equal(u, first) and torch.equal(u, later),
    }


def _timed(problem: Any, z: torch.Tensor) -> tuple[torch.Tensor, float]:
    start = time.perf_counter()
    return problem.solve(z), time.perf_counter() - start
