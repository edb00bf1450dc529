"""Files of meshes, which may be anybody's: read in a process with limits of time and memory.

A file of a few bytes can keep a parser busy for ever, or make it ask for all memory, and only the
end of its process stops it then. Such a process costs 0.3 s.
"""

import os
import subprocess
import sys
from multiprocessing import spawn
from pathlib import Path

import meshio

from pddlvm.basics.errors import MeshError
from pddlvm.fem.mesh_reader import PROGRAM, READERS, REFUSED, unpacked

__all__ = ["check_no_path", "read_raw", "unreadable"]

_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"}
_SECONDS, _SECONDS_PER_MIB = 8, 10
"""The slowest reader takes 0.2 s for a MiB."""
_MEMORY, _MEMORY_PER_BYTE = 512 << 20, 200
"""Python and its libraries take 120 MiB."""
_ANSWER, _ANSWER_PER_BYTE = 16 << 20, 25
"""What is compressed becomes ten times as large."""


def check_no_path(mesh: object, reader: str) -> None:
    """Raise a MeshError that names the reader if a path is given in the place of a mesh."""
    if isinstance(mesh, str | os.PathLike):
        raise MeshError(
            f"mesh must be a mesh, got the path {os.fspath(mesh)!r}; {reader}(path) reads one"
        )


def read_raw(path: Path) -> meshio.Mesh:
    """What meshio reads, with its ways to fail turned into a MeshError.

    Raises:
        MeshError: no such file, another format, a reference to another file, cells that name nodes
            which are not there, or more time or memory than a file of this size needs.
    """
    if not path.is_file():
        raise MeshError(f"mesh file {str(path)!r} does not exist; check the path")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        advice = "convert it, by gmsh or `meshio convert` for example"
        raise MeshError(
            f"{str(path)!r} cannot be read as a mesh: its name must end in one of "
            f"{', '.join(READERS)}; {'unpack it first' if suffix in _COMPRESSED else advice}"
        )
    try:
        return _read_in_child(path, _size(path))
    except OSError as error:
        raise unreadable(path, f"{type(error).__name__}: {error}") from error


def _size(path: Path) -> int:
    """In bytes, with the data beside an .xdmf, which names them."""
    if path.suffix.lower() != ".xdmf":
        return path.stat().st_size
    text = path.read_bytes()
    beside = [file for file in path.parent.iterdir() if os.fsencode(file.name) in text]
    return len(text) + sum(file.stat().st_size for file in beside if file.is_file())


def _read_in_child(path: Path, n_bytes: int) -> meshio.Mesh:
    seconds = _SECONDS + _SECONDS_PER_MIB * n_bytes / 2**20
    limits = _MEMORY + _MEMORY_PER_BYTE * n_bytes, _ANSWER + _ANSWER_PER_BYTE * n_bytes
    # Threads of a linear algebra library reserve memory each.
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    modules = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    try:
        done = subprocess.run(
            [
                *(spawn.get_executable(), "-P", PROGRAM),
                *(str(path.absolute()), *map(str, limits)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            # Where data beside an .xdmf are looked for.
            cwd=path.parent,
            env={**os.environ, **one_thread, "PYTHONPATH": modules},
        )
    except subprocess.TimeoutExpired:
        raise unreadable(
            path, f"not done after {seconds:.0f} s, many times what its size needs"
        ) from None
    if done.returncode == REFUSED:
        raise unreadable(path, done.stdout.decode(errors="replace"))
    if done.returncode:
        raise unreadable(path, f"the reader ended with code {done.returncode}")
    return unpacked(done.stdout)


def unreadable(path: Path, reason: str) -> MeshError:
    """What to say of a file that failed in one way or another."""
    return MeshError(
        f"{str(path)!r} cannot be read as a mesh ({reason}); expected "
        "triangles, quadrilaterals, tetrahedra, hexahedra or lines"
    )
