"""Problems without a positive operator: errors in their own norm, and error bars of each field.

Run:  python -m benchmarks.dual_norm [--cases stokes-channel,helmholtz] [--seconds 60 | --steps N]
      [--seeds 0,1,2] [--draws 200] [--out FILE]

Medians of the seeds; fresh draws of the prior against the reference solver.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import pddlvm
from benchmarks.run import table
from problems import elasticity, helmholtz, homogenisation, navier_stokes, stokes

CASES: dict[str, Any] = {
    "stokes-channel": stokes.make_channel,
    "stokes-cavity": stokes.make_cavity,
    "navier-stokes": navier_stokes.make,
    "helmholtz": helmholtz.make,
    "helmholtz-damped": helmholtz.make_damped,
    "helmholtz-crossing": helmholtz.make_crossing,
    "incompressible": elasticity.make_incompressible,
    "neo-hookean": elasticity.make_neo_hookean,
    "homogenisation": homogenisation.make,
}


def measure(name: str, seed: int, budget: dict[str, Any], n_samples: int) -> dict[str, Any]:
    """Train one model; its errors in the norm of the problem, root mean squares over the draws."""
    problem = CASES[name]()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pddlvm.ResonanceWarning)
        # Corrections reach the basis, which by default is right to five digits.
        basis = pddlvm.ResidualEnriched(tolerance=1e-7)
        model = pddlvm.LatentVariableModel(problem, basis=basis, seed=seed)
    set_up = time.perf_counter() - start
    result = pddlvm.train(model, **budget)
    z = problem.prior.sample((n_samples,), seed=12345)
    u = problem.solve(z)
    row = {"case": name, "seed": seed, "set_up_s": set_up, "train_s": result.seconds}
    row |= {"steps": result.n_steps, "modes": model.n_modes, "dofs": problem.n_dofs}
    size = model.norm(u)
    for corrections in (0, 1, 2):
        forward = model.forward(z, corrections=corrections)
        error = model.norm(forward.mean - u) / size
        row[f"error {corrections}"] = float(error.square().mean().sqrt())
        row[f"median {corrections}"] = float(error.median())
        inside = (forward.mean - u).abs() <= 2 * forward.std
        for number, own in enumerate(_fields(problem)):
            held = float(inside[:, own].double().mean()) if len(own) else math.nan
            row[f"+-2 std {number + 1}, {corrections}"] = held
    return row


def _fields(problem: pddlvm.Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Free degrees of freedom of the first and of the second field, none where there is one."""
    free = torch.from_numpy(problem.free_dofs)
    found = [free[(d.start <= free) & (free < d.stop)] for d in problem.fields_of_u.values()]
    return found[0], found[1] if len(found) > 1 else free[:0]


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds."""
    found = []
    for name in dict.fromkeys(row["case"] for row in rows):
        group = [row for row in rows if row["case"] == name]
        figures = {k: statistics.median(row[k] for row in group) for k in list(group[0])[2:]}
        found.append({"case": name, "seeds": len(group), **figures})
    return found


def main() -> None:
    """All cases, or some; prints the medians and writes every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, help="in the place of seconds")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    budget: dict[str, Any] = {"max_seconds": options.seconds}
    if options.steps is not None:
        budget = {"max_steps": options.steps}
    rows = []
    for name in options.cases.split(","):
        for seed in map(int, options.seeds.split(",")):
            rows.append(measure(name, seed, budget, options.draws))
            print(json.dumps(rows[-1]), flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(rows, indent=1))
    print(table("Errors without a positive operator, medians over the seeds", medians(rows)))


if __name__ == "__main__":
    main()
