"""Time per sample of the forward map against direct solves, side by side.

`reference` is `problem.solve` (assembly and sparse LU). `fastest` is the quickest direct solve that
SciPy offers for a matrix that is already assembled: banded Cholesky after reverse Cuthill-McKee, or
SuperLU. Assembly is not in it, so its ratio is a lower bound.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import solveh_banded
from scipy.sparse.csgraph import reverse_cuthill_mckee

import pddlvm
from pddlvm.linalg import SuperLU
from problems import poisson

BRACKET = Path(__file__).parent.parent / "meshes" / "bracket.msh"


def bracket() -> pddlvm.Problem:
    """The 3D part: held at its base, heated at its tip."""
    return poisson.make(
        n_terms=8,
        mesh=BRACKET,
        length=0.5,
        source=0.0,
        dirichlet={"base": 0.0},
        flux={"tip": 1.0},
    )


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem; times are medians in milliseconds per sample."""
    cases = (("32x32", poisson.make(32)), ("128x128", poisson.make(128)), ("bracket", bracket()))
    return [_compare(name, problem, shorter) for name, problem in cases]


def _compare(name: str, problem: pddlvm.Problem, shorter: float) -> dict[str, Any]:
    model = pddlvm.LatentVariableModel(problem)
    start = time.perf_counter()
    result = pddlvm.train(model, max_steps=50, calibrate=False)
    step = (time.perf_counter() - start) / result.n_steps
    n = max(3, round(20 * shorter))
    few = problem.prior.sample((10,), seed=0)
    many = problem.prior.sample((1000,), seed=0).float()
    one = many[:1]
    reference = milliseconds(lambda: problem.solve(few), 3) / len(few)
    direct = min(_direct_times(problem, few))
    batch_1 = milliseconds(lambda: model.forward(one).mean, 5 * n)
    batch_1000 = milliseconds(lambda: model.forward(many).mean, n) / 1000
    return {
        "case": name,
        "dofs": problem.n_dofs,
        "reference_ms": reference,
        "fastest_ms": direct,
        "batch_1_ms": batch_1,
        "batch_1000_ms": batch_1000,
        "speedup_1": reference / batch_1,
        "speedup_1000": reference / batch_1000,
        "fastest_1": direct / batch_1,
        "fastest_1000": direct / batch_1000,
        "corrected_ms": milliseconds(lambda: model.forward(one, corrections=1).mean, n),
        "inverse_ms": milliseconds(lambda: model.inverse(problem.solve(few[:1])), 5),
        "train_step_ms": 1e3 * step,
    }


def _direct_times(problem: pddlvm.Problem, z: torch.Tensor) -> tuple[float, float]:
    u = problem.solve(z[:1])
    matrix = problem.solver.matrix(u[0], z[0])
    b = np.ones(matrix.shape[0])
    order = reverse_cuthill_mckee(matrix.tocsr(), symmetric_mode=True)
    coo = sp.coo_matrix(matrix[order][:, order])
    width = int((coo.row - coo.col).max())
    banded = np.zeros((width + 1, matrix.shape[0]))
    lower = coo.row >= coo.col
    banded[(coo.row - coo.col)[lower], coo.col[lower]] = coo.data[lower]
    return (
        milliseconds(lambda: solveh_banded(banded, b, lower=True), 5),
        milliseconds(lambda: SuperLU().factorise(matrix, symmetric=True).solve(b), 5),
    )


def milliseconds(run: Callable[[], Any], n: int) -> float:
    """Median time of n calls after a first one."""
    run()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
