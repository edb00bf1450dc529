"""The program `pddlvm`: its commands, and its exit codes.

0  done        1  the input or the computation was not good, said why on stderr
2  misuse of the command line        130  interrupted
"""

import sys

import typer

from pddlvm.cli.common import MisuseError
from pddlvm.cli.training import info_command, list_command, train_command, validate_command
from pddlvm.cli.use import export_command, forward_command, infer_command
from pddlvm.errors import ConvergenceError, InputError, NonFiniteError

__all__ = ["app", "main"]

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
):
    app.command(name)(command)


def main() -> None:
    """Entry point of the program."""
    try:
        app()
    except (InputError, ConvergenceError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, MisuseError) else 1)
