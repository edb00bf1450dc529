"""Run all benchmarks, print tables and write `benchmarks/results.json`.

Run:  python -m benchmarks.run [--quick]

Machines are noisy: ratios are measured side by side in one run, accuracies are medians over seeds.
"""

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import torch

from benchmarks import accuracy, inference, objectives, operators, parallel, pinn, size, speed


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as an aligned table."""
    print(f"\n{title}")
    cells = [[_text(v) for v in row.values()] for row in rows]
    heads = list(rows[0])
    widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(heads)]
    for line in [heads, *cells]:
        print("  ".join(value.rjust(width) for value, width in zip(line, widths, strict=True)))


def main() -> None:
    """All benchmarks; `--quick` shortens training to check that everything runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    options = parser.parse_args()
    shorter = 0.05 if options.quick else 1.0
    results: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for title, name, run in (
        ("Accuracy against training time (medians of the seeds)", "accuracy", accuracy.run),
        ("Objectives, maps without calibration", "objectives", objectives.run),
        ("Strong form: our maps against a plain PINN", "pinn", pinn.run),
        ("Derivatives of a network, per step", "derivatives", pinn.derivatives),
        ("Forward map against direct solves", "speed", speed.run),
        ("Posteriors: errors against long chains", "posteriors", inference.accuracy),
        ("Posteriors: many data sets (laplace)", "many", inference.many),
        ("Posteriors: many sensors (laplace)", "sensors", inference.sensors),
        ("Posteriors: effective draws per second", "chains", inference.speed),
        ("Operators of a large mesh", "operators", operators.run),
        ("Reference solves of large problems", "size", size.run),
        ("Set-up of large problems", "set_up", size.set_up),
        ("Reference solves side by side", "parallel", parallel.run),
    ):
        results[name] = run(shorter)
        table(title, results[name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results["peak_memory_gib"] = peak
    print(f"\npeak memory of this process: {peak:.1f} GiB")
    options.out.write_text(json.dumps(results, indent=1))
    print(f"written to {options.out}")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
