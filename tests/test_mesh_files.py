"""Mesh files of anybody: no other file, no endless work, no vertex that was not named."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import meshio
import numpy as np
import pytest

from pddlvm import MeshError, fem
from pddlvm.fem.surfaces import surface

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


@pytest.fixture(params=[fem.read_mesh, fem.read_surface], ids=["mesh", "surface"])
def read(request) -> Callable[[Path], object]:
    return request.param


@pytest.mark.parametrize("faces", ["f 0 1 2", "f 1 2 -5", "f 1 2 5"])
def test_a_face_names_vertices_that_are_there(faces: str, read, tmp_path: Path):
    (tmp_path / "a.obj").write_text(SQUARE + f"f 1 2 3\n{faces}\n")
    with pytest.raises(MeshError, match="nodes it does not have"):
        read(tmp_path / "a.obj")


def test_a_face_may_count_from_the_last_vertex_so_far(read, tmp_path: Path):
    (tmp_path / "a.obj").write_text(SQUARE + "f -4//1 -3//1 -2//1\nv 9 9 0\nf -5 -3 -2\n")
    (tmp_path / "b.obj").write_text(SQUARE + "f 1 2 3\nv 9 9 0\nf 1 3 4\n")
    found, expected = read(tmp_path / "a.obj"), read(tmp_path / "b.obj")
    assert np.array_equal(found.t, expected.t) and found.t.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mdpa", "Begin Nodes\n1 0 0 0\n"),
        ("a.dat", 'VARIABLES = "X" "Y"\nZONE N=3, E=1\n'),
        ("a.wkt", "TIN (" + "((0 0 0, 1 0 0, 0 1 0, 0 0 0)), " * 4),
        ("a.inp", "*HEADING\n*Include, INPUT=/dev/zero\n"),
        (
            "a.vtu",
            '<VTKFile type="UnstructuredGrid" version="0.1" byte_order="LittleEndian" '
            'header_type="Int32"><UnstructuredGrid/></VTKFile>',
        ),
        ("a.xdmf", '<Xdmf><DataItem Format="Binary">pipe</DataItem></Xdmf>'),
        ("a.xdmf", '<Xdmf><DataItem Format="HDF">/dev/zero:/x</DataItem></Xdmf>'),
    ],
)
def test_what_may_never_end_is_refused(name: str, text: str, read, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / name).write_text(text)
    with pytest.raises(MeshError, match="cannot be read as a mesh"):
        read(tmp_path / name)


def test_data_beside_an_xdmf_file_are_read(tmp_path: Path):
    mesh = fem.unit_square(2)
    meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)]).write(tmp_path / "a.xdmf")
    assert (tmp_path / "a.h5").is_file()
    assert fem.read_mesh(tmp_path / "a.xdmf").nelements == mesh.nelements


def test_equal_vertices_take_little_memory():
    points = np.zeros((20_000, 3))
    points[:2] = [[1, 0, 0], [0, 1, 0]]
    tracemalloc.start()
    with pytest.warns(UserWarning, match="19997 duplicate vertices"):
        mesh = surface(points, np.array([[0, 1, 2]]))
    # Half a kB for each of them; in pairs they would be 2e8.
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()
    assert mesh.p.shape == (3, 3)


def test_vertices_that_nearly_coincide_are_one_wherever_they_are():
    # A billionth of the size apart: on both sides of any limit between boxes.
    shifts = np.linspace(0, 8e-10, 5)[:, None] * [1.0, 1.0, 0.0]
    points = np.concatenate([[[1.0, 0, 0], [0, 1.0, 0]], shifts])
    with pytest.warns(UserWarning, match="4 duplicate vertices"):
        mesh = surface(points, np.array([[0, 1, 2]]))
    assert mesh.p.shape == (3, 3)
