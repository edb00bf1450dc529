"""The state of a training under way: taken down in a checkpoint, and taken up again."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pddlvm.basics.errors import InputError, RunFileError
from pddlvm.basics.files import decoding
from pddlvm.latent.core import LatentModel
from pddlvm.latent.saved import content_of, differences, restore_state
from pddlvm.training.checkpoints import Checkpoints
from pddlvm.training.ranks import Ranks

__all__ = [
    "RECORD_STEPS",
    "Optimizers",
    "Progress",
    "capture",
    "restore",
    "restore_optimizers",
    "share",
    "snapshot",
]

RECORD_STEPS = 10
"""From one row of the history to the next."""
_ROW = {"step", "seconds", "elbo", "stage"}
_MOMENTS = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum_buffer"}}

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
    optimizers: list[dict[int, dict[str, Any]]] | None = None

    def check(self, max_steps: int | None) -> None:
        """Refuse what no training leaves behind, by a ValueError."""
        counts = (self.stage, self.step, self.first, self.step - self.first)
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("impossible counts of steps")
        times = (self.seconds, 0.0 if self.begin is None else self.begin)
        if not all(isinstance(t, float) and math.isfinite(t) and t >= 0 for t in times):
            raise ValueError("impossible times")
        for row in self.history:
            if set(row) != _ROW or not all(isinstance(v, int | float) for v in row.values()):
                raise ValueError("impossible history")
        if not self._fits_history() or not self._fits_schedule(max_steps):
            raise ValueError("a step, stage or time that does not fit the history")

    def _fits_history(self) -> bool:
        """Each stage has a row at its first step, at every tenth after it, and at its end."""
        for name in ("step", "stage", "seconds"):
            values = [row[name] for row in self.history]
            if values != sorted(values):
                return False
        inside = self.begin is not None
        present = self.stage if inside else self.stage - 1
        rows = [row for row in self.history if row["stage"] == present]
        stages = sorted({row["stage"] for row in self.history})
        if len(stages) != present + 1 or stages != list(range(len(stages))):
            return False
        last = self.step
        if inside:
            last = self.first + RECORD_STEPS * ((self.step - self.first - 1) // RECORD_STEPS)
        steps = (rows[0]["step"], rows[-1]["step"])
        return steps == (self.first, last) and self.seconds >= rows[-1]["seconds"]

    def _fits_schedule(self, max_steps: int | None) -> bool:
        """A stage that began has optimizers; a limit on the steps says when it begins and ends."""
        if (self.begin is None) != (self.optimizers is None):
            return False
        if max_steps is None:
            return True
        # A stage takes one step at least, however late it is.
        is_over = self.step > max_steps + self.stage
        return not is_over and (self.begin is None or self.begin >= self.first / max_steps)


def capture(
    model: LatentModel,
    at: Progress,
    optimizers: Optimizers | None,
    generator: torch.Generator,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The content of a checkpoint; without optimizers between two stages."""
    moments = [o.state_dict()["state"] for o, _ in optimizers] if optimizers else None
    device = model.sigma_residual.device
    training = {
        **vars(at),
        "optimizers": moments,
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
    model: LatentModel,
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
    with decoding(f"{str(path)!r} is not a checkpoint of this model, or damaged"):
        before = training["options"]
        changed = {k: (before.get(k), v) for k, v in options.items() if before.get(k) != v}
        made = differences(content, model)
    if changed:
        raise InputError(
            f"{str(path)!r} is of a training with other arguments (then, now): {changed}; "
            "give the same ones, or choose another folder for a new training"
        )
    if made:
        raise RunFileError(
            f"{str(path)!r} is of a training of another model or problem: {', '.join(made)} "
            "differ. Make both as they were, or go on with the model of the checkpoint, "
            "pddlvm.load(file, problem)"
        )
    with decoding(f"{str(path)!r} is damaged"):
        at = Progress(**{name: training[name] for name in Progress.__dataclass_fields__})
        at.check(options["max_steps"])
        if checkpoints.path_of(at.step) != path:
            raise ValueError("a step that is not that of its name")
        restore_state(model, content)
        model.restore_training(training["own"])
        generator.set_state(training["generator"])
        torch.set_rng_state(training["random"])
        device = model.sigma_residual.device
        if device.type == "cuda" and training["random_gpu"] is not None:
            torch.cuda.set_rng_state(training["random_gpu"], device)
    return at


def restore_optimizers(
    optimizers: Optimizers, states: list[dict[int, dict[str, Any]]], n_steps: int
) -> None:
    """Take up the states that a checkpoint holds, after so many steps.

    Raises:
        RunFileError: they are not those of these optimizers.
    """
    try:
        for (optimizer, _), state in zip(optimizers, states, strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if set(state) != set(range(len(parameters))):
                raise ValueError("not one state for each parameter")
            for i, parameter in enumerate(parameters):
                _check_moments(state[i], parameter, _MOMENTS[type(optimizer).__name__])
                if state[i].get("step", n_steps) != n_steps:
                    raise ValueError("another number of steps")
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
    except Exception as error:
        # Whatever a file can say that is not what `capture` writes.
        raise RunFileError(
            f"the optimizers of the checkpoint are damaged ({type(error).__name__}: {error})"
        ) from error


def _check_moments(state: dict[str, Any], parameter: torch.Tensor, names: set[str]) -> None:
    if set(state) != names:
        raise ValueError(f"the state of a parameter has {sorted(state)}")
    for name, value in state.items():
        shape = torch.Size() if name == "step" else parameter.shape
        if value.shape != shape or not torch.isfinite(value).all():
            raise ValueError(f"{name} does not fit its parameter")


def share(model: LatentModel, options: dict[str, Any], ranks: Ranks) -> None:
    """Give all processes the model of the first one.

    Each has made the same, but for rounding, and for weights that nobody seeded.

    Raises:
        InputError: another problem, model or other arguments than the first one has.
    """
    if ranks.size == 1:
        return
    content, first = ranks.broadcast((content_of(model), options))
    other = [name for name, value in options.items() if value != first[name]]
    other += differences(content, model)
    if other:
        raise InputError(
            f"process {ranks.index} trains with another {', another '.join(other)} than process 0: "
            "those that torchrun starts train one model together, and call train with the same "
            "problem, model and arguments. Start trainings of their own without torchrun"
        )
    restore_state(model, content)


def snapshot(networks: tuple[nn.Module, ...]) -> list[dict[str, torch.Tensor]]:
    """Copies of the weights."""
    return [
        {name: value.clone() for name, value in network.state_dict().items()}
        for network in networks
    ]
