"""Mesh files are read in this process, where starting one of its own is not what is tested."""

from contextlib import chdir
from pathlib import Path

import meshio
import pytest

from pddlvm.fem import mesh_files, mesh_reader

GMSH = meshio.gmsh.main
CHANGED = GMSH._gmsh22, GMSH._gmsh40, GMSH._gmsh41
"""Modules of which the reader changes functions: a process of its own ends with them."""


def _read_here(path: Path, n_bytes: int) -> meshio.Mesh:
    kept = [vars(module).copy() for module in CHANGED]
    try:
        with chdir(path.parent):
            return mesh_reader.unpacked(mesh_reader._packed(mesh_reader._read(path.absolute())))
    except (Exception, SystemExit) as error:
        raise mesh_files.unreadable(path, f"{type(error).__name__}: {error}") from None
    finally:
        for module, names in zip(CHANGED, kept, strict=True):
            vars(module).update(names)


@pytest.fixture
def own_process():
    """For tests of what only a process of its own gives: limits of time and memory, and silence."""


@pytest.fixture(autouse=True)
def read_here(request, monkeypatch):
    """All other tests read as the program does, which takes less time than its start."""
    if "own_process" not in request.fixturenames:
        monkeypatch.setattr(mesh_files, "_read_in_child", _read_here)
