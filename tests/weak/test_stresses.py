"""Stress resultants of shells against closed forms, and in the files for other programs."""

import meshio
import numpy as np
import pytest
import torch
from checks import shell as build_shell

import pddlvm
from pddlvm import fem, supports
from pddlvm.weak.stresses import von_mises
from problems import poisson, shell

E, NU, T = 7.0, 0.25, 0.1


@pytest.fixture(scope="module")
def strip() -> pddlvm.Problem:
    """A flat square of 2 x 2 in the plane z = 0, held at x = 0."""
    ticks = np.linspace(0, 2, 5)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    a = (5 * np.arange(4)[:, None] + np.arange(4)).ravel()
    triangles = np.concatenate([np.stack([a, a + 5, a + 6], 1), np.stack([a, a + 6, a + 1], 1)])
    mesh = fem.surface(points, triangles).with_sets(root=fem.plane(0, 0.0, 1e-9))
    return build_shell(mesh, lambda space: [], supports.clamped("root"), nu=NU, thickness=T)


Z = torch.tensor([E], dtype=torch.float64)


def test_stretching_gives_membrane_forces(strip):
    x = strip.space.mesh.p.T
    u = np.zeros((len(x), 6))
    # Uniaxial stress along x: e22 = -nu e11.
    u[:, 0], u[:, 1] = 0.01 * x[:, 0], -NU * 0.01 * x[:, 1]
    found = pddlvm.shell_stresses(strip, torch.from_numpy(u.ravel()), Z)
    # The frame of a triangle has e1 along its first edge, here x or the diagonal: compare
    # invariants. The force per length is E t e11.
    trace = found.membrane[:, 0] + found.membrane[:, 1]
    torch.testing.assert_close(trace, torch.full_like(trace, E * T * 0.01))
    assert found.bending.abs().max() < 1e-12
    for face in (found.von_mises_outer, found.von_mises_inner):
        torch.testing.assert_close(face, torch.full_like(face, E * 0.01))


def test_bending_gives_moments_and_opposite_faces(strip):
    x = strip.space.mesh.p.T
    u = np.zeros((len(x), 6))
    # Upwards like a bowl: w = 0.05 (x^2 + y^2), so that the outer face, above, is compressed.
    u[:, 2] = 0.05 * (x[:, 0] ** 2 + x[:, 1] ** 2)
    u[:, 3], u[:, 4] = 0.1 * x[:, 1], -0.1 * x[:, 0]
    u[:, 0] = 1e-3 * x[:, 0]
    u[:, 1] = 1e-3 * x[:, 1]
    found = pddlvm.shell_stresses(strip, torch.from_numpy(u.ravel()), Z)
    moment = -E * T**3 / (12 * (1 - NU**2)) * (1 + NU) * 0.1
    expected = torch.tensor([moment, moment, 0.0], dtype=torch.float64).expand_as(found.bending)
    torch.testing.assert_close(found.bending, expected)
    stretch = E / (1 - NU) * 1e-3
    bend = E / (1 - NU) * 0.1 * T / 2
    torch.testing.assert_close(
        found.von_mises_inner, torch.full_like(found.von_mises_inner, stretch + bend)
    )
    torch.testing.assert_close(
        found.von_mises_outer, torch.full_like(found.von_mises_outer, abs(stretch - bend))
    )


def test_von_mises_of_pure_shear():
    assert float(von_mises(torch.tensor([0.0, 0.0, 2.0]))) == pytest.approx(2 * 3**0.5)


def test_batches_of_solutions(strip):
    u = torch.zeros(2, 3, strip.n_dofs, dtype=torch.float64)
    found = pddlvm.shell_stresses(strip, u, Z.expand(2, 3, 1))
    n = strip.space.mesh.nelements
    assert found.membrane.shape == (2, 3, n, 3)
    assert found.von_mises_outer.shape == (2, 3, n)


def test_a_field_of_thickness_is_read():
    problem = shell.make_roof(3, 2)
    z = problem.prior.sample((2,), seed=0)
    found = pddlvm.shell_stresses(problem, problem.solve(z), z)
    assert found.von_mises_inner.shape == (2, problem.space.mesh.nelements)
    assert (found.von_mises_inner > 0).all()


def test_other_problems_have_no_shell_stresses(poisson_2d):
    z = poisson_2d.prior.sample(seed=0)
    with pytest.raises(pddlvm.ProblemError, match="shell"):
        pddlvm.shell_stresses(poisson_2d, poisson_2d.solve(z), z)


def test_the_file_of_a_shell_has_vectors_and_stresses(tmp_path):
    problem = shell.make_roof(4, 2)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=4))
    z = problem.prior.sample(seed=0)
    model.to_vtu(tmp_path / "roof.vtu", z)
    mesh = meshio.read(tmp_path / "roof.vtu")
    mean = model.forward(z).mean.reshape(-1, 6)
    np.testing.assert_array_equal(mesh.point_data["displacement_mean"], mean[:, :3])
    np.testing.assert_array_equal(mesh.point_data["rotation_mean"], mean[:, 3:])
    assert mesh.point_data["displacement_std"].shape == mean[:, :3].shape
    stresses = pddlvm.shell_stresses(problem, model.forward(z).mean, z)
    np.testing.assert_allclose(mesh.cell_data["von_mises_outer"][0], stresses.von_mises_outer)
    assert {"membrane", "bending", "thickness"} <= set(mesh.cell_data)


@pytest.mark.parametrize("options", [{"thickness": 0.0}, {"thickness": -1.0}, {"up": 3}])
def test_shells_that_cannot_be_are_refused(options):
    with pytest.raises(pddlvm.InputError):
        shell.make(fem.hare(1), **options)


def test_poisson_is_no_shell():
    assert not poisson.make_1d().space.rigid_modes
