"""Models on elements of fluxes, circulations and second derivatives: as good as on any other."""

from functools import cache

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import meshio
import numpy as np
import pytest
import skfem
import torch
from elements import curls, darcy_flow, plate, stiff_plate

import pddlvm
from pddlvm import fem, plot

MAKE = {"darcy": darcy_flow, "curls": curls, "plate": stiff_plate}
KINDS = ["curls", *(pytest.param(k, marks=pytest.mark.slow) for k in ("darcy", "plate"))]
SENSORS = [[0.3, 0.3], [0.6, 0.4], [0.8, 0.8]]


@cache
def trained(name, n_steps):
    model = pddlvm.LatentVariableModel(MAKE[name](4), seed=0)
    pddlvm.train(model, max_steps=n_steps)
    return model


def relative(model, found, u):
    return (model.norm(found - u) / model.norm(u)).mean()


@pytest.mark.parametrize("name", KINDS)
def test_a_correction_reaches_the_error_of_the_basis(name):
    """At most twice that of the best coefficients, in the norm of the model."""
    model = trained(name, 30)
    z = model.problem.prior.sample((16,), seed=3)
    u = model.problem.solve(z)
    forward = model.forward(z, corrections=1)
    basis = forward.representation
    best = basis.expand(basis.project(u.float()), z.float()).double()
    least = relative(model, best, u)
    assert relative(model, forward.mean, u) < max(2 * least, 1e-6)
    assert least < 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_a_file_has_it_as_it_was(name, tmp_path):
    model = trained(name, 30)
    z = model.problem.prior.sample((2,), seed=1)
    model.save(tmp_path / "model.pt")
    again = pddlvm.load(tmp_path / "model.pt", MAKE[name](4))
    assert torch.equal(again.forward(z).mean, model.forward(z).mean)


@pytest.mark.parametrize("name", KINDS)
def test_files_and_figures_show_it(name, tmp_path):
    """Values at nodes, and deviations of these: fluxes are no values, and have signs."""
    model = trained(name, 30)
    z = model.problem.prior.sample(seed=1)
    model.to_vtu(tmp_path / "model.vtu", z)
    data = meshio.read(tmp_path / "model.vtu").point_data
    space = fem.mixed.field_of(model.problem.space, "u")[1]
    draws = model.forward(z).sample((2000,), seed=1).double().numpy()[:, : space.n_dofs]
    expected = np.stack([space.at_nodes(u) for u in draws]).std(axis=0)
    found = data["u_std"].reshape(len(expected), -1)[:, : space.n_components]
    # 400 draws know a deviation to 4 %: four of these.
    np.testing.assert_allclose(found, expected, rtol=0.15, atol=1e-3 * expected.max())
    figure = plot.forward_figure(model, z)
    assert len(figure.axes) >= 4 * len(model.problem.fields_of_u)
    plt.close(figure)


def test_a_beam_is_drawn_at_its_nodes():
    space = fem.Space(fem.interval(4), element=skfem.ElementLineHermite())
    problem = pddlvm.Problem(
        "beam",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, EI, ddu: 0.5 * EI * ddu[0, 0] ** 2 - u)],
        {"EI": pddlvm.Constant(pddlvm.LogNormal(0.0, 0.3))},
        [pddlvm.Dirichlet("left")],
    )
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=20)
    z = problem.prior.sample(seed=2)
    figure = plot.forward_figure(model, z)
    x, u = figure.axes[0].lines[0].get_data()
    expected = space.at_nodes(problem.solve(z).numpy())[:, 0]
    np.testing.assert_allclose(x, space.mesh.p[0])
    np.testing.assert_allclose(u, expected)
    plt.close(figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_its_error_bars_are_right(name):
    model = trained(name, 400)
    model.calibrate(512)
    report = pddlvm.validate(model, n_samples=200)
    assert report.relative_l2 < 0.01
    for coverage in report.coverage_of.values():
        assert 0.925 < coverage < 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_points_tell_its_parameters(name):
    """Standardised errors of some data sets, by Laplace's method on components at points."""
    model = trained(name, 400)
    z = model.problem.prior.sample((12,), seed=7)
    u = model.problem.solve(z)
    noise = 0.01 * float(u[:, : model.problem.n_dofs].abs().max())
    sensors = pddlvm.PointObservation(model.problem, SENSORS, noise)
    posterior = model.infer(sensors.simulate(u, seed=1), sensors, method="laplace")
    errors = (posterior.mean - z) / posterior.std
    assert 0.5 < errors.square().mean().sqrt() < 1.6


def test_chebyshev_needs_values_at_points():
    with pytest.raises(pddlvm.InputError, match="fluxes, slopes or bubbles"):
        pddlvm.reduce(plate(3, dirichlet=[pddlvm.Dirichlet(None)]), pddlvm.ChebyshevBasis(2))
