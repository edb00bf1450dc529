"""Certified queries of the thermal block: ours beside pyMOR's greedy basis, where it is installed.

Run:  python -m benchmarks.thermal_block [--pymor PYTHON]

A query is a solution in the basis with the bound of its error, in float64. Errors are those in
energy, root mean squares of 100 draws, each against solutions on its own mesh. pyMOR is run by a
Python of its own: it is no part of our environment.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import pddlvm
from benchmarks.run import table
from problems import thermal_block

CASES = {2: (10, 16, 20, 24), 3: (10, 20, 40)}
N_TEST, N_TIMED = 100, 500
PYMOR = Path(__file__).parent / "pymor_thermal_block.py"


def ours(blocks: int, n_modes: int) -> dict[str, Any]:
    """A basis of a size."""
    problem = thermal_block.make(blocks, blocks)
    start = time.process_time()
    basis = pddlvm.ResidualEnriched(n_modes, tolerance=1e-12)
    model = pddlvm.LatentVariableModel(problem, basis=basis)
    z = problem.prior.sample((N_TEST,), seed=99)
    forward = model.forward(z, corrections=1)
    seconds = time.process_time() - start
    u = problem.solve(z)
    error = problem.energy_norm(u - forward.mean)
    assert forward.error_bound is not None
    ratio = forward.error_bound / error
    times = []
    for i in range(N_TIMED):
        one = z[i % N_TEST].unsqueeze(0)
        start = time.perf_counter()
        _ = model.forward(one, corrections=1).error_bound
        times.append(time.perf_counter() - start)
    return {
        "who": "pddlvm",
        "blocks": f"{blocks}x{blocks}",
        "n": model.n_modes,
        "dofs": problem.n_dofs,
        "error": float((error / problem.energy_norm(u)).square().mean().sqrt()),
        "effectivity": float(ratio.median()),
        "query_ms": 1e3 * statistics.median(times),
        "set_up_s": seconds,
    }


def pymor(python: str, blocks: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """The same by pyMOR."""
    command = [python, str(PYMOR), str(blocks), *map(str, sizes)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    head = {"who": "pyMOR", "blocks": f"{blocks}x{blocks}"}
    return [head | json.loads(line) for line in found.splitlines() if line.startswith("{")]


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pymor", help="a Python that has pyMOR")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for blocks, sizes in CASES.items():
        rows += [ours(blocks, n) for n in sizes]
        if options.pymor:
            rows += pymor(options.pymor, blocks, sizes)
    table("Certified queries of the thermal block", rows)


if __name__ == "__main__":
    main()
