"""Tables of parameters and of measurements, as CSV files with a header.

    parameters     one column per parameter, one row per z
    measurements   coordinates (x, y, ...), then value, and perhaps std; one row per sensor

Of a vector-valued u there are columns value_0, value_1, ... instead of value. An empty value was
not measured.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.basics.files import write_text
from pddlvm.runs.sources import AnyProblem
from pddlvm.sensors.observation import PointObservation

__all__ = ["Measurements", "number", "read_measurements", "read_parameters", "write_table"]

_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Measurements:
    """What a table of measurements says.

    Attributes:
        observation: sensors and noise.
        y: (n,), NaN where nothing was measured.
    """

    observation: PointObservation
    y: Tensor


def read_parameters(path: Path, problem: AnyProblem) -> Tensor:
    """Parameters (n, d), float64.

    Raises:
        InputError: no such table, other columns than the parameters, values that are no numbers.
    """
    names = problem.parameter_names
    table = _read(path)
    unknown = sorted(set(table.header) - set(names))
    if unknown:
        raise InputError(f"{str(path)!r} has the columns {unknown}, which are no parameters")
    return table.numbers(names)


def read_measurements(path: Path, problem: AnyProblem, noise_std: float | None) -> Measurements:
    """Sensors and data.

    Args:
        path: of the table.
        problem: what is measured.
        noise_std: of all sensors, where the table has no column std.

    Raises:
        InputError: no such table, missing columns, values that are no numbers, sensors outside of
            the domain, no noise or two.
    """
    names = problem.coordinates
    table = _read(path)
    points = table.numbers(names)
    n = problem.evaluation(points[:1].numpy()).shape[0]
    values = ("value",) if n == 1 else tuple(f"value_{i}" for i in range(n))
    data = table.numbers(values, may_miss=True).flatten()
    unknown = sorted(set(table.header) - {*names, *values, "std"})
    if unknown:
        raise InputError(
            f"{str(path)!r} has the columns {unknown}; known are {', '.join([*names, *values])} "
            "and std"
        )
    if ("std" in table.header) == (noise_std is not None):
        raise InputError(
            "the noise must be given once: by a column std of the table, or by --noise-std"
        )
    if noise_std is not None:
        return Measurements(PointObservation(problem, points.numpy(), noise_std), data)
    noise = table.numbers(("std",))[:, 0].repeat_interleave(n)
    return Measurements(PointObservation(problem, points.numpy(), noise), data)


def write_table(path: Path, names: list[str], values: Tensor) -> None:
    """Write values (n, n_columns) under their names, in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([f"{v:.17g}" for v in row] for row in values.tolist())
    write_text(text.getvalue(), path)


@dataclass(frozen=True)
class _Table:
    path: Path
    header: list[str]
    rows: list[list[str]]

    def numbers(self, names: tuple[str, ...], may_miss: bool = False) -> Tensor:
        """The columns of these names, (n_rows, n_names)."""
        missing = [name for name in names if name not in self.header]
        if missing:
            raise InputError(
                f"{str(self.path)!r} has no column {', '.join(missing)}; it needs "
                f"{', '.join(names)}"
            )
        columns = [self.header.index(name) for name in names]
        values = [
            [self._number(row[i], k, may_miss) for i in columns] for k, row in enumerate(self.rows)
        ]
        return torch.tensor(values, dtype=torch.float64)

    def _number(self, text: str, row: int, may_miss: bool) -> float:
        if may_miss and text.strip().lower() in ("", "nan"):
            return math.nan
        value = number(text)
        if value is None or not math.isfinite(value):
            raise InputError(
                f"row {row + 1} of {str(self.path)!r} has {text[:40]!r}, which is no number"
            )
        return value


def _read(path: Path) -> _Table:
    """A table whose rows are all as long as its header."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{str(path)!r} is larger than {_MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r} ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{str(path)!r} is not a CSV table: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{str(path)!r} must have a header and at least one row")
    header = [name.strip() for name in rows[0]]
    if any(number(name) is not None for name in header):
        raise InputError(f"{str(path)!r} begins with numbers; its first line must name the columns")
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"{str(path)!r} has columns between semicolons; put commas between them")
    if len(set(header)) < len(header):
        raise InputError(f"{str(path)!r} has a column twice: {', '.join(header)}")
    for k, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise InputError(
                f"row {k + 1} of {str(path)!r} has {len(row)} values, the header {len(header)}"
            )
    return _Table(path, header, rows[1:])


def number(text: str) -> float | None:
    """The number that a text is, None where it is none."""
    try:
        # Python takes 1_0 for ten; nobody else does.
        return None if "_" in text else float(text)
    except ValueError:
        return None
