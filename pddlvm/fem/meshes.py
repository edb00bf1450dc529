"""Meshes: simple generators, and what is read from files, with its named boundaries.

A mesh is a scikit-fem mesh. Names of boundaries and subdomains come from the physical groups of
the file (gmsh) or from the sets that scikit-fem itself writes.
"""

import dataclasses
from pathlib import Path

import meshio
import numpy as np
import skfem
from skfem.io.meshio import from_meshio

from pddlvm.basics.errors import MeshError
from pddlvm.fem.mesh_files import read_raw, unreadable

_CELL_DIMENSION = {"triangle": 2, "quad": 2, "tetra": 3, "hexahedron": 3}

__all__ = ["interval", "read_mesh", "unit_cube", "unit_square"]


def interval(n: int, left: float = 0.0, right: float = 1.0) -> skfem.MeshLine:
    """Interval [left, right] in n equal elements; its ends are named `left` and `right`."""
    if n < 1 or not left < right:
        raise MeshError(f"interval needs n >= 1 and left < right, got {n}, {left}, {right}")
    mesh = skfem.MeshLine(np.linspace(left, right, n + 1))
    middle = 0.5 * (left + right)
    return mesh.with_boundaries({"left": lambda x: x[0] < middle, "right": lambda x: x[0] > middle})


def unit_square(n: int, *, quadrilaterals: bool = False) -> skfem.Mesh2D:
    """Unit square in n x n cells (triangles in pairs); sides `left`, `right`, `bottom`, `top`."""
    if n < 1:
        raise MeshError(f"a mesh needs at least one cell per side, got n = {n}")
    ticks = np.linspace(0, 1, n + 1)
    kind = skfem.MeshQuad if quadrilaterals else skfem.MeshTri
    return kind.init_tensor(ticks, ticks).with_defaults()


def unit_cube(n: int, *, hexahedra: bool = False) -> skfem.Mesh3D:
    """Unit cube in n x n x n cells (six tetrahedra each); named sides as scikit-fem names them."""
    if n < 1:
        raise MeshError(f"a mesh needs at least one cell per side, got n = {n}")
    ticks = np.linspace(0, 1, n + 1)
    kind = skfem.MeshHex if hexahedra else skfem.MeshTet
    return kind.init_tensor(ticks, ticks, ticks).with_defaults()


def read_mesh(path: str | Path) -> skfem.Mesh:
    """Read a mesh: .msh (gmsh), .vtu, .vtk, .xdmf, .xml (DOLFIN), .mesh (Medit), .inp (Abaqus).

    The file may be a stranger's: nothing in it is executed, no other file is read but the data
    beside an .xdmf or .xml, and its reader is a process with limits of time (8 s and 10 s for each
    MiB) and memory (512 MiB and 200 times the size; not on Windows and macOS, which know no such
    limit), and a mesh may be 16 MiB and 25 times the size. That process costs 0.3 s.

    Args:
        path: the file. Names of its physical groups become boundaries and subdomains.

    Raises:
        MeshError: the file does not exist, is not a mesh, has no cells that carry finite
            elements, or has non-finite coordinates or cells of no volume.
    """
    path = Path(path)
    raw = read_raw(path)
    try:
        _check_cells(raw)
        mesh = from_meshio(raw, ignore_orientation=True)
    except Exception as error:
        raise unreadable(path, f"{type(error).__name__}: {error}") from error
    return _checked(_without_reader_names(mesh), path)


def _without_reader_names(mesh: skfem.Mesh) -> skfem.Mesh:
    """Without the sets that meshio adds for its own use (`gmsh:bounding_entities`)."""
    named = {k: v for k, v in (mesh.subdomains or {}).items() if not k.startswith("gmsh:")}
    return dataclasses.replace(mesh, _subdomains=named or None)


def _check_cells(raw: meshio.Mesh) -> None:
    """Refuse what scikit-fem would read in part or flatten: mixed cells, surfaces in space."""
    dimension = {k: d for k, d in _CELL_DIMENSION.items() if k in raw.cells_dict}
    highest = max(dimension.values(), default=0)
    kinds = [k for k, d in dimension.items() if d == highest]
    if len(kinds) > 1:
        raise MeshError(f"it mixes {' and '.join(kinds)} cells, and one kind is expected")
    points = raw.points
    if highest == 2 and points.shape[1] == 3 and np.ptp(points[:, 2]) > 0:
        raise MeshError("it is a surface in space, and a plane mesh (z constant) is expected")


def _checked(mesh: skfem.Mesh, path: Path) -> skfem.Mesh:
    if not np.isfinite(mesh.p).all():
        raise MeshError(f"{str(path)!r} has coordinates that are not finite")
    mapping = mesh.mapping()
    reference = np.full((mesh.dim(), 1), 1.0 / (mesh.dim() + 1))
    try:
        with np.errstate(all="ignore"):
            volume = np.abs(mapping.detDF(reference)).ravel()
    except IndexError as error:
        raise MeshError(f"{str(path)!r} has cells that name nodes it does not have") from error
    flat = np.flatnonzero(volume <= 1e-14 * volume.max())
    if flat.size:
        raise MeshError(
            f"{str(path)!r} has {flat.size} cells of no volume, the first is cell {flat[0]}; "
            "repair the mesh (duplicate nodes, slivers) and export it again"
        )
    if type(mesh).__name__.endswith("2"):
        # Curved cells: mid-side nodes stand in no row of t and are no orphans.
        return mesh
    orphans = np.setdiff1d(np.arange(mesh.p.shape[1]), mesh.t)
    if orphans.size:
        mesh = mesh.remove_unused_nodes()
    return mesh
