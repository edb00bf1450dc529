"""What the commands share: their options, and how they answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.basics.files import check_folder_of
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.runs.sources import installed
from pddlvm.runs.strict_json import strict_json
from pddlvm.runs.tables import number, read_parameters

__all__ = [
    "INTERRUPTED",
    "AsJson",
    "MisuseError",
    "OwnProblem",
    "RunFolder",
    "Seed",
    "answer",
    "check_file",
    "parameters",
    "printable",
    "problem_names",
]


INTERRUPTED = 130
"""The exit code."""


class MisuseError(InputError):
    """Options that do not make a command, whatever files and problems say."""


def problem_names(incomplete: str) -> list[str]:
    """Names of installed problems, for completion."""
    return [name for name in installed() if name.startswith(incomplete)]


RunFolder = Annotated[Path, typer.Argument(help="Run folder, made by `pddlvm train`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything random.")]
OwnProblem = Annotated[
    str | None,
    typer.Option(
        "--problem",
        metavar="FILE.py:FUNCTION",
        help="The file of the problem, where it is in a file: it is executed.",
    ),
]


def answer(values: dict[str, Any], as_json: bool, reasons: Mapping[str, str] | None = None) -> None:
    """Print names and values: for people, or for programs, with reasons as in `strict_json`."""
    plain = {name: _plain(value) for name, value in values.items()}
    if as_json:
        typer.echo(strict_json(plain, reasons))
        return
    width = max(map(len, plain)) + 2
    for name, value in plain.items():
        for line in _lines(value):
            typer.echo(printable(f"{name:<{width}}{line}"))
            name = ""


def parameters(
    problem: ParametricProblem, z: str | None, table: Path | None, draws: int | None, seed: int
) -> Tensor:
    """Parameters (n, d) as the options name them.

    Raises:
        MisuseError: none of the options is given, or several, or other than d values.
    """
    if sum(given is not None for given in (z, table, draws)) != 1:
        raise MisuseError("give the parameters by one of --z, --table and --draws")
    if table is not None:
        return read_parameters(table, problem)
    if draws is not None:
        return problem.prior.sample((draws,), seed=seed)
    assert z is not None
    values = numbers(z, "--z")
    if len(values) != problem.n_parameters:
        names = ", ".join(problem.parameter_names)
        raise MisuseError(f"--z needs {problem.n_parameters} values ({names}), got {len(values)}")
    return torch.tensor([values], dtype=torch.float64)


def numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between them.

    Raises:
        MisuseError: it is something else.
    """
    values = [value for part in text.split(",") if (value := number(part)) is not None]
    if len(values) <= text.count(","):
        raise MisuseError(f"{option} takes numbers with commas between them, got {text!r}")
    return values


def check_file(out: Path | None, suffixes: tuple[str, ...], *others: Path | None) -> None:
    """Before anything is computed that could not be written.

    Args:
        out: the file to be written.
        suffixes: what it may end in.
        others: files that are read, or belong to a run.

    Raises:
        MisuseError: the file has another suffix, or is one of the others.
        InputError: its folder does not exist.
    """
    if out is None:
        return
    if out.suffix not in suffixes:
        raise MisuseError(f"the file must end in {' or '.join(suffixes)}, got {str(out)!r}")
    for other in others:
        if other is not None and out.exists() and other.exists() and out.samefile(other):
            raise MisuseError(f"{str(out)!r} is read, or of the run; give another file to write")
    check_folder_of(out)


def printable(text: str) -> str:
    """A text for a terminal: what a file says must not control it."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value


def _lines(value: Any) -> list[str]:
    """Rows of a matrix and entries of a table go one below the other."""
    if isinstance(value, dict):
        return [f"{name}: {_text(part)}" for name, part in value.items()]
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [_text(row) for row in value]
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(f"{_text(part):>10}" for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(part)}" for name, part in value.items())
    return str(value)
