"""Building and applying the operators of a mesh of a million tetrahedra."""

import resource
import time
from typing import Any

import torch

import pddlvm
from pddlvm import fem
from problems.poisson import diffusion, load


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """Time to build, time of a residual of a batch of 8, peak memory of the process."""
    n = max(8, round(55 * shorter ** (1 / 3)))
    start = time.perf_counter()
    space = fem.Space(fem.unit_cube(n))
    cells = space.interior()
    problem = pddlvm.Problem(
        "large",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {"kappa": pddlvm.KarhunenLoeve.on(space, 8, length=0.3), "f": 1.0},
        [pddlvm.Dirichlet(None)],
    )
    built = time.perf_counter() - start
    z = problem.prior.sample((8,), seed=0)
    u = torch.randn(8, problem.n_dofs, dtype=torch.float64)
    problem.residual(u, z)
    start = time.perf_counter()
    problem.residual(u, z)
    applied = time.perf_counter() - start
    return [
        {
            "elements": space.mesh.nelements,
            "dofs": problem.n_dofs,
            "build_s": built,
            "residual_batch_8_s": applied,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
    ]
