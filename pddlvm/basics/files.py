"""Files of tensors and plain values: written in one step, read without executing anything.

A file is written to a temporary name beside its target and renamed, so that no reader sees half of
it; it is read by `torch.load(weights_only=True)` after its checksums were compared. The archive has
one of each record; one of the whole content sees what was changed and written anew.
"""

import os
import pickletools
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pddlvm.basics.checks import check_path
from pddlvm.basics.errors import InputError, RunFileError

__all__ = [
    "check_folder_of",
    "check_tensor",
    "decoding",
    "digest_of",
    "make_folder",
    "next_folder",
    "read_content",
    "remove_older",
    "replacing",
    "replacing_by_name",
    "write_content",
    "write_text",
]

_FORMAT, _OLDER = "pddlvm-model-7", "pddlvm-model-"
_CALLED = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2")
_SHARED = 10
"""So many times may the parts of a file be shared."""


def write_content(content: dict[str, Any], path: str | Path) -> None:
    """Write a dictionary; an existing file is replaced in one step or left as it is.

    Raises:
        RunFileError: the folder does not exist or cannot be written to, or the disk is full; a file
            that was there is untouched.
    """
    content = {"format": _FORMAT, **content}
    with replacing(path) as file:
        torch.save(_on_cpu({**content, "digest": digest_of(content)}), file)


def _on_cpu(content: Any) -> Any:
    """The same without devices: a file is read where there may be none."""
    if isinstance(content, torch.Tensor):
        return content.cpu()
    if isinstance(content, dict):
        return {name: _on_cpu(part) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_on_cpu(part) for part in content)
    return content


def write_text(text: str, path: str | Path) -> None:
    """Write a text; otherwise as `write_content`."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes its name, and the place of an older one, when all of it is written.

    Raises:
        RunFileError: see `write_content`.
    """
    # A link stays: what it points to is replaced.
    path = check_path(path).resolve()
    if path.is_dir():
        raise RunFileError(f"{str(path)!r} is a folder; give the name of a file in it")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        advice = "choose another folder" if path.parent.is_dir() else "create the folder"
        raise RunFileError(
            f"cannot write to {str(path.parent)!r} ({error.strerror}); {advice}"
        ) from error
    try:
        os.fchmod(handle, _permissions(path))
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # torch reports a full disk by an error of its own.
        if not isinstance(error, OSError | RuntimeError):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RunFileError(
            f"{str(path)!r} was not written ({reason}); is the disk full?"
        ) from error


@contextmanager
def replacing_by_name(path: Path) -> Iterator[Path]:
    """The same for what writes to names only: one that ends alike, whose content is taken.

    Raises:
        RunFileError: see `write_content`.
    """
    with replacing(path) as file, tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"written{path.suffix}"
        yield written
        with written.open("rb") as content:
            copyfileobj(content, file)


def _permissions(path: Path) -> int:
    """Those of a file that is there, else those of any new file: mkstemp makes files private."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def decoding(message: str) -> Iterator[None]:
    """Whatever content may be that is not what was saved: inside, any failure is a RunFileError.

    Args:
        message: what is said before the reason.

    Raises:
        RunFileError: something failed; one of these passes as it is.
    """
    try:
        yield
    except RunFileError:
        raise
    except Exception as error:
        raise RunFileError(f"{message} ({type(error).__name__}: {error})") from error


def check_folder_of(path: Path) -> None:
    """Before anything is computed that could not be written to a file.

    Raises:
        InputError: the folder of the file does not exist, or nothing can be written there.
    """
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to {str(path.parent)!r} ({error.strerror}); choose another folder"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        RunFileError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFileError(f"cannot make the folder {str(path)!r} ({error.strerror})") from error


@contextmanager
def next_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Where files are written, and the numbered folder in `folder` that they become together.

    Its number is the next one; it is there when all are written, or not at all.

    Raises:
        RunFileError: see `write_content`.
    """
    make_folder(folder)
    target = folder / str(1 + max(map(int, _numbered(folder)), default=0))
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as private:
            # One with the permissions of any new folder.
            (new := Path(private) / "new").mkdir()
            yield new, target
            os.rename(new, target)
    except OSError as error:
        raise RunFileError(
            f"{str(folder)!r} was not written ({error.strerror or error}); is the disk full, or "
            "is another process writing there?"
        ) from error


def remove_older(kept: Path, pattern: str) -> None:
    """Remove what matches from the other numbered folders beside one, and those left empty."""
    for name in _numbered(kept.parent):
        older = kept.parent / name
        if older == kept:
            continue
        for file in older.glob(pattern):
            file.unlink(missing_ok=True)
        if not any(older.iterdir()):
            older.rmdir()


def _numbered(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]


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
            # torch stores its records as they are; one that grows when it is read is not ours.
            records = archive.infolist()
            if any(r.compress_size != r.file_size for r in records):
                raise ValueError("compressed records")
            n_bytes = path.stat().st_size
            if sum(r.file_size for r in records) > n_bytes:
                raise ValueError("records that overlap")
            for record in records:
                if record.filename.endswith("data.pkl"):
                    _check_names(archive.read(record))
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        if _size(content, _SHARED * n_bytes) > _SHARED * n_bytes:
            raise ValueError("more values than the file has bytes")
    except Exception as error:
        # Bytes that are no archive fail in many ways, inside of torch, zipfile and pickle.
        raise RunFileError(
            f"{str(path)!r} is not a model saved by pddlvm, or damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    written = content.get("format") if isinstance(content, dict) else None
    if written != _FORMAT:
        if isinstance(written, str) and written.startswith(_OLDER):
            raise RunFileError(
                f"{str(path)!r} was written by another version of pddlvm ({written}, not "
                f"{_FORMAT}): what it was made of cannot be checked; train and save it anew"
            )
        raise RunFileError(f"{str(path)!r} is not a model saved by pddlvm (format {_FORMAT})")
    if content.pop("digest", None) != digest_of(content):
        raise RunFileError(f"{str(path)!r} is damaged: its content is not what was saved")
    return content


def check_tensor(
    value: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> Tensor:
    """A part of a content, or a ValueError where it is not such a tensor."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name} is no tensor {shape} of {dtype}")
    return value


def _check_names(program: bytes) -> None:
    """Refuse a pickle that calls anything but what makes tensors and dictionaries.

    What else torch allows can be told to take all memory, such as bytearray(4 GB).
    """
    for code, name, _ in pickletools.genops(program):
        if code.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            if name not in _CALLED and not (
                str(name).startswith("torch ") and str(name).endswith("Storage")
            ):
                raise ValueError(f"it calls {name}")


def _size(content: Any, limit: int) -> int:
    """Number of parts and bytes, up to a limit: a list of twice the same list, and so on, has 2^n.

    Refuses values that are not finite, and tensors that claim more than the file holds, by strides
    that repeat their values.
    """
    if isinstance(content, Tensor):
        if content.nbytes > content.untyped_storage().nbytes():
            raise ValueError("a tensor larger than its values")
        if not torch.isfinite(content).all():
            raise ValueError("values that are not finite")
        return 1 + content.nbytes
    if isinstance(content, dict | list | tuple):
        n = 1
        for part in content.values() if isinstance(content, dict) else content:
            n += _size(part, limit - n)
            if n > limit:
                break
        return n
    return 1


def digest_of(content: Any) -> str:
    """Of all tensors and values, in their order."""
    digest = sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(repr((part.dtype, tuple(part.shape))).encode())
            digest.update(part.detach().cpu().numpy().tobytes())
        elif isinstance(part, dict | list | tuple):
            digest.update(f"{len(part)}:".encode())
            for one in part.items() if isinstance(part, dict) else part:
                add(one)
        else:
            digest.update(f"{part!r};".encode())

    add(content)
    return digest.hexdigest()
