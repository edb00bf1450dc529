"""The state of a training under way: taken down in a checkpoint, and taken up again."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pddlvm.checkpoints import Checkpoints
from pddlvm.errors import InputError, RunFileError
from pddlvm.latent import LatentVariableModel
from pddlvm.serialization import content_of

__all__ = ["Optimizers", "Progress", "capture", "restore", "snapshot"]

Optimizers = list[tuple[torch.optim.Optimizer, float]]
"""Each with its initial rate."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        stage: number of the present stage.
        step: optimiser steps so far.
        first: step with which the stage began.
        begin: fraction of the whole with which it began; None before it did.
        seconds: that had passed when a checkpoint was taken up.
        history: rows of `TrainingResult.history`.
        optimizers: states to take up, if the stage had begun.
    """

    stage: int = 0
    step: int = 0
    first: int = 0
    begin: float | None = None
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    optimizers: list[dict[str, Any]] | None = None


def capture(
    model: LatentVariableModel,
    at: Progress,
    optimizers: Optimizers,
    generator: torch.Generator,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The content of a checkpoint."""
    device = model.sigma_residual.device
    training = {
        **vars(at),
        "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
        "generator": generator.get_state(),
        "random": torch.get_rng_state(),
        "random_gpu": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "own": model.training_state(),
        "options": options,
    }
    return {**content_of(model), "training": training}


def restore(
    checkpoints: Checkpoints,
    resume: bool,
    model: LatentVariableModel,
    generator: torch.Generator,
    options: dict[str, Any],
) -> Progress:
    """Bring a model and the random numbers to the newest checkpoint, if there is one.

    Raises:
        InputError: there is one without `resume`, or it is of another training.
    """
    if checkpoints.files and not resume:
        raise InputError(
            f"{str(checkpoints)!r} has checkpoints of an earlier training: go on from them with "
            "resume=True, or choose another folder"
        )
    found = checkpoints.newest()
    if found is None:
        return Progress()
    path, content = found
    training = content["training"]
    try:
        before = training["options"]
        if before != options:
            changed = {k: (before.get(k), v) for k, v in options.items() if before.get(k) != v}
            raise InputError(
                f"{str(path)!r} is of a training with other arguments (then, now): {changed}; "
                "give the same ones, or choose another folder for a new training"
            )
        model.load_state_dict(content["state"])
        model.after_loading()
        model.restore_training(training["own"])
        generator.set_state(training["generator"])
        torch.set_rng_state(training["random"])
        device = model.sigma_residual.device
        if device.type == "cuda" and training["random_gpu"] is not None:
            torch.cuda.set_rng_state(training["random_gpu"], device)
        return Progress(**{name: training[name] for name in Progress.__dataclass_fields__})
    except InputError:
        raise
    except Exception as error:
        # Whatever a file can say that is not what `capture` writes.
        raise RunFileError(
            f"{str(path)!r} is not a checkpoint of this model, or damaged "
            f"({type(error).__name__}: {error})"
        ) from error


def snapshot(networks: tuple[nn.Module, ...]) -> list[dict[str, torch.Tensor]]:
    """Copies of the weights."""
    return [
        {name: value.clone() for name, value in network.state_dict().items()}
        for network in networks
    ]
