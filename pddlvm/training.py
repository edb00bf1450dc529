"""Training by the ELBO, for a time or a number of steps.

Muon (orthogonalised momentum) moves the hidden matrices, Adam everything else, both with a cosine
schedule down to a thousandth. The hidden matrices of a module are its two-dimensional parameters
but for the first and the last.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pddlvm.errors import InputError, NonFiniteError
from pddlvm.latent import LatentVariableModel, Stage
from pddlvm.random import seeded

__all__ = ["TrainingResult", "train"]

_LEAST_SHARE = 0.5
_LAST_RATE = 1e-3
_SNAPSHOT_STEPS = 200
_N_WATCHED = 64
_WATCHED_SEED = 20221


@dataclass(frozen=True)
class TrainingResult:
    """What a training did.

    Attributes:
        stages: names of the parts of the training, in their order.
        history: one row per record: step, seconds, stage, elbo (mean over a few fixed prior draws,
            up to a constant; of the part that the stage of the training is about).
        n_steps: optimiser steps.
        seconds: wall-clock time of the whole call.
        device: where it ran.
    """

    n_steps: int
    seconds: float
    device: torch.device
    stages: tuple[str, ...]
    history: list[dict[str, float]] = field(repr=False)


def train(
    model: LatentVariableModel,
    *,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    learning_rates: tuple[float, float] = (0.02, 2e-3),
    device: str | torch.device = "auto",
    seed: int | None = None,
    progress: bool = False,
    calibrate: bool = True,
) -> TrainingResult:
    """Train both maps and calibrate them.

    Args:
        model: the model, changed in place. Call again to train on: the schedule starts anew.
        max_seconds: wall-clock limit; a part of it is kept for the calibration, which takes some
            seconds, however, and so may end later where the limit is short.
        max_steps: limit on the optimiser steps; runs are repeatable when it is the only limit.
        batch_size: prior draws per step; by default what suits the model.
        learning_rates: initial rates of Muon and of Adam.
        device: "auto" takes a CUDA device where there is one; or any torch device.
        seed: of the draws; by default the model's.
        progress: show a progress bar with the loss, elapsed and remaining time.
        calibrate: end with `model.calibrate()`.

    Raises:
        InputError: neither limit is given, or a limit is not positive.
        NonFiniteError: the loss or a gradient is not finite; the model keeps its last good state.
    """
    start = time.perf_counter()
    if max_seconds is None and max_steps is None:
        raise InputError("give max_seconds, max_steps or both")
    for name, limit in (("max_seconds", max_seconds), ("max_steps", max_steps)):
        if limit is not None and not limit > 0:
            raise InputError(f"{name} must be positive, got {limit}")
    batch_size = model.batch_size if batch_size is None else batch_size
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    where = _device(device)
    model.to(where)
    seconds = math.inf if max_seconds is None else max_seconds
    if calibrate:
        seconds *= 1 - model.calibration_share
    steps = math.inf if max_steps is None else max_steps

    def fraction(step: int) -> float:
        return max(step / steps, (time.perf_counter() - start) / seconds)

    seed = model.seed if seed is None else seed
    with seeded(seed, where):
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        with tqdm(total=100, unit="%", disable=not progress, bar_format=_BAR) as bar:
            end = 0.0
            stages = model.stages(calibrate)
            for number, stage in enumerate(stages):
                bar.set_postfix_str(f"preparing: {stage.name}")
                stage.prepare()
                end += stage.share
                loop = _Loop(model, stage, number, end, batch_size, learning_rates)
                loop.run(fraction, generator, history, bar)
        for row in history:
            row["seconds"] -= start
        if calibrate:
            model.calibrate()
    names = tuple(stage.name for stage in stages)
    seconds = time.perf_counter() - start
    return TrainingResult(int(history[-1]["step"]), seconds, where, names, history)


@dataclass(frozen=True)
class _Loop:
    """One stage of the training, until `end` of the whole."""

    model: LatentVariableModel
    stage: Stage
    number: int
    end: float
    batch_size: int
    learning_rates: tuple[float, float]

    def run(
        self,
        fraction: Callable[[int], float],
        generator: torch.Generator,
        history: list[dict[str, float]],
        bar: "tqdm[NoReturn]",
    ) -> None:
        """Optimise; rows are added to the history."""
        stage, networks = self.stage, self.stage.networks
        optimizers = _optimizers(networks, self.learning_rates)
        parameters = [p for network in networks for p in network.parameters()]
        good = _state(networks)
        step, done = int(history[-1]["step"]) if history else 0, 0.0
        first, begin = step, fraction(step)
        # What prepares a stage takes time; a part of its share is left to it in any case.
        end = max(self.end, begin + _LEAST_SHARE * stage.share)
        while done < 1 or step == first:
            rate = _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
            for optimizer, initial in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = initial * rate
                optimizer.zero_grad(set_to_none=True)
            loss = stage.loss(self.batch_size, generator)
            loss.backward()
            if (step - first) % _RECORD_STEPS == 0:
                value = float(loss.detach())
                if not math.isfinite(value) or not _finite_gradients(parameters):
                    message = _diagnose(self.model, value, step)
                    _restore(networks, good)
                    raise NonFiniteError(message)
                if (step - first) % _SNAPSHOT_STEPS == 0:
                    good = _state(networks)
                history.append({**_record(self.model, stage, step), "stage": self.number})
                bar.n = round(100 * min(1.0, begin + (end - begin) * done))
                bar.set_postfix(step=step, elbo=f"{history[-1]['elbo']:.6g}")
            for optimizer, _ in optimizers:
                optimizer.step()
            step += 1
            done = min(1.0, (fraction(step) - begin) / (end - begin))
        bar.n = round(100 * min(1.0, end))
        bar.refresh()
        if not all(torch.isfinite(p).all() for p in parameters):
            message = _diagnose(self.model, math.nan, step)
            _restore(networks, good)
            raise NonFiniteError(message)
        history.append({**_record(self.model, stage, step), "stage": self.number})


def _record(model: LatentVariableModel, stage: Stage, step: int) -> dict[str, float]:
    """The ELBO on the same few draws each time: otherwise min Pi(z) of the draws would hide it."""
    generator = torch.Generator().manual_seed(_WATCHED_SEED)
    with torch.no_grad(), seeded(_WATCHED_SEED, model.sigma_residual.device):
        loss = stage.loss(_N_WATCHED, generator)
    return {"step": step, "seconds": time.perf_counter(), "elbo": -float(loss)}


_BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
_RECORD_STEPS = 10


def _optimizers(
    networks: tuple[nn.Module, ...], rates: tuple[float, float]
) -> list[tuple[torch.optim.Optimizer, float]]:
    hidden = [p for n in networks for p in [p for p in n.parameters() if p.ndim == 2][1:-1]]
    taken = {id(p) for p in hidden}
    rest = [p for n in networks for p in n.parameters() if id(p) not in taken]
    found: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.Adam(rest, lr=rates[1]), rates[1])
    ]
    if hidden:
        found.append((torch.optim.Muon(hidden, lr=rates[0], weight_decay=0.0), rates[0]))
    return found


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        # Creating a device does not say whether it is there; a copy back does.
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            f"device {device!r} cannot be used here ({error}); try 'auto' or 'cpu'"
        ) from error
    return found


def _state(networks: tuple[nn.Module, ...]) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(network.state_dict()) for network in networks]


def _restore(networks: tuple[nn.Module, ...], states: list[dict[str, Tensor]]) -> None:
    for network, state in zip(networks, states, strict=True):
        network.load_state_dict(state)


def _finite_gradients(parameters: list[nn.Parameter]) -> bool:
    return all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)


def _diagnose(model: LatentVariableModel, loss: float, step: int) -> str:
    """Which term is not finite, evaluated where the training stopped."""
    with torch.no_grad():
        xi = model.problem.prior.sample_standard((64,)).to(model.sigma_residual)
        parts = model.finite_parts(xi)
        names = [name for name, value in parts.items() if not torch.isfinite(value).all()]
    where = " and ".join(names) or "a gradient or the inverse map"
    advice = (
        "look at what the residual does with values of u that the solution does not take"
        if step == 0
        else "try a lower learning rate or a larger tolerance of the covariance"
    )
    return (
        f"training stopped at step {step}: loss {loss}, {where} not finite. The model keeps its "
        f"last good state; {advice}"
    )
