"""`pddlvm serve`: the maps of a run for programs that speak UM-Bridge."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pddlvm.basics.errors import InputError
from pddlvm.basics.http_server import Server
from pddlvm.cli.common import MisuseError, OwnProblem, RunFolder, printable
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.runs.folder import Run
from pddlvm.runs.series import read_places, read_series
from pddlvm.runs.sources import find, is_file
from pddlvm.runs.tables import Measurements, read_measurements
from pddlvm.sensors.observation import LinearObservation, PointObservation
from pddlvm.sensors.quantity import Quantity
from pddlvm.umbridge.protocol import respond
from pddlvm.umbridge.served import served

__all__ = ["serve_command"]

_PORT = 4242
"""What clients of UM-Bridge ask by default."""


def serve_command(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = _PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets in the whole network.")
    ] = "127.0.0.1",
    sensors: Annotated[
        Path | None,
        typer.Option(help="Table of places (sensor, x, ...): `forward` is the mean of u there."),
    ] = None,
    quantities: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Makes pddlvm.Quantity objects of the problem; the file is executed.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Measurements, as of `infer`: serves `posterior` too.")
    ] = None,
    noise_std: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise of the data.")
    ] = None,
    field: Annotated[
        str, typer.Option(help="Of a solution of several fields, the one that sensors see.")
    ] = "u",
    corrections: Annotated[
        int, typer.Option(min=0, help="Newton steps in the basis, where a client does not say.")
    ] = 0,
    problem: OwnProblem = None,
) -> None:
    """Serve forward map, quantities and log posterior to programs that speak UM-Bridge.

    pddlvm serve runs/poisson --data sensors.csv --noise-std 0.01
    """
    opened = Run.open(run)
    model = opened.model(opened.problem(problem))
    own = model.problem
    measured = None if data is None else _measured(data, sensors, own, noise_std, field)
    functions = served(
        model,
        sensors=None if sensors is None else _seen(sensors, own, field),
        quantities=[] if quantities is None else _quantities(quantities, own),
        data=None if measured is None else (measured.observation, measured.y),
        corrections=corrections,
    )
    with Server(partial(respond, functions), host, port) as server:
        for one in functions:
            without = "" if one.has_derivatives else ", no Gradient and no ApplyJacobian"
            said = f"{one.name}: {one.n_inputs} -> {one.n_outputs} numbers{without}"
            typer.echo(printable(said))
        typer.echo(f"{server.url} (Ctrl-C ends it)")
        server.serve_forever()


def _measured(
    data: Path,
    sensors: Path | None,
    problem: ParametricProblem,
    noise_std: float | None,
    field: str,
) -> Measurements:
    if sensors is not None and len(problem.solution_shape) > 1:
        return read_series(data, sensors, problem, noise_std, field)
    return read_measurements(data, problem, noise_std, field)


def _seen(path: Path, problem: ParametricProblem, field: str) -> LinearObservation:
    """Sensors without noise to speak of: their values alone are asked for."""
    _, points = read_places(path, problem)
    return PointObservation(problem, points, 1.0, field)


def _quantities(name: str, problem: ParametricProblem) -> list[Quantity]:
    if not is_file(name):
        raise MisuseError(f"--quantities names a function in a file, my_file.py:make, got {name!r}")
    found = find(name)
    try:
        made: object = found(problem)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name!r} fails: {type(error).__name__}: {error}") from error
    several = made if isinstance(made, list | tuple) else [made]
    quantities = [one for one in several if isinstance(one, Quantity)]
    if not quantities or len(quantities) < len(several):
        raise InputError(f"{name!r} must return a pddlvm.Quantity of its problem, or a list")
    return quantities
