"""Files of tensors and plain values: written in one step, read without executing anything.

A file is written to a temporary name beside its target and renamed, so that no reader sees half of
it; it is read by `torch.load(weights_only=True)` after its checksums were compared.
"""

import os
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from pddlvm.errors import RunFileError

__all__ = ["read_content", "write_content"]

_FORMAT = "pddlvm-model-2"


def write_content(content: dict[str, Any], path: str | Path) -> None:
    """Write a dictionary; an existing file is replaced in one step or left as it is.

    Raises:
        RunFileError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise RunFileError(f"{str(path)!r} is a folder; give the name of a file in it")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunFileError(
            f"cannot write to {str(path.parent)!r} ({error.strerror}); create the folder or choose "
            "another one"
        ) from error
    try:
        # mkstemp makes files private; give this one the permissions of any other new file.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": _FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_content(path: Path) -> dict[str, Any]:
    """Read what `write_content` wrote.

    Raises:
        RunFileError: no such file, or not one of ours, or damaged.
    """
    if not path.is_file():
        raise RunFileError(f"there is no file {str(path)!r}; check the path")
    try:
        # torch does not look at the checksums of the archive.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Bytes that are no archive fail in many ways, inside of torch, zipfile and pickle.
        raise RunFileError(
            f"{str(path)!r} is not a model saved by pddlvm, or damaged ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise RunFileError(f"{str(path)!r} is not a model saved by pddlvm (format {_FORMAT})")
    return content
