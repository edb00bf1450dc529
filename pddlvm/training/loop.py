"""Training by the ELBO, for a time or a number of steps.

Muon (orthogonalised momentum) moves the hidden matrices, Adam everything else, both with a cosine
schedule down to a thousandth. The hidden matrices of a module are its two-dimensional parameters
but for the first and the last. Processes that train together (`ranks`) share out the batch and add
up the gradients; each then makes the same step.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import nn

from pddlvm.basics.checks import check_count, check_flag, check_kind, check_real, numbers_of
from pddlvm.basics.errors import InputError, NonFiniteError, RunFileError
from pddlvm.basics.grad_mode import with_gradients
from pddlvm.basics.locks import owned
from pddlvm.basics.progress import ProgressBar
from pddlvm.basics.random import Stream, check_seed, seeded
from pddlvm.latent.core import LatentModel, Stage
from pddlvm.latent.rows import Rows
from pddlvm.training.certificates import Certificates, certificates
from pddlvm.training.checkpoints import Checkpoints, interruptible
from pddlvm.training.devices import usable_device
from pddlvm.training.failures import diagnose, finite_gradients
from pddlvm.training.fit import Budget
from pddlvm.training.muon import Muon
from pddlvm.training.ranks import Ranks
from pddlvm.training.state import (
    RECORD_STEPS,
    Optimizers,
    Progress,
    capture,
    restore,
    restore_optimizers,
    share,
    snapshot,
)

__all__ = ["TrainingResult", "train"]

_LEAST_SHARE = 0.5
_FEW_STEPS = 100
_LAST_RATE = 1e-3
Record = Callable[[dict[str, float]], None]

_SNAPSHOT_STEPS = 200
_N_WATCHED = 64
_WATCHED_SEED = 20221


@dataclass(frozen=True)
class TrainingResult:
    """What a training did.

    Attributes:
        n_steps: optimiser steps.
        seconds: wall-clock time, that before an interruption included.
        device: where it ran.
        stages: names of the parts of the training, in their order.
        history: one row per record: step, seconds, stage, elbo (mean over a few fixed prior draws,
            up to a constant; of the part that the stage of the training is about).
        certificates: relative residuals of the trained forward map on fresh draws.
        was_short: did the limit on the seconds end it after a few steps?
        inverse_verdict: that on the inverse map.
    """

    n_steps: int
    seconds: float
    device: torch.device
    stages: tuple[str, ...]
    history: list[dict[str, float]] = field(repr=False)
    certificates: Certificates
    was_short: bool = False
    inverse_verdict: str = "accept"

    @property
    def verdict(self) -> str:
        """Are the maps good enough? "accept", or what is wrong and what to try."""
        both = self.certificates.verdict, self.inverse_verdict
        found = "; ".join(text for text in both if text != "accept") or "accept"
        if found == "accept" or not self.was_short:
            return found
        return (
            f"{found}. Only {self.n_steps} steps fitted into max_seconds: give more seconds, and "
            "set OMP_NUM_THREADS=1 on a busy machine"
        )


@with_gradients
def train(
    model: LatentModel,
    *,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    learning_rates: tuple[float, float] = (0.02, 2e-3),
    device: str | torch.device = "auto",
    seed: int | None = None,
    progress: bool = False,
    calibrate: bool = True,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    record: Record | None = None,
) -> TrainingResult:
    """Train both maps, calibrate them, and say whether they are good enough.

    Under torchrun, or where torch.distributed is initialised, all processes call it with the same
    arguments and share out the batch; the first one decides, shows and writes.

    Args:
        model: the model, changed in place. Call again to train on: the schedule starts anew.
        max_seconds: wall-clock limit of the steps; a part of it is kept for the calibration. The
            calibration and the certificates after it take what they need, seconds or, on meshes of
            10^5 unknowns, minutes, and may end later.
        max_steps: limit on the optimiser steps; runs are repeatable when it is the only limit.
        batch_size: prior draws per step, of all processes; by default what suits the model.
        learning_rates: initial rates of Muon and of Adam.
        device: "auto" takes a CUDA device where there is one, of several processes each that of
            its LOCAL_RANK; or any torch device.
        seed: of the draws; by default the model's.
        progress: show a progress bar with the loss, elapsed and remaining time; where there is no
            terminal, a line for each percent.
        calibrate: end with `model.calibrate()`.
        checkpoints: where to keep the state of the training while it runs. Ctrl-C or SIGTERM then
            end it after the step, with a checkpoint, by a KeyboardInterrupt.
        resume: go on from the newest checkpoint; without one, begin. The model must be the one
            that the training began with, made or loaded anew, and the other arguments the same; on
            a CPU the result is that of a training without interruption, bit by bit.
        record: called with each new row of the history.

    Raises:
        InputError: neither limit is given, or a limit is not positive; checkpoints of another
            training, or of this one without `resume`; processes that were given other models or
            arguments.
        RunFileError: a checkpoint cannot be written or read, or another training writes there.
        NonFiniteError: the loss or a gradient is not finite; the model keeps its last good state.
        KeyboardInterrupt: the user ended it; a checkpoint was written, if there are any.
        Exception: that of another process, with which this one ends.
    """
    start = time.perf_counter()
    check_kind(LatentModel, model=model)
    check_kind(Checkpoints | None, checkpoints=checkpoints)
    if max_seconds is None and max_steps is None:
        raise InputError("give max_seconds, max_steps or both")
    budget = Budget.of(max_seconds, max_steps, math.inf)
    batch_size = model.batch_size if batch_size is None else batch_size
    check_count(1, batch_size=batch_size)
    check_flag(progress=progress, calibrate=calibrate, resume=resume)
    seed = check_seed(model.seed if seed is None else seed)
    learning_rates = numbers_of(learning_rates, "learning_rates").tolist()
    if not (isinstance(learning_rates, list) and len(learning_rates) == 2):
        raise InputError(f"learning_rates must be two numbers, got {learning_rates}")
    check_real(0, **{"the rate of Muon": learning_rates[0], "the rate of Adam": learning_rates[1]})
    options = {
        "max_seconds": max_seconds,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rates": learning_rates,
        "seed": seed,
        "calibrate": calibrate,
    }
    with Ranks.of_environment() as ranks:
        where = usable_device(device, ranks.local if ranks.size > 1 else None)
        model.to(where)
        share(model, options, ranks)
        # A turn for each step: other threads may train, load and draw in between.
        random = Stream(seed, where)
        with owned(checkpoints.folder) if checkpoints and ranks.is_first else nullcontext():
            generator = torch.Generator().manual_seed(seed)
            at = Progress()
            if checkpoints is not None:
                with random.turn():
                    at = restore(checkpoints, resume, model, generator, options)
                if (first := ranks.of_first(at.step)) != at.step:
                    raise RunFileError(
                        f"process {ranks.index} found a checkpoint of step {at.step}, process 0 of "
                        f"step {first:.0f}: put the folder where all processes see it"
                    )
            if calibrate:
                budget = replace(budget, seconds=(1 - model.calibration_share) * budget.seconds)
            clock = _Clock(start - at.seconds, budget, ranks)
            stages = model.stages(calibrate)
            if at.stage > len(stages):
                raise RunFileError(f"a checkpoint says stage {at.stage}, of {len(stages)} stages")
            with (
                ProgressBar(progress and ranks.is_first) as bar,
                _interruptible(checkpoints, ranks) as interrupted,
            ):
                show = _Display(bar, record if ranks.is_first else None)
                training = _Training(
                    model, at, clock, random, generator, show, options, checkpoints, ranks
                )
                while at.stage < len(stages):
                    training.run(stages, interrupted)
            if calibrate:
                with random.turn():
                    model.calibrate()
        share(model, options, ranks)
        names = tuple(stage.name for stage in stages)
        found = certificates(model)
        was_short = at.step < min(_FEW_STEPS, budget.steps)
        return TrainingResult(
            at.step,
            clock.seconds,
            where,
            names,
            at.history,
            found,
            was_short,
            model.inverse_verdict,
        )


@dataclass(frozen=True)
class _Clock:
    """How much of a training has passed.

    Attributes:
        start: when it began, less what passed before it was interrupted.
        budget: for all of it.
        ranks: the first of them has the clock.
    """

    start: float
    budget: Budget
    ranks: Ranks

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def fraction(self, step: int) -> float:
        spent = self.budget.spent(self.seconds, step)
        # Steps are counted alike everywhere.
        return spent if math.isinf(self.budget.seconds) else self.ranks.of_first(spent)


@dataclass(frozen=True)
class _Display:
    """Who is told how far a training is."""

    bar: ProgressBar
    record: Record | None

    def show(self, row: dict[str, float], fraction: float) -> None:
        self.bar.show(fraction, step=row["step"], elbo=f"{row['elbo']:.6g}")
        if self.record is not None:
            self.record(row)


@dataclass(frozen=True)
class _Training:
    """A training under way.

    Attributes:
        model: changed in place.
        at: how far it is, changed in place.
        clock: says which fraction has passed.
        random: what torch draws without a generator.
        generator: of the other draws.
        display: shows it.
        options: what a checkpoint must agree with.
        checkpoints: where they go, if anywhere.
        ranks: those that train together.
    """

    model: LatentModel
    at: Progress
    clock: _Clock
    random: Stream
    generator: torch.Generator
    display: _Display
    options: dict[str, Any]
    checkpoints: Checkpoints | None
    ranks: Ranks

    def run(self, stages: tuple[Stage, ...], interrupted: Callable[[], bool]) -> None:
        """Train the present stage, or what is left of it; afterwards the next one is present."""
        at, stage = self.at, stages[self.at.stage]
        networks = stage.networks
        if at.begin is None:
            self.display.bar.say(f"preparing: {stage.name}")
            with self.random.turn():
                stage.prepare()
            share(self.model, self.options, self.ranks)
            at.first, at.begin = at.step, self.clock.fraction(at.step)
        optimizers = _optimizers(networks, self.options["learning_rates"])
        if at.optimizers is not None:
            restore_optimizers(optimizers, at.optimizers, at.step - at.first)
            at.optimizers = None
        parameters = [p for network in networks for p in network.parameters()]
        rows = self.ranks.rows(self.options["batch_size"])
        good, written = snapshot(networks), time.perf_counter()
        # What prepares a stage takes time; a part of its share is left to it in any case.
        end = sum(s.share for s in stages[: at.stage + 1])
        end = max(end, at.begin + _LEAST_SHARE * stage.share)
        try:
            while (done := self._done(end)) < 1 or at.step == at.first:
                for optimizer, initial in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = initial * _rate(done)
                    optimizer.zero_grad(set_to_none=True)
                with self.random.turn():
                    loss = stage.loss(rows, stage.draw(rows, self.generator))
                loss.backward()
                if (at.step - at.first) % RECORD_STEPS == 0:
                    value = float(loss.detach())
                    if not math.isfinite(value) or not finite_gradients(parameters):
                        self._fail(value)
                    if (at.step - at.first) % _SNAPSHOT_STEPS == 0:
                        good = snapshot(networks)
                    self._record(stage, at.begin + (end - at.begin) * done)
                self.ranks.sum_([p.grad for p in parameters if p.grad is not None])
                for optimizer, _ in optimizers:
                    optimizer.step()
                at.step += 1
                if self.ranks.agree(interrupted())[0]:
                    self._write(optimizers)
                    raise KeyboardInterrupt
                if self._is_due(written):
                    self._write(optimizers)
                    written = time.perf_counter()
            if not all(torch.isfinite(p).all() for p in parameters):
                self._fail(math.nan)
        except NonFiniteError:
            for network, state in zip(networks, good, strict=True):
                network.load_state_dict(state)
            raise
        self._record(stage, end)
        at.stage, at.begin = at.stage + 1, None
        self._write(None)

    def _done(self, end: float) -> float:
        begin = self.at.begin
        assert begin is not None
        return min(1.0, (self.clock.fraction(self.at.step) - begin) / (end - begin))

    def _is_due(self, written: float) -> bool:
        """Is it time for a checkpoint?"""
        every = math.inf if self.checkpoints is None else self.checkpoints.every
        return time.perf_counter() - written >= every

    def _write(self, optimizers: Optimizers | None) -> None:
        """A checkpoint, if there are any."""
        if self.checkpoints is None or not self.ranks.is_first:
            return
        self.at.seconds = self.clock.seconds
        with self.random.turn():
            content = capture(self.model, self.at, optimizers, self.generator, self.options)
        self.checkpoints.write(content, self.at.step)

    def _record(self, stage: Stage, fraction: float) -> None:
        """The ELBO on the same few draws each time: else min Pi(z) of the draws would hide it."""
        generator = torch.Generator().manual_seed(_WATCHED_SEED)
        with torch.no_grad(), seeded(_WATCHED_SEED, self.model.sigma_residual.device):
            rows = Rows.given(_N_WATCHED)
            loss = float(stage.loss(rows, stage.draw(rows, generator)))
        row = {"step": self.at.step, "seconds": self.clock.seconds, "elbo": -loss}
        self.at.history.append({**row, "stage": self.at.stage})
        self.display.show(self.at.history[-1], fraction)

    def _fail(self, loss: float) -> NoReturn:
        with self.random.turn():
            raise NonFiniteError(diagnose(self.model, loss, self.at.step))


def _rate(done: float) -> float:
    """The share of the initial rate, at a fraction of a stage."""
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _interruptible(
    checkpoints: Checkpoints | None, ranks: Ranks
) -> AbstractContextManager[Callable[[], bool]]:
    """See `interruptible`: where there are checkpoints, or several processes end together.

    A Ctrl-C comes to each of these twice, from the terminal and from torchrun.
    """
    if checkpoints is None and ranks.size == 1:
        return nullcontext(lambda: False)
    return interruptible(is_patient=ranks.size > 1)


def _optimizers(networks: tuple[nn.Module, ...], rates: list[float]) -> Optimizers:
    hidden = [p for n in networks for p in [p for p in n.parameters() if p.ndim == 2][1:-1]]
    taken = {id(p) for p in hidden}
    rest = [p for n in networks for p in n.parameters() if id(p) not in taken]
    found: Optimizers = [(torch.optim.Adam(rest, lr=rates[1]), rates[1])]
    if hidden:
        found.append((Muon(hidden, lr=rates[0]), rates[0]))
    return found
