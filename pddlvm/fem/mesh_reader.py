"""The program that reads one mesh file, in a process of its own, and the formats it knows.

    python mesh_reader.py FILE MEMORY ANSWER    ->    points, cells and sets on stdout, code 0
                                                      or what was wrong as a text, code 3

with limits, in bytes, of its memory and of what it answers.

It knows nothing of the rest of the package, whose import takes ten times as long.
"""

import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import meshio
import numpy as np
from numpy.typing import NDArray

__all__ = ["PROGRAM", "READERS", "REFUSED", "unpacked"]

Names = dict[tuple[int, int], list[str]]
"""(number, dimension) of a group -> its names."""

_TAGS = ("gmsh:physical", "medit:ref", "nastran:ref")
"""Data of cells that are numbers of groups."""

PROGRAM = __file__

REFUSED = 3
"""The exit code; Python itself uses 1 and 2."""


def _packed(mesh: meshio.Mesh) -> bytes:
    """The parts of a mesh that are needed: numbered arrays, behind a list of where they go."""
    arrays: list[NDArray[Any]] = []

    def add(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(name): add(one) for name, one in part.items()}
        if isinstance(part, list | tuple):
            return [add(one) for one in part]
        if part is None:
            return None
        arrays.append(np.asarray(part))
        return len(arrays) - 1

    parts = ([b.data for b in mesh.cells], mesh.cell_data, mesh.cell_sets, mesh.point_sets)
    where = [[block.type for block in mesh.cells], *map(add, parts)]
    file = io.BytesIO()
    for array in (np.frombuffer(json.dumps(where).encode(), np.uint8), mesh.points, *arrays):
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def unpacked(content: bytes) -> meshio.Mesh:
    """The mesh that was packed."""
    file = io.BytesIO(content)
    where = json.loads(np.load(file, allow_pickle=False).tobytes())
    points = np.load(file, allow_pickle=False)
    arrays = []
    while file.tell() < len(content):
        arrays.append(np.load(file, allow_pickle=False))

    def get(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: get(one) for name, one in part.items()}
        if isinstance(part, list):
            return [get(one) for one in part]
        return None if part is None else arrays[part]

    types, cells, cell_data, cell_sets, point_sets = where[0], *map(get, where[1:])
    return meshio.Mesh(
        points,
        list(zip(types, cells, strict=True)),
        cell_data=cell_data,
        cell_sets=cell_sets,
        point_sets=point_sets,
    )


def _read(path: Path) -> meshio.Mesh:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mesh = READERS[path.suffix.lower()](path)
    n = len(mesh.points)
    # numpy would count negative numbers from the end.
    for block in mesh.cells:
        if len(block.data) and not (0 <= np.min(block.data) and np.max(block.data) < n):
            raise ValueError("cells that name nodes it does not have")
    for key in _TAGS:
        if key in mesh.cell_data:
            mesh.cell_sets |= _named_sets(mesh, [t[:, None] for t in mesh.cell_data[key]])
    return mesh


def _named_sets(
    mesh: meshio.Mesh, numbers: list[Any], names: Names | None = None
) -> dict[str, list[Any]]:
    """Groups that are given by numbers: name, or the number itself -> cells in each block.

    Args:
        mesh: with its blocks of cells.
        numbers: of the groups of each cell, (n_cells, any number) for each block.
        names: of the groups that have some.
    """
    sets: dict[str, list[Any]] = {}
    for i, (block, tags) in enumerate(zip(mesh.cells, numbers, strict=True)):
        for number in np.unique(tags):
            for name in (names or {}).get((int(number), block.dim), [str(int(number))]):
                parts = sets.setdefault(name, [np.empty(0, dtype=np.int64) for _ in mesh.cells])
                # Several numbers may have one name.
                parts[i] = np.union1d(parts[i], np.flatnonzero((tags == number).any(axis=1)))
    return sets


def _read_msh(path: Path) -> meshio.Mesh:
    """Of gmsh, or of ANSYS, which begins with a bracket."""
    with path.open("rb") as file:
        is_ansys = file.read(1) == b"("
    return meshio.ansys.read(path) if is_ansys else _read_gmsh(path)


def _read_gmsh(path: Path) -> meshio.Mesh:
    """With groups by name, or by number: those of each cell in format 2, of each entity in 4.1.

    Of an entity meshio keeps one number, and it reads no file where an entity has none. It takes
    the number 0 of a node for the last one, and reads no data of some nodes or cells only.
    """
    entities: list[dict[int, list[int]]] = []
    gmsh = meshio.gmsh.main
    read_entities, read_data = gmsh._gmsh41._read_entities, gmsh._gmsh41._read_data

    def all_entities(*arguments: Any) -> Any:
        numbers, boundaries = read_entities(*arguments)
        # Negative where the cells of the group are turned around.
        entities.extend({k: [abs(int(i)) for i in v] or [0] for k, v in d.items()} for d in numbers)
        return tuple(entities), boundaries

    def data_of_groups(file: Any, section: str, found: dict[str, Any], *arguments: Any) -> None:
        data: dict[str, Any] = {}
        try:
            read_data(file, section, data, *arguments)
        except (ValueError, meshio.ReadError):
            gmsh._fast_forward_to_end_block(file, section)
        found |= {name: values for name, values in data.items() if name in _TAGS}

    gmsh._gmsh41._read_entities = all_entities
    for version in (gmsh._gmsh22, gmsh._gmsh40, gmsh._gmsh41):
        version._read_nodes = _with_one_more(version._read_nodes)
        version._read_data = data_of_groups
    mesh = meshio.gmsh.read(path)
    mesh.points = mesh.points[:-1]
    names: Names = {(0, dimension): [] for dimension in range(4)}
    for name, (number, dimension) in mesh.field_data.items():
        names.setdefault((int(number), int(dimension)), []).append(name)
    numbers = [tags[:, None] for tags in mesh.cell_data.pop("gmsh:physical", [])]
    if entities:
        which = mesh.cell_data["gmsh:geometrical"]
        numbers = [
            np.array([entities[block.dim][int(i)] for i in one[:1]]).repeat(len(one), axis=0)
            for block, one in zip(mesh.cells, which, strict=True)
        ]
    mesh.cell_sets = _named_sets(mesh, numbers, names) if numbers else {}
    return mesh


def _with_one_more(read_nodes: Callable[..., Any]) -> Callable[..., Any]:
    """Nodes, numbers and whatever else of nodes there is, the last of which no cell names."""

    def read(*arguments: Any) -> Any:
        points, numbers, *rest = read_nodes(*arguments)
        more = (np.append(part, part[-1:], axis=0) for part in (points, *rest))
        return next(more), np.append(numbers, numbers.max() + 1), *more

    return read


def _read_med(path: Path) -> meshio.Mesh:
    """A family is a number of cells, or of nodes, with the names of the groups it is in."""
    import h5py

    with h5py.File(path) as file:
        _check_hdf5(file)
    mesh = meshio.med.read(path)
    families, tags = mesh.cell_tags, mesh.cell_data.pop("cell_tags", [])
    names = {(int(k), d): groups for k, groups in families.items() for d in range(4)}
    names |= {(0, d): [] for d in range(4)}
    if tags:
        mesh.cell_sets = _named_sets(mesh, [one[:, None] for one in tags], names)
    of_nodes = mesh.point_data.get("point_tags", np.zeros(0))
    for name in {name for groups in mesh.point_tags.values() for name in groups}:
        numbers = [k for k, groups in mesh.point_tags.items() if name in groups]
        mesh.point_sets[name] = np.flatnonzero(np.isin(of_nodes, numbers))
    return mesh


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


def _read_xdmf(path: Path) -> meshio.Mesh:
    """Data may stand in files beside it."""
    for item in ElementTree.parse(path).iter("DataItem"):
        if item.get("Format") in ("XML", None):
            continue
        data = path.parent / (item.text or "").strip().split(":")[0]
        if data.resolve().parent != path.resolve().parent or not data.is_file():
            raise ValueError("it refers to what is no file beside it")
        if item.get("Format") == "HDF":
            import h5py

            with h5py.File(data) as file:
                _check_hdf5(file)
    return meshio.xdmf.read(path)


def _check_hdf5(group: Any) -> None:
    """Links and values may lie in any other file."""
    import h5py

    for name in group:
        is_here = isinstance(group.get(name, getlink=True), h5py.HardLink)
        if is_here and isinstance(group[name], h5py.Group):
            _check_hdf5(group[name])
        elif not is_here or group[name].external or group[name].is_virtual:
            raise ValueError("its data refer to other files")


READERS: dict[str, Callable[[Path], Any]] = {
    ".msh": _read_msh,
    ".vtu": meshio.vtu.read,
    ".vtk": meshio.vtk.read,
    ".xdmf": _read_xdmf,
    ".xml": meshio.dolfin.read,
    ".mesh": meshio.medit.read,
    ".inp": _read_abaqus,
    ".med": _read_med,
    ".bdf": meshio.nastran.read,
    ".nas": meshio.nastran.read,
    ".stl": meshio.stl.read,
    ".ply": meshio.ply.read,
    ".off": meshio.off.read,
    ".obj": _read_obj,
}


def _limit_memory(n_bytes: int) -> None:
    # Windows has no such limit, macOS refuses it, and that of a user may be lower.
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def _main() -> int:
    # What a reader prints is no answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    path, memory, largest = Path(sys.argv[1]), *map(int, sys.argv[2:])
    _limit_memory(memory)
    try:
        content, code = _packed(_read(path)), 0
        # The caller has no limits, and makes copies of it.
        if len(content) > largest:
            raise MemoryError("it becomes too large")
    except (Exception, SystemExit) as error:
        content, code = f"{type(error).__name__}: {error}".encode(errors="replace"), REFUSED
    with answer:
        answer.write(content)
    return code


if __name__ == "__main__":
    sys.exit(_main())
