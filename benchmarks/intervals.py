"""Do error bars hold: every ready problem, 200 fresh draws, before and after one correction.

Run:  python -m benchmarks.intervals [--problems heat,shell] [--steps 1000] [--draws 200]
      [--jobs 1] [--out FILE]

Trainings are limited in steps, so that a busy machine changes no figure.
"""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import pddlvm
from benchmarks.run import table
from problems import bayesian_poisson, nonlinear_poisson, pinn, poisson, shell

SEEDS = (0, 1, 2)
PROBLEMS: dict[str, Any] = {
    "poisson": poisson.make,
    "poisson-1d": poisson.make_1d,
    "poisson-missing-middle": poisson.make_missing_middle,
    "bayesian-poisson": bayesian_poisson.make,
    "nonlinear-poisson": nonlinear_poisson.make,
    "nonlinear-poisson-1d": nonlinear_poisson.make_1d,
    "quasilinear": nonlinear_poisson.make_quasilinear,
    "advection-diffusion": nonlinear_poisson.make_advection_diffusion,
    "shell": shell.make,
    "shell-roof": shell.make_roof,
    "heat": pinn.make_heat,
    "burgers": pinn.make_burgers,
    "reaction-diffusion": pinn.make_reaction_diffusion,
}
KNOWN = {name: ("f",) for name in ("nonlinear-poisson", "nonlinear-poisson-1d", "quasilinear")}


def measure(name: str, seed: int, steps: int, n_samples: int) -> list[dict[str, Any]]:
    """Train one model; one row for u, u corrected and z each."""
    torch.set_num_threads(1)
    model = pddlvm.LatentVariableModel(PROBLEMS[name](), seed=seed)
    result = pddlvm.train(model, max_steps=steps)
    report = pddlvm.validate(model, n_samples, known=KNOWN.get(name, ()))
    errors = {"u": report.relative_l2, "u corrected": report.relative_l2_corrected}
    return [
        {
            "problem": name,
            "seed": seed,
            "of": of,
            **{f"{100 * level:g} %": 100 * held for level, held in bars.coverage.items()},
            "std / rms": bars.std_ratio,
            "per sample": bars.std_ratio_per_sample,
            "error": errors.get(of, report.mnse_z**0.5),
            "train_s": result.seconds,
        }
        for of, bars in report.bars.items()
    ]


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds."""
    found = []
    for name, of in dict.fromkeys((row["problem"], row["of"]) for row in rows):
        group = [row for row in rows if (row["problem"], row["of"]) == (name, of)]
        figures = {k: statistics.median(row[k] for row in group) for k in list(group[0])[3:]}
        found.append({"problem": name, "of": of, "seeds": len(group), **figures})
    return found


def main() -> None:
    """All problems, or some; prints the medians and writes every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=200, help="fresh ones, of each model")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "intervals.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    # A device is no friend of forks.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        runs = [
            pool.submit(measure, name, int(seed), options.steps, options.draws)
            for seed in options.seeds.split(",")
            for name in options.problems.split(",")
        ]
        for run in as_completed(runs):
            rows += run.result()
            options.out.write_text(json.dumps(rows, indent=1))
    table("Central intervals, medians over the seeds", medians(rows))


if __name__ == "__main__":
    main()
