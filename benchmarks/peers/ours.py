"""This package."""

import time
from typing import Any

import pddlvm
from benchmarks.peers.case import Case

__all__ = ["run"]


def run(case: Case, seconds: float, seed: int = 0) -> list[dict[str, Any]]:
    """Rows without and with one correction, after a training time."""
    start = time.perf_counter()
    model = pddlvm.LatentVariableModel(case.problem, seed=seed)
    pddlvm.train(model, max_seconds=seconds, seed=seed)
    taken = time.perf_counter() - start
    who = f"pddlvm {pddlvm.__version__}"
    return [
        case.row(who, "forward(z)", taken, lambda z: model.forward(z).mean),
        case.row(
            who, "forward(z, corrections=1)", taken, lambda z: model.forward(z, corrections=1).mean
        ),
    ]
