"""VTU files hold the fields under their names, on the mesh, in one, two and three dimensions."""

import tempfile
from pathlib import Path
from xml.etree import ElementTree

import meshio
import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from problems import pinn, poisson
from problems.poisson import diffusion, load


def cube(hexahedra: bool) -> pddlvm.Problem:
    space = fem.Space(fem.unit_cube(3, hexahedra=hexahedra))
    cells = space.interior()
    return pddlvm.Problem(
        "cube",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {"kappa": pddlvm.Constant(pddlvm.LogNormal()), "f": 1.0},
        [pddlvm.Dirichlet(None)],
    )


PROBLEMS = {
    "line": poisson.make_1d,
    "triangle": lambda: poisson.make(5, n_terms=2),
    "tetra": lambda: cube(False),
    "hexahedron": lambda: cube(True),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_file_reads_back(kind: str, tmp_path: Path):
    model = pddlvm.LatentVariableModel(PROBLEMS[kind](), basis=pddlvm.ResidualEnriched(n_modes=4))
    z = model.problem.prior.sample(seed=0)
    model.to_vtu(tmp_path / "u.vtu", z)
    mesh = meshio.read(tmp_path / "u.vtu")
    assert mesh.cells[0].type == kind
    prediction = model.forward(z)
    vertices = model.problem.space.vertex_dofs[:, 0]
    np.testing.assert_array_equal(mesh.point_data["u_mean"], prediction.mean[vertices])
    np.testing.assert_array_equal(mesh.point_data["u_std"], prediction.std[vertices])
    kappa = model.problem.parameter_field(z)
    np.testing.assert_array_equal(mesh.cell_data["kappa"][0], kappa)
    assert [p.name for p in tmp_path.iterdir()] == ["u.vtu"]


def test_hexahedra_keep_a_positive_volume_in_the_order_of_vtk(tmp_path: Path):
    model = pddlvm.LatentVariableModel(cube(True), basis=pddlvm.ResidualEnriched(n_modes=2))
    model.to_vtu(tmp_path / "u.vtu", model.problem.prior.sample(seed=0))
    mesh = meshio.read(tmp_path / "u.vtu")
    x = mesh.points[mesh.cells[0].data]
    # VTK: 0-1-2-3 is the bottom ring, 4 lies above 0.
    bottom = np.cross(x[:, 1] - x[:, 0], x[:, 3] - x[:, 0])
    volume = np.abs(((x[:, 4] - x[:, 0]) * bottom).sum(axis=1))
    np.testing.assert_allclose(volume, 1 / 27, rtol=1e-12)
    np.testing.assert_allclose(x[:, 2] - x[:, 3], x[:, 1] - x[:, 0], atol=1e-12)


def test_bad_arguments_leave_nothing_behind(tmp_path: Path):
    model = pddlvm.LatentVariableModel(poisson.make_1d())
    z = model.problem.prior.sample((2,), seed=0)
    for path, parameters, message in (
        (tmp_path / "u.vtu", z[None], "must be"),
        (tmp_path / "u.vtu", z[:0], "must be"),
        (tmp_path / "u.png", z[0], "end in .vtu"),
        (tmp_path / "nowhere" / "u.vtu", z[0], "does not exist"),
    ):
        with pytest.raises(pddlvm.InputError, match=message):
            model.to_vtu(path, parameters)
    assert not list(tmp_path.iterdir())


def stretched(u, du, x, e):
    return 0.5 * e * (du * du).sum() - u[1]


@pytest.fixture(scope="module")
def membrane() -> pddlvm.LatentVariableModel:
    """A plane vector field on quadratic triangles."""
    space = fem.Space(fem.unit_square(3), degree=2, n_components=2)
    problem = pddlvm.Problem(
        "membrane",
        space,
        [pddlvm.Energy(space.interior(), stretched)],
        {"e": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        [pddlvm.Dirichlet(None)],
    )
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(4))


def test_vectors_have_three_components_at_the_vertices(membrane, tmp_path: Path):
    z = torch.tensor([1.5], dtype=torch.float64)
    membrane.to_vtu(tmp_path / "u.vtu", z)
    mesh = meshio.read(tmp_path / "u.vtu")
    dofs = membrane.problem.space.vertex_dofs
    expected = np.pad(membrane.forward(z).mean.numpy()[dofs], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(mesh.point_data["u_mean"], expected)


@pytest.mark.parametrize("value", [torch.nan, 7.0], ids=["not finite", "outside the prior"])
def test_bad_parameters_leave_nothing_behind(membrane, value, tmp_path: Path):
    with pytest.raises(pddlvm.InputError):
        membrane.to_vtu(tmp_path / "u.vtu", torch.tensor([value]))
    assert not list(tmp_path.iterdir())


def test_parameters_must_be_a_tensor(membrane, tmp_path: Path):
    with pytest.raises(pddlvm.InputError, match="tensor"):
        membrane.to_vtu(tmp_path / "u.vtu", 1.5)


def test_a_failing_write_leaves_the_old_file(membrane, monkeypatch, tmp_path: Path):
    z = torch.tensor([1.5])
    membrane.to_vtu(tmp_path / "u.vtu", z)
    before = (tmp_path / "u.vtu").read_bytes()

    def full_disk(_: meshio.Mesh, path: Path, *__: object) -> None:
        Path(path).write_text("half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(meshio.Mesh, "write", full_disk)
    with pytest.raises(pddlvm.RunFileError, match="no space"):
        membrane.to_vtu(tmp_path / "u.vtu", z)
    assert [p.name for p in tmp_path.iterdir()] == ["u.vtu"]
    assert (tmp_path / "u.vtu").read_bytes() == before


def sweep(path: Path) -> list[tuple[float, meshio.Mesh]]:
    """Times and meshes of a collection, as ParaView reads it."""
    entries = ElementTree.parse(path).getroot().findall("./Collection/DataSet")
    files = [(e.attrib["timestep"], path.parent / e.attrib["file"]) for e in entries]
    return [(float(time), meshio.read(file)) for time, file in files]


def test_a_sweep_has_a_file_for_each_parameter_vector(membrane, tmp_path: Path):
    z = torch.tensor([[1.2], [1.8]], dtype=torch.float64)
    membrane.to_pvd(tmp_path / "sweep.pvd", z)
    found = sweep(tmp_path / "sweep.pvd")
    assert [time for time, _ in found] == [0, 1]
    dofs = membrane.problem.space.vertex_dofs
    for one, (_, mesh) in zip(z, found, strict=True):
        expected = membrane.forward(one).mean.numpy()[dofs]
        np.testing.assert_array_equal(mesh.point_data["u_mean"][:, :2], expected)


@pytest.mark.parametrize("name", ["sweep", "sweep[1]"])
def test_a_sweep_in_the_place_of_another_is_the_only_one(membrane, tmp_path: Path, name):
    path, z = tmp_path / f"{name}.pvd", torch.tensor([[1.2], [1.8], [1.5]], dtype=torch.float64)
    membrane.to_pvd(path, z)
    for mine in ("mine.vtu", f"{name}_mine.vtu"):
        (tmp_path / name / "1" / mine).write_text("of the user")
    (tmp_path / name / "old").mkdir()
    membrane.to_pvd(path, z[1:])
    u = [mesh.point_data["u_mean"] for _, mesh in sweep(path)]
    membrane.to_pvd(tmp_path / "other.pvd", z[1:])
    others = [mesh.point_data["u_mean"] for _, mesh in sweep(tmp_path / "other.pvd")]
    np.testing.assert_array_equal(u, others)
    left = {str(file.relative_to(tmp_path / name)) for file in (tmp_path / name).rglob("*")}
    own = {"1/mine.vtu", f"1/{name}_mine.vtu"}
    assert left == own | {f"2/{name}_0000.vtu", f"2/{name}_0001.vtu", "1", "2", "old"}


@pytest.mark.parametrize("written", ["sweep.pvd", "old files"])
def test_a_sweep_is_whole_wherever_its_writer_ends(membrane, tmp_path, monkeypatch, written):
    """Before and after the collection is replaced."""
    path, z = tmp_path / "sweep.pvd", torch.tensor([[1.2], [1.8]], dtype=torch.float64)
    membrane.to_pvd(path, z)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    where = {"sweep.pvd": "write_text", "old files": "remove_older"}[written]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"pddlvm.results.vtu.{where}", stop)
        membrane.to_pvd(path, z + 0.1)
    dofs = membrane.problem.space.vertex_dofs
    for one, (_, mesh) in zip(z if written == "sweep.pvd" else z + 0.1, sweep(path), strict=True):
        expected = membrane.forward(one).mean.numpy()[dofs]
        np.testing.assert_array_equal(mesh.point_data["u_mean"][:, :2], expected)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "no space left on device")])
def test_a_sweep_that_stops_midway_leaves_an_older_one(membrane, tmp_path, monkeypatch, stop):
    path, z = tmp_path / "sweep.pvd", torch.tensor([[1.2], [1.8]], dtype=torch.float64)
    membrane.to_pvd(path, z)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    write, written = meshio.Mesh.write, []

    def stops(self, name):
        if written:
            raise stop
        written.append(name)
        write(self, name)

    monkeypatch.setattr(meshio.Mesh, "write", stops)
    with pytest.raises((KeyboardInterrupt, pddlvm.RunFileError)):
        membrane.to_pvd(path, z + 0.1)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_file_of_several_vectors_numbers_its_names(membrane, tmp_path: Path):
    z = torch.tensor([[1.2], [1.8]], dtype=torch.float64)
    membrane.to_vtu(tmp_path / "u.vtu", z, n_samples=1)
    found = meshio.read(tmp_path / "u.vtu")
    dofs = membrane.problem.space.vertex_dofs
    for i, one in enumerate(z):
        expected = membrane.forward(one).mean.numpy()[dofs]
        np.testing.assert_array_equal(found.point_data[f"u_mean[{i}]"][:, :2], expected)
        assert (found.cell_data[f"e[{i}]"][0] == float(one)).all()
    assert len(found.point_data) == 6


def test_a_folder_that_cannot_be_written_to_is_named(membrane, monkeypatch, tmp_path: Path):
    def refuse(*_: object, **__: object):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(pddlvm.RunFileError, match="Permission denied"):
        membrane.to_vtu(tmp_path / "u.vtu", torch.tensor([1.5]))


def test_samples_are_those_of_the_forward_map(membrane, tmp_path: Path):
    z = torch.tensor([1.5], dtype=torch.float64)
    membrane.to_vtu(tmp_path / "u.vtu", z, n_samples=2, seed=4)
    data = meshio.read(tmp_path / "u.vtu").point_data
    expected = membrane.forward(z).sample((2,), seed=4).numpy()
    dofs = membrane.problem.space.vertex_dofs
    for i in range(2):
        np.testing.assert_array_equal(data[f"u_sample_{i}"][:, :2], expected[i][dofs])


@pytest.fixture(scope="module")
def burgers() -> pddlvm.LatentVariableModel:
    return pddlvm.LatentVariableModel(pinn.make_burgers((6, 5)), n_functions=4)


def test_one_z_of_a_problem_in_time_gives_a_time_series(burgers, tmp_path: Path):
    z = burgers.problem.prior.sample(seed=0)
    burgers.to_pvd(tmp_path / "u.pvd", z, n_samples=1)
    found = sweep(tmp_path / "u.pvd")
    np.testing.assert_allclose([time for time, _ in found], np.linspace(0, 1, 5))
    expected = burgers.forward(z).mean.reshape(6, 5).numpy()
    for i, (_, mesh) in enumerate(found):
        assert {cells.type for cells in mesh.cells} == {"line"}
        np.testing.assert_array_equal(mesh.point_data["u_mean"], expected[:, i])
        assert mesh.point_data["u_sample_0"].shape == (6,)


def test_a_grid_in_space_and_time_is_one_mesh(burgers, tmp_path: Path):
    z = burgers.problem.prior.sample(seed=0)
    burgers.to_vtu(tmp_path / "u.vtu", z)
    mesh = meshio.read(tmp_path / "u.vtu")
    assert mesh.cells[0].type == "quad" and len(mesh.cells[0].data) == 5 * 4
    np.testing.assert_array_equal(mesh.points[:, :2], burgers.problem.grid_points.numpy())
    np.testing.assert_array_equal(mesh.point_data["u_mean"], burgers.forward(z).mean.numpy())


def test_bad_collections_are_refused(membrane, tmp_path: Path):
    z = torch.tensor([[1.5]], dtype=torch.float64)
    for path, message in (
        (tmp_path / "u.vtu", "end in .pvd"),
        (tmp_path / "nowhere" / "u.pvd", "does not exist"),
    ):
        with pytest.raises(pddlvm.InputError, match=message):
            membrane.to_pvd(path, z)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["line", "triangle"])
def test_a_reference_solution_needs_no_model(kind: str, tmp_path: Path):
    problem = PROBLEMS[kind]()
    z = problem.prior.sample(seed=0)
    u = problem.solve(z)
    pddlvm.write_solution(problem, tmp_path / "u.vtu", u, z)
    read = meshio.read(tmp_path / "u.vtu")
    np.testing.assert_allclose(read.point_data["u"], problem.space.at_nodes(u.numpy())[:, 0])
    assert set(read.cell_data) == set(problem.random_fields)
    pddlvm.write_solution(problem, tmp_path / "alone.vtu", u)
    assert not meshio.read(tmp_path / "alone.vtu").cell_data
    with pytest.raises(pddlvm.InputError, match="u must be one vector"):
        pddlvm.write_solution(problem, tmp_path / "u.vtu", u[None])
