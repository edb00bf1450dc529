"""Meshes: simple generators, and what is read from files, with its named boundaries.

A mesh is a scikit-fem mesh. Names of boundaries and subdomains come from the physical groups of
the file (gmsh) or from the sets that scikit-fem itself writes.
"""

from pathlib import Path

import numpy as np
import skfem

from pddlvm.basics.checks import check_flag, check_path, check_real
from pddlvm.basics.errors import MeshError
from pddlvm.fem.cells import check_cells
from pddlvm.fem.mesh_content import mesh_of
from pddlvm.fem.mesh_faults import check_mesh
from pddlvm.fem.mesh_files import read_raw, unreadable

__all__ = ["interval", "read_mesh", "unit_cube", "unit_square"]


def interval(n: int, left: float = 0.0, right: float = 1.0) -> skfem.MeshLine:
    """Interval [left, right] in n equal elements; its ends are named `left` and `right`."""
    check_cells(n)
    check_real(left=left, right=right)
    if not left < right:
        raise MeshError(f"interval needs left < right, got {left} and {right}")
    mesh = skfem.MeshLine(np.linspace(left, right, n + 1))
    middle = 0.5 * (left + right)
    return mesh.with_boundaries({"left": lambda x: x[0] < middle, "right": lambda x: x[0] > middle})


def unit_square(n: int, *, quadrilaterals: bool = False) -> skfem.Mesh2D:
    """Unit square in n x n cells (triangles in pairs); sides `left`, `right`, `bottom`, `top`."""
    check_cells(n)
    check_flag(quadrilaterals=quadrilaterals)
    ticks = np.linspace(0, 1, n + 1)
    kind = skfem.MeshQuad if quadrilaterals else skfem.MeshTri
    return kind.init_tensor(ticks, ticks).with_defaults()


def unit_cube(n: int, *, hexahedra: bool = False) -> skfem.Mesh3D:
    """Unit cube in n x n x n cells (six tetrahedra each); named sides as scikit-fem names them."""
    check_cells(n)
    check_flag(hexahedra=hexahedra)
    ticks = np.linspace(0, 1, n + 1)
    kind = skfem.MeshHex if hexahedra else skfem.MeshTet
    return kind.init_tensor(ticks, ticks, ticks).with_defaults()


def read_mesh(path: str | Path) -> skfem.Mesh:
    """Read a mesh: .msh (gmsh), .vtu, .vtk, .xdmf, .xml (DOLFIN), .mesh (Medit), .inp (Abaqus), ...

    Also .bdf and .nas (Nastran) and .med (Salome). Groups of cells become subdomains and groups of
    facets boundaries, by their names; a group that has a number only, as physical groups of gmsh
    may, and references of Medit and Nastran, is found by that, `space.boundary(11)`. A set of nodes
    (Abaqus, Salome) is the boundary of the outer facets that have all their nodes in it.

    The file may be a stranger's: nothing in it is executed, no other file is read but the data
    beside an .xdmf or .xml, and its reader is a process with limits of time (8 s and 10 s for each
    MiB) and memory (512 MiB and 200 times the size; not on Windows and macOS, which know no such
    limit), and a mesh may be 16 MiB and 25 times the size. That process costs 0.3 s.

    Args:
        path: the file.

    Raises:
        MeshError: the file does not exist, is not a mesh, has no cells that carry finite
            elements, has non-finite coordinates, or cells of no volume, folded or overlapping.

    Warns:
        UserWarning: nodes at one place, over which cells are not connected, or cells that were
            there twice and were merged. A cell that is there once for each of its groups (MSH 2.2)
            is as it should be.
    """
    path = check_path(path)
    raw = read_raw(path)
    try:
        mesh = mesh_of(raw, str(path))
    except Exception as error:
        raise unreadable(path, f"{type(error).__name__}: {error}") from error
    check_mesh(mesh, str(path))
    return mesh
