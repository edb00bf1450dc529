"""Files of meshes as meshio reads them: tested formats, and no file but the one that is named."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import meshio
import numpy as np

from pddlvm.errors import MeshError

__all__ = ["read_raw", "unreadable"]


def read_raw(path: Path) -> meshio.Mesh:
    """What meshio reads, with its ways to fail turned into a MeshError.

    Raises:
        MeshError: no such file, another format, a reference to another file, or cells that name
            nodes which are not there.
    """
    if not path.is_file():
        raise MeshError(f"mesh file {str(path)!r} does not exist; check the path")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise MeshError(
            f"{str(path)!r} cannot be read as a mesh: its name must end in one of "
            f"{', '.join(_READERS)}; convert it, by `meshio convert` for example"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = read(path)
        n = len(raw.points)
        # numpy would count negative numbers from the end.
        for block in raw.cells:
            if len(block.data) and not (0 <= np.min(block.data) and np.max(block.data) < n):
                raise ValueError("cells that name nodes it does not have")
        return raw
    except (Exception, SystemExit) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> MeshError:
    """What to say of a file that failed in one way or another."""
    return MeshError(
        f"{str(path)!r} cannot be read as a mesh ({type(error).__name__}: {error}); expected "
        "triangles, quadrilaterals, tetrahedra, hexahedra or lines"
    )


def _read_msh(path: Path) -> meshio.Mesh:
    """Of gmsh, or of ANSYS, which begins with a bracket."""
    with path.open("rb") as file:
        is_ansys = file.read(1) == b"("
    return (meshio.ansys if is_ansys else meshio.gmsh).read(path)


def _read_obj(path: Path) -> meshio.Mesh:
    """Vertices and faces; meshio stumbles over normals that faces index apart.

    A negative number counts back from the last vertex so far.
    """
    lines, n = [], 0
    for line in path.read_text().splitlines():
        key, *words = line.split() or [""]
        if key == "v":
            n += 1
            lines.append(" ".join(["v", *words[:3]]))
        elif key == "f":
            numbers = [int(word.split("/")[0]) for word in words]
            lines.append(" ".join(["f", *(str(i if i >= 0 else n + 1 + i) for i in numbers)]))
    return meshio.read(io.StringIO("\n".join(lines) + "\n"), file_format="obj")


def _read_abaqus(path: Path) -> meshio.Mesh:
    with path.open(errors="replace") as file:
        for line in file:
            # As meshio sees it.
            if line.partition(",")[0].strip().replace("*", "").upper() == "INCLUDE":
                raise ValueError("it includes another file; put its content here")
    return meshio.abaqus.read(path)


def _read_vtu(path: Path) -> meshio.Mesh:
    # The start is enough, and the rest may be large. Sizes with a sign may never end.
    for _, root in ElementTree.iterparse(path, events=("start",)):
        if root.get("header_type", "UInt32") not in ("UInt32", "UInt64"):
            raise ValueError("sizes of blocks that are no UInt32 or UInt64")
        break
    return meshio.vtu.read(path)


def _read_xdmf(path: Path) -> meshio.Mesh:
    """Data may stand in files beside it."""
    for item in ElementTree.parse(path).iter("DataItem"):
        if item.get("Format") in ("XML", None):
            continue
        data = path.parent / (item.text or "").strip().split(":")[0]
        if data.resolve().parent != path.resolve().parent or not data.is_file():
            raise ValueError("it refers to what is no file beside it")
    return meshio.xdmf.read(path)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".msh": _read_msh,
    ".vtu": _read_vtu,
    ".vtk": meshio.vtk.read,
    ".xdmf": _read_xdmf,
    ".xml": meshio.dolfin.read,
    ".mesh": meshio.medit.read,
    ".inp": _read_abaqus,
    ".stl": meshio.stl.read,
    ".ply": meshio.ply.read,
    ".off": meshio.off.read,
    ".obj": _read_obj,
}
