"""The mean of the cookies benchmark, with its interval: ours beside plain Monte Carlo.

Run:  python -m benchmarks.cookies [--seeds 3] [--model-cells 100] [--solves 60]

The quantity is that of 400 x 400 cells, as the benchmark has it. Our surrogate is a reduced basis
on a coarser mesh: its means cost no solution of the fine one. Plain Monte Carlo has as many
solutions of the fine mesh as our whole time buys.
"""

import argparse
import time
from typing import Any

import torch
from scipy.stats import t as student

import pddlvm
from benchmarks.run import table
from problems import cookies

EXPECTED = 0.06420237
"""By sparse grids of the benchmark, 15,713 points."""
FINE = 400


def ours(
    model: pddlvm.LatentVariableModel, reference: pddlvm.Quantity, n_solves: int, seed: int
) -> dict[str, Any]:
    """The corrected mean of one seed."""
    start = time.perf_counter()
    quantity = cookies.quantity(model.problem)
    found = pddlvm.propagate(
        model, quantity, 20_000, reference=reference, reference_solves=n_solves, seed=seed
    )
    low, high = (float(end) for end in found.corrected_interval())
    answer = float(found.corrected_mean), 0.5 * (high - low)
    return row("pddlvm", seed, n_solves, *answer, time.perf_counter() - start)


def plain(reference: pddlvm.Quantity, n_solves: int, seed: int) -> dict[str, Any]:
    """The mean of solutions alone."""
    start = time.perf_counter()
    z = reference.problem.prior.sample((n_solves,), seed=1000 + seed)
    values = reference(reference.problem.solve(z))[:, 0]
    half = float(values.std() / n_solves**0.5 * student.isf(0.025, n_solves - 1))
    answer = float(values.mean()), half
    return row("plain Monte Carlo", seed, n_solves, *answer, time.perf_counter() - start)


def row(
    who: str, seed: int, n_solves: int, mean: float, half: float, seconds: float
) -> dict[str, Any]:
    """Of the table: a mean with half of its interval."""
    return {
        "who": who,
        "seed": seed,
        "solves": n_solves,
        "mean": f"{mean:.7f}",
        "error": abs(mean - EXPECTED),
        "interval": f"+-{half:.1e}",
        "holds": abs(mean - EXPECTED) <= half,
        "seconds": seconds,
    }


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model-cells", type=int, default=100)
    parser.add_argument("--solves", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = cookies.quantity(cookies.make(FINE))
    start = time.perf_counter()
    model = pddlvm.LatentVariableModel(cookies.make(options.model_cells))
    set_up = time.perf_counter() - start
    rows = []
    for seed in range(options.seeds):
        rows.append(ours(model, reference, options.solves, seed))
        share = 1 + set_up / options.seeds / rows[-1]["seconds"]
        rows.append(plain(reference, round(options.solves * share), seed))
    table(f"Cookies, E = {EXPECTED}; set-up of the basis {set_up:.0f} s", rows)


if __name__ == "__main__":
    main()
