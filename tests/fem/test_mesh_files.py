"""Mesh files of anybody: no other file, no endless work, no vertex that was not named."""

import base64
import os
import resource
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import meshio
import numpy as np
import pytest

from pddlvm import MeshError, fem
from pddlvm.fem.surfaces import surface

VTU = """<VTKFile type="UnstructuredGrid" version="0.1" byte_order="LittleEndian"
 header_type="UInt32" compressor="vtkZLibDataCompressor"><UnstructuredGrid>
<Piece NumberOfPoints="{n_points}" NumberOfCells="1"><Points>
<DataArray type="Float64" Name="Points" NumberOfComponents="3" format="binary">{data}</DataArray>
</Points><Cells>
<DataArray type="Int64" Name="connectivity" format="ascii">0 1 2</DataArray>
<DataArray type="Int64" Name="offsets" format="ascii">3</DataArray>
<DataArray type="Int64" Name="types" format="ascii">5</DataArray>
</Cells></Piece></UnstructuredGrid></VTKFile>"""
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


@pytest.mark.usefixtures("own_process")
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


@pytest.mark.usefixtures("own_process")
def test_a_reader_that_waits_for_ever_is_ended(read, tmp_path: Path, monkeypatch):
    mesh = fem.unit_square(2)
    meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)]).write(tmp_path / "a.xml")
    # DOLFIN has data of cells in such a file.
    os.mkfifo(tmp_path / "a_cells.xml")
    monkeypatch.setattr(fem.mesh_files, "_SECONDS", 1)
    with pytest.raises(MeshError, match="not done after 1 s"):
        read(tmp_path / "a.xml")


@pytest.mark.usefixtures("own_process")
@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory")
@pytest.mark.parametrize("n_values", [3 * 10**6, pytest.param(10**8, marks=pytest.mark.slow)])
def test_a_small_file_that_grows_is_refused(n_values: int, tmp_path: Path):
    # 24 MB are too large for an answer, 800 MB for the reader.
    zeros = zlib.compress(bytes(10**6))
    n_blocks = 8 * n_values // 10**6
    header = struct.pack(f"<{3 + n_blocks}I", n_blocks, 10**6, 10**6, *[len(zeros)] * n_blocks)
    data = base64.b64encode(header) + base64.b64encode(zeros * n_blocks)
    (tmp_path / "a.vtu").write_text(VTU.format(n_points=n_values // 3, data=data.decode()))
    # In kB, of the largest child so far, which begins with the size of its parent; 2.4 GB else.
    who = (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)
    before = max(resource.getrusage(one).ru_maxrss for one in who)
    with pytest.raises(MeshError, match="MemoryError"):
        fem.read_mesh(tmp_path / "a.vtu")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(10**6, before + 1)


@pytest.mark.parametrize("data_format", ["HDF", "Binary", "XML"])
def test_data_beside_an_xdmf_file_are_read(data_format: str, tmp_path: Path):
    mesh = fem.unit_square(2)
    raw = meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)])
    raw.write(tmp_path / "a.xdmf", data_format=data_format)
    assert fem.read_mesh(tmp_path / "a.xdmf").nelements == mesh.nelements


@pytest.mark.usefixtures("own_process")
def test_limits_grow_with_the_data_beside_an_xdmf_file(tmp_path: Path, monkeypatch):
    mesh = fem.unit_square(8)
    raw = meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)])
    raw.write(tmp_path / "a.xdmf", data_format="Binary")
    # A mesh in memory is about as large as its data, and 6 times as large as this .xdmf.
    monkeypatch.setattr(fem.mesh_files, "_ANSWER", 0)
    monkeypatch.setattr(fem.mesh_files, "_ANSWER_PER_BYTE", 2)
    assert fem.read_mesh(tmp_path / "a.xdmf").nelements == mesh.nelements


def test_data_beside_an_xdmf_file_that_lie_elsewhere_are_refused(read, tmp_path: Path):
    mesh = fem.unit_square(2)
    meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)]).write(tmp_path / "a.xdmf")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        shape = file["data0"].shape
        del file["data0"]
        file.create_dataset("data0", shape, "f8", external=str(tmp_path / "a.xdmf"))
    with pytest.raises(MeshError, match="other files"):
        read(tmp_path / "a.xdmf")


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


@pytest.mark.parametrize("suffix", [".MSH", ".VTU", ".INP", ".MESH", ".BDF"])
def test_a_name_may_be_in_upper_case(suffix: str, tmp_path: Path):
    square = fem.unit_square(1)
    points = np.column_stack([square.p.T, np.zeros(4)])
    meshio.Mesh(points, [("triangle", square.t.T)]).write(tmp_path / f"a{suffix.lower()}")
    (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"b{suffix}")
    assert fem.read_mesh(tmp_path / f"b{suffix}").nelements == 2


@pytest.mark.parametrize(("suffix", "advice"), [(".msh.gz", "unpack it"), (".unv", "convert it")])
def test_other_files_are_refused_with_advice(suffix: str, advice: str, read, tmp_path: Path):
    (tmp_path / f"a{suffix}").write_bytes(b"1")
    with pytest.raises(MeshError, match=advice):
        read(tmp_path / f"a{suffix}")
