"""Tables of parameters and of measurements, as CSV files with a header.

    parameters     one column per parameter, one row per z
    measurements   coordinates (x, y, ...), then value, and perhaps std; one row per sensor

Of a problem in time on a mesh t is a coordinate too: a row per sensor and time.
Of a vector-valued u there are columns value_0, value_1, ... instead of value. A value that is
empty, NaN, NA, #N/A, null, none or - was not measured. Columns may be parted by commas, semicolons,
tabs or white space; numbers may have decimal commas where columns are parted otherwise. Lines that
begin with # or % are comments; names may be in capitals, and the index that pandas writes is left
out.
"""

import csv
import io
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.basics.files import write_text
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.sensors.observation import LinearObservation, PointObservation

__all__ = [
    "Measurements",
    "Table",
    "number",
    "read_measurements",
    "read_parameters",
    "read_table",
    "table_of",
    "write_table",
]

_MAX_BYTES = 256 * 2**20
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_MISSING = ("", "nan", "na", "n/a", "#n/a", "null", "none", "-")
_OF_A_SHEET = re.compile(r"#(N/A|DIV/0!|VALUE!|REF!|NAME\?|NUM!|NULL!)")
"""What a spreadsheet writes in a cell whose formula has no value."""


@dataclass(frozen=True)
class Measurements:
    """What a table of measurements says.

    Attributes:
        observation: sensors and noise.
        y: (n,), NaN where nothing was measured.
    """

    observation: LinearObservation
    y: Tensor


def read_parameters(path: Path, problem: ParametricProblem) -> Tensor:
    """Parameters (n, d), float64.

    Raises:
        InputError: no such table, other columns than the parameters, values that are no numbers.
    """
    names = problem.parameter_names
    table = read_table(path).named(names)
    unknown = sorted(set(table.header) - set(names))
    if unknown:
        raise InputError(f"{str(path)!r} has the columns {unknown}, which are no parameters")
    return table.numbers(names)


def read_measurements(
    path: Path, problem: ParametricProblem, noise_std: float | None, field: str = "u"
) -> Measurements:
    """Sensors and data.

    Args:
        path: of the table; of a problem in time on a mesh it has a column t.
        problem: what is measured.
        noise_std: of all sensors, where the table has no column std.
        field: of a solution that has several, the one that was measured.

    Raises:
        InputError: no such table, missing columns, values that are no numbers, sensors outside of
            the domain, no noise or two.
        ProblemError: there is no such field.
    """
    dim, names = len(problem.coordinates), problem.coordinates
    if len(problem.solution_shape) > 1:
        names = (*names, "t")
    table = read_table(path).named((*names, "value", "std"))
    places = table.numbers(names)
    points, times = places[:, :dim], places[:, dim:]
    n = problem.evaluation(points[:1].numpy(), field).shape[0]
    values = ("value",) if n == 1 else tuple(f"value_{i}" for i in range(n))
    table = table.named(values)
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
    noise: float | Tensor
    if noise_std is not None:
        noise = noise_std
    else:
        noise = table.numbers(("std",))[:, 0].repeat_interleave(n)
    if not times.numel():
        return Measurements(PointObservation(problem, points.numpy(), noise, field), data)
    rows = problem.evaluation(points.numpy(), field)
    matrix = _at_own_times(problem, rows, times[:, 0].repeat_interleave(n).numpy())
    return Measurements(LinearObservation(problem, matrix, noise), data)


def _at_own_times(
    problem: ParametricProblem, rows: sp.csr_matrix, times: NDArray[np.float64]
) -> sp.csr_matrix:
    """Rows that read u, (n, n_dofs), each at a time of its own (n,): on whole trajectories."""
    parts, order = [], []
    for time in np.unique(times):
        own = np.flatnonzero(times == time)
        parts.append(problem.seen_at(rows[own], [time]))
        order.append(own)
    return sp.csr_matrix(sp.vstack(parts, format="csr")[np.argsort(np.concatenate(order))])


def write_table(path: Path, names: list[str], values: Tensor) -> None:
    """Write values (n, n_columns) under their names, in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([f"{v:.17g}" for v in row] for row in values.tolist())
    write_text(text.getvalue(), path)


@dataclass(frozen=True)
class Table:
    """The texts of a table, and the file that it is from."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    has_decimal_commas: bool

    def named(self, names: tuple[str, ...]) -> "Table":
        """With these names instead of the same in capitals, where it is clear what is meant."""
        plain = [name.lower() for name in self.header]
        meant = {
            n.lower(): n for n in names if n not in self.header and plain.count(n.lower()) == 1
        }
        header = [h if h in names else meant.get(h.lower(), h) for h in self.header]
        return replace(self, header=header)

    def numbers(self, names: tuple[str, ...], may_miss: bool = False) -> Tensor:
        """The columns of these names, (n_rows, n_names)."""
        missing = [name for name in names if name not in self.header]
        if missing:
            raise InputError(
                f"{str(self.path)!r} has no column {', '.join(missing)}; it needs "
                f"{', '.join(names)}, and has {', '.join(self.header)}"
            )
        columns = [self.header.index(name) for name in names]
        values = [
            [self._number(row[i], k, may_miss) for i in columns] for k, row in enumerate(self.rows)
        ]
        return torch.tensor(values, dtype=torch.float64)

    def texts(self, name: str) -> list[str]:
        """The column of this name."""
        if name not in self.header:
            raise InputError(
                f"{str(self.path)!r} has no column {name}; it has {', '.join(self.header)}"
            )
        return [row[self.header.index(name)] for row in self.rows]

    def _number(self, text: str, row: int, may_miss: bool) -> float:
        if may_miss and text.strip().lower() in _MISSING:
            return math.nan
        value = number(text.replace(",", ".", 1) if self.has_decimal_commas else text)
        if value is None or not math.isfinite(value):
            raise InputError(
                f"row {row + 1} of {str(self.path)!r} has {text[:40]!r}, which is no number"
            )
        return value


def read_table(path: Path) -> Table:
    """A table whose rows are all as long as its header."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{str(path)!r} is larger than {_MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not a CSV table: {error}") from error
    return table_of(text, path)


def table_of(text: str, path: Path) -> Table:
    """The same of a text; the path is for messages."""
    try:
        lines = [line for line in io.StringIO(text) if line.strip() and not _is_comment(line)]
        mark = _mark_between(lines[0] if lines else "", path)
        split = map(str.split, lines) if mark is None else _split(lines, mark)
        rows = [[part.strip() for part in row] for row in split]
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is not a CSV table: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{str(path)!r} must have a header and at least one row")
    header = rows.pop(0)
    if any(number(name) is not None for name in header):
        raise InputError(
            f"{str(path)!r} begins with numbers; its first line must name the columns, and not "
            "begin with # or %, which makes it a comment"
        )
    if len(set(header)) < len(header):
        raise InputError(f"{str(path)!r} has a column twice: {', '.join(header)}")
    for k, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(
                f"row {k + 1} of {str(path)!r} has {len(row)} values, the header {len(header)}"
            )
    if header[0] in ("", "Unnamed: 0") and [row[0] for row in rows] == [
        *map(str, range(len(rows)))
    ]:
        # The index of a table of pandas.
        header, rows = header[1:], [row[1:] for row in rows]
    if "" in header:
        raise InputError(f"{str(path)!r} has a column without a name: {', '.join(header)}")
    return Table(path, header, rows, mark != "," and _has_decimal_commas(rows, path))


def _is_comment(line: str) -> bool:
    return line[0] in "#%" and not _OF_A_SHEET.match(line)


def _mark_between(header: str, path: Path) -> str | None:
    """What parts the columns of a header; None for white space."""
    found = [mark for mark in (";", ",", "\t") if mark in header]
    if len(found) > 1:
        raise InputError(
            f"the first line of {str(path)!r} has {' and '.join(map(repr, found))}; part the names "
            "of its columns by one of them"
        )
    if found:
        return found[0]
    # The one column of a table is one with commas: 0,5 would be two values.
    return None if len(header.split()) > 1 else ","


def _split(lines: list[str], mark: str) -> list[list[str]]:
    return [row for row in csv.reader(lines, delimiter=mark, strict=True) if row]


def _has_decimal_commas(rows: list[list[str]], path: Path) -> bool:
    """Is 0,5 a half? Not where it may be that commas part thousands."""
    with_commas = [text for row in rows for text in row if "," in text]
    if not with_commas:
        return False
    if any("." in text for row in rows for text in row):
        raise InputError(f"{str(path)!r} has numbers with commas and with points; write 0.5 or 0,5")
    if all(_THOUSANDS.fullmatch(text) for text in with_commas):
        raise InputError(
            f"{str(path)!r} has {with_commas[0]!r}, which may be a number with a decimal comma or "
            "thousands; write decimal points"
        )
    return True


def number(text: str) -> float | None:
    """The number that a text is, None where it is none."""
    try:
        # Python takes 1_0 for ten; nobody else does.
        return None if "_" in text else float(text)
    except ValueError:
        return None
