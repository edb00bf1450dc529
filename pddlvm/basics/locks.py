"""Folders that one process writes at a time.

The owner holds a lock of the system on the file `.lock` in the folder, with its number, host and
start time in it. The system frees it when the process ends, however it ends.
"""

import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pddlvm.basics.errors import RunFileError
from pddlvm.basics.files import make_folder

__all__ = ["owned"]


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Inside, nobody else gets in here with the same folder; it is made if need be.

    A folder that was made and in which nothing was written is removed in the end.

    Raises:
        RunFileError: somebody else is in, or the folder cannot be made or written to.
    """
    is_new = not folder.exists()
    path = folder / ".lock"
    handle = _locked(path)
    try:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(handle, 0)
        # Not worth an error on a full disk: the text is for people.
        with suppress(OSError):
            text = f"process {os.getpid()} on {platform.node()}, since {started}"
            os.pwrite(handle, text.encode(), 0)
        yield
    finally:
        # Before the lock is free: whoever comes next makes a file of its own.
        with suppress(OSError):
            path.unlink()
        os.close(handle)
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path) -> int:
    """The file, made if need be, open and locked."""
    while True:
        make_folder(path.parent)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            # The last owner removed its empty folder just now.
            continue
        except OSError as error:
            raise RunFileError(
                f"cannot write to {str(path.parent)!r} ({error.strerror}); choose another folder"
            ) from error
        try:
            _lock(handle, path)
            # The last owner may have taken its file along before the lock was ours.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise RunFileError(
            f"{str(path.parent)!r} is in use by {owner!r}; wait until it ends, or choose another "
            "folder"
        ) from error
    except OSError as error:
        warnings.warn(
            f"{str(path)!r} cannot be locked ({error.strerror}): see to it that nobody else trains "
            "into this folder",
            stacklevel=5,
        )
