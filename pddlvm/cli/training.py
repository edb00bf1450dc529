"""`pddlvm list`, `pddlvm train`, `pddlvm validate` and `pddlvm info`."""

import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from pddlvm.basics.locks import owned
from pddlvm.cli.common import (
    INTERRUPTED,
    AsJson,
    MisuseError,
    OwnProblem,
    RunFolder,
    Seed,
    answer,
    printable,
    problem_names,
)
from pddlvm.models import LatentVariableModel, load
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.runs.config import RunConfig, read_toml
from pddlvm.runs.folder import Run
from pddlvm.runs.report import Table, write_report
from pddlvm.runs.sources import (
    find,
    installed,
    is_file,
    make,
    parse_settings,
    settings_of,
)
from pddlvm.training.devices import usable_device
from pddlvm.training.loop import TrainingResult, train
from pddlvm.training.ranks import Ranks
from pddlvm.validation.maps import ValidationReport, validate

__all__ = ["info_command", "list_command", "train_command", "validate_command"]

_SHOWN_SEED = 7
_NOTE = (
    "Against the reference solver. mnse is the mean square relative error: of the solution u, and "
    "of the parameter field z that the inverse map finds from u. Error bars are right where the "
    "coverage is 0.954 and std / error is about 1. Speed-ups are those of a forward prediction, "
    "alone or in a batch."
)
_CERTIFICATE_NOTE = (
    "Of the forward map, by the relative residuals of its predictions on fresh draws of the prior."
)
_FAILED_NOTE = "By matplotlib, as its settings (matplotlibrc) say. The run itself is complete."


def list_command(as_json: AsJson = False) -> None:
    """List the installed problems with their settings and defaults.

    pddlvm list --json
    """
    found = {name: settings_of(find(name)) for name in installed()}
    if as_json:
        return answer(found, True)
    answer({k: " ".join(f"{n}={v}" for n, v in s.items()) for k, s in found.items()}, False)


def train_command(
    out: Annotated[Path, typer.Option(help="Run folder; new or empty, unless --resume.")],
    problem: Annotated[
        str | None,
        typer.Argument(
            help="Name of an installed problem, or file.py:function.",
            autocompletion=problem_names,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Argument of the problem; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the options; flags come before it.")
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option(help="Training time, in seconds: max_seconds of files and of Python."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Limit on the training steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the model and its training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Prior draws per step.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    checkpoint_every: Annotated[
        float | None, typer.Option(help="Seconds between two checkpoints.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard too (extra `log`).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a problem into a run folder, compare it with the reference solver, write a report.

    Ctrl-C ends the training with a checkpoint; --resume goes on from there. Under torchrun the
    processes share out the batch of each step.

    pddlvm train poisson --set n=16 --max-time 60 --out runs/poisson

    pddlvm train my_problem.py:make --config run.toml --out runs/mine

    pddlvm train --resume --out runs/poisson

    torchrun --nproc-per-node 2 -m pddlvm train poisson --max-steps 500 --out runs/poisson
    """
    flags = {
        "max_seconds": max_time,
        "max_steps": max_steps,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "checkpoint_seconds": checkpoint_every,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if resume:
        changed = (
            sorted(given) + (["settings"] if settings else []) + (["config"] if config else [])
        )
        if changed:
            raise MisuseError(f"--resume goes on with the options of the run; leave out {changed}")
        run = Run.open(out)
        made = run.problem(problem)
    else:
        run = Run(out, _config(problem, settings or [], config, given))
        # First the problem: a wrong setting leaves no folder behind.
        made = make(run.config.problem, run.config.settings)
    with Ranks.of_environment() as ranks:
        if not ranks.is_first:
            ranks.agree()
            _train(run, made, ranks, False, as_json)
            return
        with owned(out):
            if resume:
                run.check_open()
            else:
                Run.create(out, run.config)
            ranks.agree()
            try:
                values = _train(run, made, ranks, tensorboard, as_json)
            except typer.Exit:
                raise
            except Exception:
                if not resume:
                    run.discard()
                raise
    answer(values, as_json)


def validate_command(
    run: RunFolder,
    draws: Annotated[
        int, typer.Option(min=2, max=10**6, help="Fresh prior draws, each solved.")
    ] = 200,
    known: Annotated[
        list[str] | None, typer.Option(help="Block that the inverse map is told; repeatable.")
    ] = None,
    seed: Seed = 12345,
    problem: OwnProblem = None,
    as_json: AsJson = False,
) -> None:
    """Compare both maps of a run with the reference solver on fresh draws of the prior.

    pddlvm validate runs/poisson --draws 500
    """
    opened = Run.open(run)
    model = opened.model(opened.problem(problem))
    report = validate(model, draws, known=known or (), seed=seed)
    answer(_summary(report) if as_json else report.rows, as_json)


def info_command(run: RunFolder, as_json: AsJson = False) -> None:
    """Say what a run folder holds; nothing of it is executed.

    pddlvm info runs/poisson
    """
    opened = Run.open(run)
    rows = opened.metrics
    config = {name: value for name, value in asdict(opened.config).items() if value is not None}
    state = "trained" if opened.is_finished else "not finished: go on with --resume"
    found = {"run": str(run), "state": state, **config}
    if rows:
        found |= {"steps": int(rows[-1]["step"]), "elbo": rows[-1]["elbo"]}
    # What the folder is stays: info.json may say anything.
    answer({**found, **opened.info, **found}, as_json)


def _config(
    problem: str | None, settings: list[str], file: Path | None, given: dict[str, Any]
) -> RunConfig:
    values = read_toml(file) if file else {}
    values = {**values, **given}
    if problem is not None:
        values["problem"] = problem
    if settings:
        values["settings"] = {**values.get("settings", {}), **parse_settings(settings)}
    found = RunConfig.of(values)
    usable_device(found.device)
    if found.max_seconds is None and found.max_steps is None:
        raise MisuseError("say how long to train: --max-time seconds, or --max-steps")
    return found


def _train(
    run: Run, problem: ParametricProblem, ranks: Ranks, tensorboard: bool, as_json: bool
) -> dict[str, Any]:
    is_shown = not as_json and sys.stderr.isatty() and ranks.is_first
    start = time.perf_counter()
    try:
        model, result = _trained(run, problem, ranks, tensorboard, is_shown)
        return _finished(run, model, result, as_json, start) if ranks.is_first else {}
    except KeyboardInterrupt:
        if not ranks.is_first:
            raise
        name = run.config.problem
        words = ["pddlvm", "train", *([name] if is_file(name) else []), "--resume", "--out"]
        hint = shlex.join([*words, str(run.path)])
        typer.echo(printable(f"interrupted; go on with: {hint}"), err=True)
        raise typer.Exit(INTERRUPTED) from None


def _trained(
    run: Run, problem: ParametricProblem, ranks: Ranks, tensorboard: bool, is_shown: bool
) -> tuple[LatentVariableModel, TrainingResult]:
    config = run.config
    found = run.checkpoints.newest()
    # A saved model has its basis: it need not be found again.
    if found is None:
        model = LatentVariableModel(problem, seed=config.seed, progress=is_shown)
    else:
        model = load(found[0], problem)
    if ranks.is_first:
        run.start(found[1]["training"]["history"] if found else [])
    with ExitStack() as stack:
        record: Callable[[dict[str, float]], None] = run.add_metrics
        if tensorboard:
            from pddlvm.runs.tensorboard import logged

            record = stack.enter_context(logged(run, record))
        result = train(
            model,
            max_seconds=config.max_seconds,
            max_steps=config.max_steps,
            batch_size=config.batch_size,
            device=config.device,
            seed=config.seed,
            progress=is_shown,
            checkpoints=run.checkpoints,
            resume=True,
            record=record,
        )
    if ranks.is_first:
        model.save(run.model_file)
    # The others need not wait for the report.
    ranks.leave()
    return model, result


def _finished(
    run: Run, model: LatentVariableModel, result: TrainingResult, as_json: bool, start: float
) -> dict[str, Any]:
    """What a run folder has beside the trained model, and what the command answers."""
    run.describe(
        verdict=result.verdict,
        certificates=asdict(result.certificates),
        n_steps=result.n_steps,
        training_seconds=result.seconds,
        device=str(result.device),
    )
    report = validate(model, run.config.n_validation)
    summary = _summary(report)
    run.describe(validation=summary, seconds=time.perf_counter() - start)
    _report(run, model, result, report)
    trained = {
        "verdict": result.verdict,
        "steps": result.n_steps,
        "training_seconds": result.seconds,
    }
    return {"run": run.path, **trained, **(summary if as_json else report.rows)}


def _report(
    run: Run, model: LatentVariableModel, result: TrainingResult, report: ValidationReport
) -> None:
    from pddlvm.runs.figures import write_figures

    figures = write_figures(run.path / "figures", model, result, report, _SHOWN_SEED)
    info = run.info
    options = {k: v for k, v in asdict(run.config).items() if v is not None}
    options["settings"] = ", ".join(f"{k} = {v}" for k, v in run.config.settings.items())
    trained = {"steps": result.n_steps, "seconds": result.seconds, "model": repr(model)}
    verdict = {"verdict": result.verdict, **result.certificates.rows}
    machine = {**info["machine"], "git": info["git"], "created": info["created"]}
    tables = [
        Table("Verdict", verdict, _CERTIFICATE_NOTE),
        Table(f"Errors, on {report.n_samples} fresh draws of the prior", report.rows, _NOTE),
        Table("Run", {**options, **trained}),
        Table("Versions", info["versions"]),
        Table("Machine", machine),
    ]
    if figures.failed:
        tables.append(Table("Figures that could not be drawn", figures.failed, _FAILED_NOTE))
    write_report(run.report_file, f"{model.problem.name}: training report", tables, figures.drawn)
    for caption, reason in figures.failed.items():
        typer.echo(printable(f"no figure of {caption!r} was drawn: {reason}"), err=True)


def _summary(report: ValidationReport) -> dict[str, Any]:
    """The numbers of a report, without its curves."""

    def numbers(values: dict[Any, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in values.items() if not isinstance(v, np.ndarray | torch.Tensor)}
        return {str(k): numbers(v) if isinstance(v, dict) else v for k, v in kept.items()}

    return numbers(asdict(report))
