"""The program `pddlvm`: its commands, and its exit codes.

0  done        1  the input or the computation was not good, said why on stderr
2  misuse of the command line        130  interrupted, by Ctrl-C or SIGTERM

Before its libraries are loaded nothing is begun, and a signal ends it as it ends any program.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import torch
import typer

import pddlvm
from pddlvm.basics.errors import ConvergenceError, InputError, NonFiniteError
from pddlvm.cli.common import INTERRUPTED, MisuseError, printable
from pddlvm.cli.explore import explore_command
from pddlvm.cli.serve import serve_command
from pddlvm.cli.training import info_command, list_command, train_command, validate_command
from pddlvm.cli.use import export_command, forward_command, infer_command

__all__ = ["app", "main"]

_NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")

app = typer.Typer(
    help="Parametric PDEs in real time, parameters from data, and an error bar on both.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command in (
    ("list", list_command),
    ("train", train_command),
    ("forward", forward_command),
    ("infer", infer_command),
    ("validate", validate_command),
    ("info", info_command),
    ("export", export_command),
    ("serve", serve_command),
    ("explore", explore_command),
):
    app.command(name)(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(pddlvm.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Parametric PDEs in real time, parameters from data, and an error bar on both."""


def main() -> None:
    """Entry point of the program."""
    try:
        with _terminable():
            app()
    except (InputError, ConvergenceError, NonFiniteError) as error:
        _fail(str(error), 2 if isinstance(error, MisuseError) else 1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        # Output is written once more at the end, and would fail once more.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"{error.strerror or error}; the answer was not written", 1)
    except (MemoryError, RuntimeError) as error:
        is_small = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_small and not any(said in str(error) for said in _NO_MEMORY):
            raise
        _fail("there is not enough memory for this; ask for less at a time", 1)


def _fail(message: str, code: int) -> None:
    print(printable(f"error: {message}"), file=sys.stderr)
    sys.exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM ends the program as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
