"""Large problems: reference solves by each linear solver side by side, and the set-up of a model.

A solve is `problem.solve` of one z: residuals, tangents, assembly, and the linear systems. What is
made once for all z, the pattern of the matrix, has a column of its own; `superlu_gib` is what
SuperLU is predicted to take. Machines are noisy: compare the columns of one row.
"""

import math
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.linalg import Automatic, LinearSolver, Multigrid, Pardiso, SuperLU
from pddlvm.linalg.memory import predict_fill
from pddlvm.linalg.pardiso import has_pardiso
from pddlvm.linalg.superlu import BYTES_PER_ENTRY
from pddlvm.weak.newton import ReferenceSolver

T = TypeVar("T")

_LARGEST = 4.0
"""GiB, beyond which SuperLU would take a quarter of an hour."""


def poisson(n: int, dim: int, solver: LinearSolver = Automatic()) -> pddlvm.Problem:  # noqa: B008
    """-div(kappa grad u) = 1 on the unit square or cube, log-normal kappa, P1."""
    space = fem.Space(fem.unit_square(n) if dim == 2 else fem.unit_cube(n))

    def density(u: Any, du: Any, x: Any, k: Any) -> Any:
        return 0.5 * k * (du * du).sum() - u

    return pddlvm.Problem(
        f"poisson {dim}D {n}",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={"k": pddlvm.KarhunenLoeve.on(space, 8, length=0.4, link=links.exp)},
        dirichlet=[pddlvm.Dirichlet("left")],
        solver=solver,
    )


def elastic(u: Any, du: Any, x: Any, e: Any) -> Any:
    strain = 0.5 * (du + du.T)
    return e * (0.29 * torch.trace(strain) ** 2 + 0.385 * (strain * strain).sum())


def traction(u: Any, du: Any, x: Any, t: Any) -> Any:
    return -t * u[2]


def elasticity(n: int) -> pddlvm.Problem:
    """A cube of log-normal stiffness, held on the left and pulled on the right, hexahedra."""
    space = fem.Space(fem.unit_cube(n, hexahedra=True), n_components=3)

    return pddlvm.Problem(
        f"elasticity 3D {n}",
        space,
        terms=[
            pddlvm.Energy(space.interior(), elastic),
            pddlvm.Energy(space.boundary("right"), traction),
        ],
        fields={
            "e": pddlvm.KarhunenLoeve.on(space, 8, length=0.4, link=links.exp),
            "t": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
        },
        dirichlet=[pddlvm.Dirichlet("left")],
    )


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem; seconds of a reference solve by each solver, nan where there is none."""
    small = shorter < 1
    cases = [
        ("elasticity 3D 16^3", lambda: elasticity(6 if small else 16)),
        ("elasticity 3D 28^3", lambda: elasticity(8 if small else 28)),
        ("poisson 2D 512^2", lambda: poisson(32 if small else 512, 2)),
        ("poisson 3D 40^3", lambda: poisson(8 if small else 40, 3)),
        ("poisson 3D 64^3", lambda: poisson(10 if small else 64, 3)),
    ]
    return [_compare(name, make()) for name, make in cases]


def _compare(name: str, problem: pddlvm.Problem) -> dict[str, Any]:
    z = problem.prior.sample((1,), seed=0)
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    solver, pattern = _timed(lambda: problem.solver)
    matrix, assembly = _timed(lambda: solver.matrix(operators.lift(z)[0], z[0]))
    gib = BYTES_PER_ENTRY * predict_fill(matrix) / 2**30
    row = {"case": name, "dofs": problem.n_dofs, "pattern_s": pattern, "assembly_s": assembly}
    solvers: dict[str, LinearSolver | None] = {
        "multigrid": Multigrid(),
        "pardiso": Pardiso() if has_pardiso() else None,
        "superlu": SuperLU() if gib < _LARGEST else None,
    }
    found = []
    for key, one in solvers.items():
        row[f"{key}_s"] = math.nan
        if one is not None:
            reference = ReferenceSolver(replace(problem.form, solver=one), operators)
            u, row[f"{key}_s"] = _timed(partial(reference.solve, z))
            found.append(u)
    row["superlu_gib"] = gib
    row["difference"] = max(float((u - found[0]).norm() / u.norm()) for u in found)
    return row


def set_up(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem and solver; seconds and peak memory of a model that is not trained."""
    sizes = ((2, 512), (3, 40)) if shorter == 1 else ((2, 24), (3, 6))
    solvers = [SuperLU(), Multigrid(), *([Pardiso()] if has_pardiso() else [])]
    rows = []
    for dim, n in sizes:
        for solver in solvers:
            # A process of its own: the peak is that of this set-up.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append(pool.submit(_set_up, n, dim, solver).result())
    return rows


def _set_up(n: int, dim: int, solver: LinearSolver) -> dict[str, Any]:
    problem, making = _timed(lambda: poisson(n, dim, solver))
    model, seconds = _timed(lambda: pddlvm.LatentVariableModel(problem))
    return {
        "case": problem.name,
        "solver": type(solver).__name__,
        "problem_s": making,
        "set_up_s": seconds,
        "modes": model.n_modes,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start
