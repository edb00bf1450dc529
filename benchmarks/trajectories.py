"""Problems in time on meshes: errors of whole trajectories, and their error bars.

Run:  python -m benchmarks.trajectories [--problems heat,wave] [--seconds 60 | --steps N]
      [--seeds 0,1,2] [--draws 100] [--out FILE]

Fresh draws of the prior against finite element stepping, relative in L2 of space and time.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import pddlvm
from benchmarks.run import table
from problems import elastodynamics, heat, nonlinear_heat, transport

PROBLEMS: dict[str, Any] = {
    "heat": heat.make,
    "nonlinear heat": nonlinear_heat.make,
    "wave": elastodynamics.make,
    "transport": transport.make,
}
LEVELS = ("map", "modes", "march")


def measure(name: str, seed: int, budget: dict[str, Any], n_samples: int) -> dict[str, Any]:
    """Train one model, and compare it at all levels of correction."""
    torch.set_num_threads(1)
    problem = PROBLEMS[name]()
    start = time.perf_counter()
    model = pddlvm.LatentVariableModel(problem, seed=seed)
    set_up = time.perf_counter() - start
    result = pddlvm.train(model, **budget)
    row = {"problem": name, "seed": seed, "set-up s": set_up, "steps": result.n_steps}
    z = problem.prior.sample((n_samples,), seed=999)
    u, free = problem.solve(z), torch.from_numpy(problem.steady.free_dofs)
    for corrections, level in enumerate(LEVELS):
        forward = model.forward(z, corrections=corrections)
        error = model.norm(forward.mean - u) / model.norm(u)
        inside = ((forward.mean - u).abs() <= 2 * forward.std)[..., free]
        row |= {
            f"{level} mean": float(error.mean()),
            f"{level} rms": float(error.square().mean().sqrt()),
            f"{level} +-2 std": float(inside.double().mean()),
        }
    return row


def main() -> None:
    """All problems, or some; prints medians of the seeds and writes every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, help="instead of seconds")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "trajectories.json")
    options = parser.parse_args()
    limit = {"max_steps": options.steps} if options.steps else {"max_seconds": options.seconds}
    rows: list[dict[str, Any]] = []
    medians = []
    for name in options.problems.split(","):
        own = [measure(name, int(s), limit, options.draws) for s in options.seeds.split(",")]
        rows += own
        options.out.write_text(json.dumps(rows, indent=1))
        figures = {k: statistics.median(row[k] for row in own) for k in list(own[0])[2:]}
        medians.append({"problem": name, "seeds": len(own), **figures})
    table("Trajectories, medians of the seeds", medians)


if __name__ == "__main__":
    main()
