"""A command that serves until Ctrl-C, for tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def _heeds_ctrl_c() -> None:
    # A shell that runs the tests in the background has its children ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def until_ctrl_c(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`pddlvm ...`, which Ctrl-C ends, and which nothing keeps alive."""
    command = [sys.executable, "-m", "pddlvm", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=_heeds_ctrl_c
    ) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
