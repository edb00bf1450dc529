"""Checkpoints of a training: files from which it goes on as if nothing had happened.

A checkpoint is a saved model (`pddlvm.load` reads it) with the state of its training beside it. It
is written to a temporary name and renamed, and the one before it stays: whenever a process ends,
the newest file is whole.
"""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

from pddlvm.basics.checks import check_count, check_path
from pddlvm.basics.errors import InputError, RunFileError
from pddlvm.basics.files import make_folder, read_content, write_content

__all__ = ["Checkpoints", "interruptible"]


@dataclass(frozen=True)
class Checkpoints:
    """Where the checkpoints of one training are, and how many.

    Attributes:
        folder: of this training alone; made when it begins.
        every: seconds between two checkpoints.
        keep: the last so many stay.
    """

    folder: Path
    every: float = 30.0
    keep: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", check_path(self.folder))
        check_count(1, keep=self.keep)
        is_real = isinstance(self.every, Real)
        if not (is_real and self.every >= 0):
            raise InputError(f"every must be a number of seconds, 0 or more, got {self.every!r}")

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def files(self) -> list[Path]:
        """All there are, the newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def path_of(self, step: int) -> Path:
        """The checkpoint after so many steps."""
        return self.folder / f"step-{step:09d}.pt"

    def write(self, content: dict[str, Any], step: int) -> None:
        """Write a checkpoint, then remove those that are too many.

        Raises:
            RunFileError: the folder cannot be written to, or the disk is full; the files that were
                there are untouched.
        """
        make_folder(self.folder)
        write_content(content, self.path_of(step))
        for old in self.files[self.keep :]:
            old.unlink(missing_ok=True)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest one that can be read, and its path; None where there is none.

        Raises:
            RunFileError: there are some, and none of them can be read.
        """
        files = self.files
        for path in files:
            try:
                content = read_content(path)
                if "training" in content:
                    return path, content
                reason = "it is a saved model, and holds no training"
            except RunFileError as error:
                reason = str(error)
            warnings.warn(f"left out a checkpoint: {reason}", stacklevel=2)
        if files:
            raise RunFileError(f"no checkpoint in {str(self.folder)!r} can be read")
        return None


@contextmanager
def interruptible(is_patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or SIGTERM is only noted, for an end in good order.

    Yields a function that tells whether one came. The next one acts as always, unless is_patient:
    then it is only noted too. Outside of the main thread signals go elsewhere, and the function
    says no.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        for one, handler in before.items() if not is_patient else ():
            signal.signal(one, handler)

    for one in before:
        signal.signal(one, note)
    try:
        yield noted.is_set
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
