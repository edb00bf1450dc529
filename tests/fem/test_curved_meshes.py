"""Meshes of second order, as gmsh writes them: groups, convergence, VTU files, figures, sensors.

A quarter of an annulus, 1 < r < 2, with u = log2 r between u = 0 inside and u = 1 outside.
"""

import dataclasses
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import meshio
import numpy as np
import pytest
import skfem
import torch
from matplotlib.figure import Figure
from msh import LINE3, QUAD9, TETRA10, TRIANGLE6, write_2, write_41

import pddlvm
from pddlvm import fem, plot
from pddlvm.fem.cells import kind_of

CELLS = {"triangle6": TRIANGLE6, "quad9": QUAD9}
NAMES = {(1, 1): "inner", (1, 2): "outer", (2, 3): "ring"}
Z = torch.ones(1, dtype=torch.float64)
cells = pytest.mark.parametrize("kind", CELLS)


@cache
def annulus(n, kind="triangle6", version=4.1):
    """n cells across, read from a file."""
    straight = skfem.MeshTri if kind == "triangle6" else skfem.MeshQuad
    curved = skfem.MeshTri2 if kind == "triangle6" else skfem.MeshQuad2
    polar = straight.init_tensor(np.linspace(1, 2, n + 1), np.linspace(0, np.pi / 2, 2 * n + 1))
    mesh = curved.from_mesh(polar)
    r, angle = mesh.doflocs
    x, nodes = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1), mesh.dofs.element_dofs
    sides = []
    for radius in (1, 2):
        facets = np.flatnonzero((polar.p[0, polar.facets] == radius).all(axis=0))
        middles = mesh.dofs.facet_dofs[0, facets]
        sides.append(np.stack([*polar.facets[:, facets], middles], axis=1).tolist())
    entities = [
        (LINE3, [1], sides[0]),
        (LINE3, [2], sides[1]),
        (CELLS[kind], [3], nodes.T.tolist()),
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "annulus.msh"
        if version == 4.1:
            write_41(path, x, entities, NAMES)
        else:
            write_2(path, x, [(k, g[0], e) for k, g, all_of in entities for e in all_of], NAMES)
        return fem.read_mesh(path)


def problem(mesh, degree=2, load=0.0):
    """Without a load u is the same for all k."""
    space = fem.Space(mesh, degree)
    return pddlvm.Problem(
        "annulus",
        space,
        [pddlvm.Energy(space.interior("ring"), lambda u, du, x, k: 0.5 * k * (du @ du) - load * u)],
        {"k": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
        [pddlvm.Dirichlet("inner"), pddlvm.Dirichlet("outer", 1.0)],
    )


def exact(x):
    return np.log2(np.hypot(x[:, 0], x[:, 1]))


@pytest.fixture(scope="module")
def model():
    return pddlvm.LatentVariableModel(problem(annulus(4), load=1.0), basis=pddlvm.EnergyModes(4))


@cells
@pytest.mark.parametrize("version", [2, 4.1])
def test_named_groups_are_read(kind, version):
    mesh = annulus(2, kind, version)
    assert set(mesh.boundaries) == {"inner", "outer"} and set(mesh.subdomains) == {"ring"}
    space = fem.Space(mesh, 2)
    # An arc of 22.5 degrees by a parabola: its length is wrong by less than (pi / 8)^4 / 100.
    assert space.boundary("outer").weights.sum() == pytest.approx(np.pi, rel=3e-4)


@cells
def test_the_error_of_quadratic_elements_has_order_three(kind):
    errors = []
    for n in (2, 4, 8):
        mesh = annulus(n, kind)
        u = problem(mesh).solve(Z).numpy()
        fine = fem.Space(mesh, 2, quadrature=8).interior()
        found = (fine.matrix @ u).reshape(len(fine.points.x), -1)[:, 0]
        squares = fine.weights.ravel() * (found - exact(fine.points.x)) ** 2
        errors.append(np.sqrt(squares.sum()))
    # As for all manufactured solutions.
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 3, atol=0.15)


@pytest.mark.filterwarnings("ignore::pddlvm.UncalibratedWarning")
@pytest.mark.parametrize("degree", [1, 2])
def test_a_vtu_file_has_the_curved_cells_and_u_at_their_nodes(degree, tmp_path):
    loaded = problem(annulus(4), degree, load=1.0)
    space, model = loaded.space, pddlvm.LatentVariableModel(loaded, basis=pddlvm.EnergyModes(4))
    model.to_vtu(tmp_path / "a.vtu", Z)
    written = meshio.read(tmp_path / "a.vtu")
    assert [block.type for block in written.cells] == ["triangle6"]
    # The middles of curved edges are where the file has them, on the circles.
    middles = written.points[written.cells[0].data[:, 3:], :2]
    corners = written.points[written.cells[0].data[:, :3], :2]
    chords = (corners + np.roll(corners, -1, axis=1)) / 2
    assert np.linalg.norm(middles - chords, axis=-1).max() < 0.04
    mean = model.forward(Z).mean.numpy()
    # One mean at one place: what is written is what a sensor reads there, but for round-off.
    expected = space.evaluation(written.points[:, :2]) @ mean
    np.testing.assert_allclose(written.point_data["u_mean"], expected, atol=1e-10)


@pytest.mark.filterwarnings("ignore::pddlvm.UncalibratedWarning")
def test_figures_show_the_curve(model):
    ax = Figure().subplots()
    plot.field(model.problem, model.problem.solve(Z), ax)
    triangles = ax.collections[0]._triangulation
    a, b, c = (np.stack([triangles.x, triangles.y], axis=1)[i] for i in triangles.triangles.T)
    area = 0.5 * np.abs(np.cross(np.pad(b - a, ((0, 0), (0, 1))), np.pad(c - a, ((0, 0), (0, 1)))))
    # 16 chords for a quarter: the area of each circle lacks (pi / 32)^2 / 6, that of 8 four times.
    assert area.sum() == pytest.approx(0.75 * np.pi, rel=2e-3)
    assert plot.forward_figure(model, Z) is not None


@cells
def test_sensors_on_curved_cells(kind):
    own = problem(annulus(8, kind))
    angles = np.linspace(0, np.pi / 2, 50)
    # Inside, on both curves, with the digits of a table.
    points = np.concatenate(
        [np.round(r * np.stack([np.cos(angles), np.sin(angles)], axis=1), 4) for r in (1, 1.3, 2)]
    )
    found = pddlvm.PointObservation(own, points, 0.1).apply(own.solve(Z))
    # Rounding to 5e-5 of a function of slope 1.44 / r, and the error of 8 cells.
    np.testing.assert_allclose(found, exact(points), atol=2e-4)


def test_a_ball_of_second_order_has_its_surface_and_volume(tmp_path):
    ball = skfem.MeshTet2.init_ball(2)
    order = np.argsort(kind_of(ball).order)
    # Gmsh has the last two nodes the other way round.
    nodes = ball.dofs.element_dofs[order].T[:, [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]].tolist()
    path = write_2(tmp_path / "a.msh", ball.doflocs.T, [(TETRA10, 1, n) for n in nodes])
    mesh = fem.read_mesh(path)
    assert isinstance(mesh, skfem.MeshTet2)
    # Curved sides of 45 degrees: (pi / 4)^4 / 100 or so.
    assert fem.Space(mesh, 2).cell_volumes.sum() == pytest.approx(4 / 3 * np.pi, rel=5e-3)


@pytest.mark.parametrize("name", ["hexahedron27", "hexahedron20"])
def test_a_hexahedron_of_second_order_keeps_its_shape(name, tmp_path):
    cube = skfem.MeshHex2.from_mesh(skfem.MeshHex().refined(1))
    # Products of two coordinates: both kinds have them.
    bent = dataclasses.replace(cube, doflocs=cube.doflocs + 0.2 * cube.doflocs[::-1] ** 2)
    nodes = bent.dofs.element_dofs[np.argsort(kind_of(bent).order)].T[:, : int(name[-2:])]
    meshio.Mesh(bent.doflocs.T, [(name, nodes)]).write(tmp_path / "a.vtu")
    mesh = fem.read_mesh(tmp_path / "a.vtu")
    assert mesh.p.shape == bent.p.shape
    volumes = [fem.Space(m, 2, quadrature=8).cell_volumes for m in (mesh, bent)]
    # The same cells: round-off.
    np.testing.assert_allclose(*volumes, rtol=1e-12)


def test_quadrilaterals_of_eight_nodes_are_read(tmp_path):
    mesh = skfem.MeshQuad2.from_mesh(skfem.MeshQuad().refined(2))
    bent = dataclasses.replace(mesh, doflocs=mesh.doflocs + 0.2 * mesh.doflocs[::-1] ** 2)
    points = np.pad(bent.doflocs.T, ((0, 0), (0, 1)))
    meshio.Mesh(points, [("quad8", bent.dofs.element_dofs[:8].T)]).write(tmp_path / "a.vtu")
    volumes = [fem.Space(m, 2).cell_volumes for m in (fem.read_mesh(tmp_path / "a.vtu"), bent)]
    # The same cells: round-off.
    np.testing.assert_allclose(*volumes, rtol=1e-12)
