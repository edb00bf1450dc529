"""Tables of time series, as CSV files with a header, beside a table of the places of sensors.

    sensors      sensor (a name), x, y, ...
    long form    t (or time), sensor, value;  a row for each value, in any order
    wide form    t (or time), then a column with the name of each sensor;  a row for each time

What is empty, NaN, NA and the like was not measured, nor was what has no row. Vectors have columns
value_0, value_1, ... in the long form, and sensor_0, sensor_1, ... in the wide one.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.runs.tables import Measurements, Table, read_table
from pddlvm.sensors.observation import PointObservation

__all__ = ["read_places", "read_series"]

_OF_TIME = ("t", "time")


def read_series(
    path: Path, sensors: Path, problem: ParametricProblem, noise_std: float | None, field: str = "u"
) -> Measurements:
    """Sensors at times, and their data, with NaN where there are none.

    Args:
        path: the time series, in the long or in the wide form.
        sensors: where the sensors are.
        problem: in time on a mesh.
        noise_std: of all values.
        field: of a solution that has several, the one that was measured.

    Raises:
        InputError: a problem without times, no such table, other columns, a sensor without a place,
            a time or a sensor twice, times outside of the interval, no noise.
    """
    if len(problem.solution_shape) < 2:
        raise InputError(
            f"problem {problem.name!r} has no steps in time: a table of places is for time series, "
            "and measurements of one time have columns of coordinates"
        )
    if noise_std is None:
        raise InputError("a time series needs --noise-std, the standard deviation of its values")
    names, points = read_places(sensors, problem)
    n = problem.evaluation(points[:1], field).shape[0]
    table = read_table(path).named(("sensor", "value"))
    is_long = "sensor" in table.header
    times, y = (_long if is_long else _wide)(table, sensors, names, n)
    observation = PointObservation(problem, points, noise_std, field, times=times)
    return Measurements(observation, y.flatten())


def read_places(path: Path, problem: ParametricProblem) -> tuple[list[str], NDArray[np.float64]]:
    """Names of sensors, and where they are, (n, dim).

    Raises:
        InputError: no such table, other columns, a name twice.
    """
    table = read_table(path).named(("sensor", *problem.coordinates))
    points = table.numbers(problem.coordinates).numpy()
    names = table.texts("sensor")
    if len(set(names)) < len(names):
        raise InputError(f"{str(path)!r} has a sensor twice: {', '.join(names)}")
    return names, points


def _long(table: Table, sensors: Path, names: list[str], n: int) -> tuple[Tensor, Tensor]:
    """Times (n_times,) and values (n_times, n_sensors, n) of a row for each value."""
    columns = _components("value", n)
    _check_columns(table, ("sensor", *columns))
    at, own, values = _times(table), table.texts("sensor"), table.numbers(columns, may_miss=True)
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise InputError(f"{str(table.path)!r} has sensors {unknown}, without places in {sensors}")
    times, step = at.unique(return_inverse=True)
    y = torch.full((len(times), len(names), n), torch.nan, dtype=torch.float64)
    seen = set()
    for k, name, value in zip(step.tolist(), own, values, strict=True):
        if (k, name) in seen:
            raise InputError(
                f"{str(table.path)!r} has sensor {name!r} twice at t = {float(times[k]):g}"
            )
        seen.add((k, name))
        y[k, names.index(name)] = value
    return times, y


def _wide(table: Table, sensors: Path, names: list[str], n: int) -> tuple[Tensor, Tensor]:
    """The same of a row for each time."""
    columns = [column for name in names for column in _components(name, n)]
    given = [name for name in columns if name in table.header]
    unknown = [h for h in table.header if h not in columns and h.lower() not in _OF_TIME]
    if unknown or not given:
        raise InputError(
            f"{str(table.path)!r} has the columns {', '.join(table.header)}; it needs t and sensor "
            f"and value, or t and columns of the sensors of {str(sensors)!r}: {', '.join(columns)}"
        )
    at = _times(table)
    if len(at.unique()) < len(at):
        raise InputError(f"{str(table.path)!r} has a time twice")
    order = at.argsort()
    y = torch.full((len(at), len(columns)), torch.nan, dtype=torch.float64)
    places = [columns.index(name) for name in given]
    y[:, places] = table.numbers(tuple(given), may_miss=True)[order]
    return at[order], y.unflatten(1, (len(names), n))


def _times(table: Table) -> Tensor:
    found = [name for name in table.header if name.lower() in _OF_TIME]
    if len(found) != 1:
        raise InputError(
            f"{str(table.path)!r} needs one column t (or time), it has {', '.join(table.header)}"
        )
    return table.numbers((found[0],))[:, 0]


def _check_columns(table: Table, names: tuple[str, ...]) -> None:
    unknown = sorted(h for h in set(table.header) - set(names) if h.lower() not in _OF_TIME)
    if unknown:
        raise InputError(
            f"{str(table.path)!r} has the columns {unknown}; known are t, {', '.join(names)}"
        )


def _components(name: str, n: int) -> tuple[str, ...]:
    return (name,) if n == 1 else tuple(f"{name}_{i}" for i in range(n))
