"""What each process does that tests/training/test_ranks.py starts by torchrun.

Arguments: the name of a function below, and a folder; each process writes there what it found.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from small import strong
from torch import Tensor, nn

import pddlvm
from pddlvm.reduced.reduction import Reduction
from pddlvm.training.fit import Budget
from problems import poisson

RANK = int(os.environ.get("RANK", 0))
N_STEPS = 50
BATCH = 17
"""Not the same number of rows for each process."""


class Acting(nn.Module):
    """A network that does something in process 1, with its n-th call."""

    def __init__(self, n: int, action: Callable[[], float]) -> None:
        super().__init__()
        self.network = pddlvm.NeuralGaussian(2, 4, width=16)
        self.calls_left, self.action, self.factor = n, action, 1.0

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        self.calls_left -= 1
        if self.calls_left == 0 and RANK == 1:
            self.factor = self.action()
        mean, log_variance = self.network(xi)
        return self.factor * mean, log_variance


def interrupt() -> float:
    os.kill(os.getpid(), signal.SIGINT)
    return 1.0


def fail() -> float:
    raise ZeroDivisionError("only here")


@cache
def reduced() -> tuple[pddlvm.Problem, Reduction]:
    problem = poisson.make(4, 2)
    return problem, pddlvm.reduce(problem, pddlvm.EnergyModes(4))


def galerkin(n: int = 10**9, action: Callable[[], float] = fail) -> pddlvm.LatentVariableModel:
    """In float64: rounding grows in the course of a training."""
    problem, reduction = reduced()
    torch.manual_seed(0)
    return pddlvm.LatentVariableModel(
        problem,
        reduction=reduction,
        forward_network=Acting(n, action),
        inverse_network=pddlvm.NeuralGaussian(5, 2, width=16),
        dtype=torch.float64,
    )


def collocation() -> pddlvm.LatentVariableModel:
    """Without principal components: the signs of those that are round-off are round-off too."""
    torch.manual_seed(0)
    problem = strong().problem
    return pddlvm.LatentVariableModel(
        problem,
        n_functions=8,
        points=pddlvm.AdaptivePoints(16),
        forward_network=pddlvm.NeuralGaussian(1, 8, width=16),
        inverse_network=pddlvm.GridGaussian(problem.grid, 0, 1),
        dtype=torch.float64,
    )


def trained(model: pddlvm.LatentVariableModel, **options) -> dict:
    rows: list[dict] = []
    options = {"max_steps": N_STEPS, "batch_size": BATCH, "calibrate": False, **options}
    result = pddlvm.train(model, record=rows.append, **{"device": "cpu", **options})
    elbo = [row["elbo"] for row in result.history]
    weights = hashlib.sha256()
    for value in model.state_dict().values():
        weights.update(value.cpu().numpy().tobytes())
    found = {"n_steps": result.n_steps, "elbo": elbo, "n_recorded": len(rows)}
    return {**found, "weights": weights.hexdigest()}


def alone(make: Callable[[], pddlvm.LatentVariableModel], **options) -> dict:
    """As if torchrun were not there."""
    with patch.dict(os.environ):
        del os.environ["TORCHELASTIC_RUN_ID"]
        return trained(make(), **options)


def timed() -> dict:
    """For process 1 no time passes."""
    with patch.object(Budget, "spent", return_value=0.0) if RANK else nullcontext():
        return trained(galerkin(), max_steps=None, max_seconds=1.0)


def failure(model: pddlvm.LatentVariableModel, **options) -> dict:
    try:
        trained(model, **options)
    except (Exception, KeyboardInterrupt) as error:
        is_finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
        return {"kind": type(error).__name__, "message": str(error), "is_finite": is_finite}
    return {}


# --- what the tests ask for ----------------------------------------------------------------------


def quick(folder: Path) -> dict:
    return {
        "together": trained(galerkin()),
        "alone": alone(galerkin),
        "not a number": failure(galerkin(25, lambda: torch.nan)),
        "another error": failure(galerkin(5, fail)),
        "too few": failure(galerkin(), batch_size=1),
        "another seed": failure(galerkin(), seed=RANK),
    }


def thorough(folder: Path) -> dict:
    checkpoints = pddlvm.Checkpoints(folder / "checkpoints")
    return {
        "strong form": trained(collocation()),
        "strong form alone": alone(collocation),
        "calibrated": trained(galerkin(), calibrate=True),
        "strong form calibrated": trained(collocation(), calibrate=True),
        "seconds": timed(),
        "interrupted": failure(galerkin(25, interrupt), checkpoints=checkpoints),
        "resumed": trained(galerkin(), checkpoints=checkpoints, resume=True),
        "uninterrupted": trained(galerkin()),
    }


def own_group(folder: Path) -> dict:
    """The user began it, and goes on with it."""
    dist.init_process_group("gloo")
    found = trained(galerkin())
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return {"together": found, "alone": alone(galerkin), "total": float(total)}


def gpus(folder: Path) -> dict:
    own = {"device": f"cuda:{RANK}"}
    return {"together": trained(galerkin(), device="auto"), "alone": alone(galerkin, **own)}


def death(folder: Path) -> dict:
    """Process 1 ends without a word."""
    return failure(galerkin(25, lambda: os._exit(3)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[2])
    answer = globals()[sys.argv[1]](out)
    (out / f"{RANK}.json").write_text(json.dumps(answer))
