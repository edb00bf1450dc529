"""Run the peers beside us and write `benchmarks/peers/results.json`.

Run:  make bench-peers        or  python -m benchmarks.peers.run [--quick] [--out FILE]

One after the other on one machine, in an environment of their own (`requirements.txt`). What a
peer does beyond the finite elements is its own code; the solutions that it learns from, or samples
with, come from our reference solver, and their time counts.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pddlvm
from benchmarks.peers import deeponet, fno, ours, posteriors
from benchmarks.peers.case import default_case
from benchmarks.run import table

_PACKAGES = ("torch", "pddlvm", "deepxde", "neuraloperator", "sbi", "cuqipy", "pymor")


def operators(shorter: float) -> list[dict[str, Any]]:
    """Maps from parameters to solutions, all after the total time that ours took."""
    case = default_case()
    _ = case.u
    rows = ours.run(case, 60 * shorter)
    seconds = rows[0]["seconds"]
    for peer in (fno, deeponet):
        rows += peer.run(case, seconds)
    return rows


def samplers(shorter: float) -> list[dict[str, Any]]:
    """Posteriors of one data set on a fine mesh, and from how many draws on ours is the sooner."""
    case = default_case(128)
    start = time.perf_counter()
    model = pddlvm.LatentVariableModel(case.problem, seed=0)
    pddlvm.train(model, max_seconds=60 * shorter)
    ready = time.perf_counter() - start
    data = posteriors.Data.of(case, model, max(320, round(8000 * shorter)))
    n = max(50, round(1000 * shorter))
    rows = [
        posteriors.ours(data, model, ready, 16 * max(20, round(250 * shorter))),
        posteriors.no_u_turn(data, n // 5, n // 5),
        posteriors.metropolis(data, 2 * n, 4 * n),
        posteriors.neural(data, max(1000, 10 * n), 16 * max(20, round(250 * shorter))),
    ]
    for row in rows[1:]:
        row["ours_is_sooner_from"] = _break_even(rows[0], row)
    return rows


def _break_even(own: dict[str, Any], other: dict[str, Any]) -> float | None:
    """Effective draws from which on ours takes less time; None: never."""
    later = own["ready_s"] - other["ready_s"]
    if later <= 0:
        return 0.0
    each = 1 / other["effective_per_s"] - 1 / own["effective_per_s"]
    return later / each if each > 0 else None


def main() -> None:
    """All of it; `--quick` shortens all to see that everything runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    options = parser.parse_args()
    shorter = 0.05 if options.quick else 1.0
    results: dict[str, Any] = {
        "versions": {name: version(name) for name in _PACKAGES},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
    }
    for name, title, run in (
        ("operators", "Maps from parameters to solutions, in equal time", operators),
        ("samplers", "Posteriors of one data set, everything counted", samplers),
    ):
        results[name] = run(shorter)
        table(title, results[name])
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
