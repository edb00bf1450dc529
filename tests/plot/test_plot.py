"""Figures draw what they are given, on the axes that they are given."""

import dataclasses

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from small import in_time

import pddlvm
from pddlvm import fem, plot
from problems import pinn, poisson, shell
from problems.poisson import diffusion, load


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure open."""
    yield
    plt.close("all")


def model_of(problem: pddlvm.Problem) -> pddlvm.LatentVariableModel:
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=4))


@pytest.mark.parametrize(
    ("problem", "n_axes"), [(poisson.make_1d, 2), (lambda: poisson.make(5, n_terms=2), 8)]
)
def test_forward_figure(problem, n_axes):
    model = model_of(problem())
    figure = plot.forward_figure(model, model.problem.prior.sample(seed=0))
    # In 2D each of the four panels has a colour bar.
    assert len(figure.axes) == n_axes


@pytest.mark.parametrize(
    ("problem", "n_axes"), [(poisson.make_1d, 1), (lambda: poisson.make(5, n_terms=2), 8)]
)
def test_inverse_figure(problem, n_axes):
    model = model_of(problem())
    figure = plot.inverse_figure(model, model.problem.prior.sample(seed=0))
    assert len(figure.axes) == n_axes


def test_figures_of_a_problem_in_time_show_one_state():
    model = in_time()
    problem, z = model.problem, model.problem.prior.sample(seed=0)
    figure = plot.forward_figure(model, z)
    assert len(figure.axes) == 8
    assert figure.get_suptitle() == "t = 0.4"
    last = problem.solve(z)[-1]
    drawn = figure.axes[0].collections[0].get_array()
    np.testing.assert_allclose(np.sort(drawn), np.sort(last[problem.space.vertex_dofs[:, 0]]))
    assert len(plot.inverse_figure(model, z, n_samples=4).axes) == 8
    plot.field(problem, last, plt.figure().add_subplot())
    with pytest.raises(pddlvm.InputError, match=r"25 or 32 entries, got shape \(6, 25\)"):
        plot.field(problem, problem.solve(z), plt.figure().add_subplot())


def test_a_field_on_a_solid_shows_its_surface():
    space = fem.Space(fem.unit_cube(2))
    cells = space.interior()
    problem = pddlvm.Problem(
        "cube",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {"kappa": pddlvm.Constant(pddlvm.LogNormal()), "f": 1.0},
        [pddlvm.Dirichlet("left")],
    )
    ax = plt.figure().add_subplot(projection="3d")
    plot.field(problem, torch.arange(problem.n_dofs, dtype=torch.float64), ax)
    # Six faces of 2 x 2 squares, two triangles each.
    assert len(ax.collections[0].get_facecolor()) == 48
    with pytest.raises(pddlvm.InputError, match="3D axes"):
        plot.field(problem, torch.zeros(problem.n_dofs), plt.figure().add_subplot())


def test_values_of_the_wrong_length_are_refused():
    problem = poisson.make(5, n_terms=2)
    with pytest.raises(pddlvm.InputError, match="entries"):
        plot.field(problem, torch.zeros(7), plt.figure().add_subplot())


def test_training_and_calibration_curves():
    model = model_of(poisson.make_1d())
    result = pddlvm.train(model, max_steps=60, calibrate=False)
    _, axes = plt.subplots(1, 2)
    curve = plot.elbo(result, axes[0]).lines[0]
    assert np.isfinite(curve.get_ydata()).all()
    model.calibrate(64)
    report = pddlvm.validate(model, n_samples=20)
    drawn = plot.calibration(report, axes[1]).lines[1]
    np.testing.assert_array_equal(drawn.get_ydata(), report.observed)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_curve_of_one_point_has_a_marker(n_rows):
    result = pddlvm.train(model_of(poisson.make_1d()), max_steps=1, calibrate=False)
    short = dataclasses.replace(result, history=result.history[:n_rows])
    line = plot.elbo(short, plt.figure().gca()).lines[0]
    # The best row of two is not on the logarithm.
    assert line.get_marker() == "o" and len(line.get_xdata()) == 1


@pytest.mark.parametrize("quadrilaterals", [False, True])
@pytest.mark.parametrize("where", ["dofs", "cells"])
def test_a_field_in_the_plane_has_its_range_on_the_colour_bar(quadrilaterals, where):
    space = fem.Space(fem.unit_square(3, quadrilaterals=quadrilaterals))
    cells = space.interior()
    problem = pddlvm.Problem(
        "square",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {"kappa": pddlvm.Constant(pddlvm.LogNormal()), "f": 1.0},
        [pddlvm.Dirichlet(None)],
    )
    n = problem.n_dofs if where == "dofs" else space.mesh.nelements
    ax = plt.figure().add_subplot()
    plot.field(problem, torch.linspace(-1, 2, n), ax, title="T")
    assert ax.collections[0].get_clim() == pytest.approx((-1, 2))
    assert ax.get_title() == "T" and len(ax.figure.axes) == 2


def test_a_field_on_a_line_is_drawn_from_left_to_right():
    problem = poisson.make_1d()
    x = torch.from_numpy(problem.space.dof_points[:, 0].copy())
    ax = plot.field(problem, 3 * x, plt.figure().add_subplot())
    drawn = ax.lines[0].get_xydata()
    assert (np.diff(drawn[:, 0]) > 0).all()
    np.testing.assert_allclose(drawn[:, 1], 3 * drawn[:, 0])


def test_figures_of_a_shell_show_its_displacement():
    model = model_of(shell.make(fem.hare(0)))
    z = model.problem.prior.sample(seed=0)
    figure = plot.forward_figure(model, z)
    # Four surfaces with a colour bar each.
    assert len(figure.axes) == 8
    u = model.problem.solve(z)
    size = u.reshape(-1, 6)[:, :3].norm(dim=1)
    assert figure.axes[4].get_ylim()[1] == pytest.approx(float(size.max()))
    assert len(plot.inverse_figure(model, z).axes) == 8


def test_figures_of_several_panels_fit_into_a_part_of_another(tmp_path):
    model = model_of(poisson.make(5, n_terms=2))
    z = model.problem.prior.sample(seed=0)
    whole = plt.figure(layout="constrained")
    left, right = whole.subfigures(1, 2)
    assert plot.forward_figure(model, z, figure=left) is whole
    assert plot.inverse_figure(model, z, figure=right) is whole
    assert len(left.axes) == len(right.axes) == 8
    # Each colour bar says what it is of.
    bars = [ax for ax in whole.axes if ax.get_label() == "<colorbar>"]
    assert {ax.get_ylabel() for ax in bars} == {"u", "error of u", "kappa", "error of kappa"}


def test_space_time_draws_the_grid():
    problem = pinn.make_burgers((6, 5))
    x, t = problem.grid_points.unbind(-1)
    ax = plot.space_time(problem, x + 10 * t, plt.figure().subplots(), label="u", title="sum")
    (mesh,) = ax.collections
    expected = (x + 10 * t).reshape(problem.grid)
    np.testing.assert_allclose(mesh.get_array(), expected)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("t", "x", "sum")
    assert ax.figure.axes[1].get_ylabel() == "u"
    with pytest.raises(pddlvm.InputError, match="shape"):
        plot.space_time(problem, x[:-1], ax)


def test_the_package_offers_its_figures():
    assert pddlvm.plot is plot
    with pytest.raises(AttributeError, match="no attribute"):
        _ = pddlvm.no_such_thing


def placement(dim: int) -> pddlvm.Placement:
    """Of 27 points of a coordinates each, three of which were chosen."""
    points = np.random.default_rng(0).random((27, dim))
    alone = torch.linspace(0, 1, 27).double()
    index = torch.tensor([26, 3, 8])
    return pddlvm.Placement(index, alone[:3], alone, points, None)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sensors_are_drawn_by_their_numbers(dim):
    found = placement(dim)
    figure = plt.figure()
    ax = figure.add_subplot(projection="3d" if dim == 3 else None)
    plot.sensors(found, ax, title="map")
    assert ax.get_title() == "map"
    assert {t.get_text() for t in ax.texts} == {"1", "2", "3"}
    if dim == 2:
        shown = ax.collections[0]
        np.testing.assert_array_equal(shown.get_offsets(), found.points)
        np.testing.assert_allclose(shown.get_array(), found.alone)
        np.testing.assert_array_equal(ax.collections[1].get_offsets(), found.points[[26, 3, 8]])


def test_sensors_need_points_and_axes_that_suit_them():
    rows = dataclasses.replace(placement(2), points=None)
    with pytest.raises(pddlvm.InputError, match="no points"):
        plot.sensors(rows, plt.figure().add_subplot())
    with pytest.raises(pddlvm.InputError, match="projection='3d'"):
        plot.sensors(placement(3), plt.figure().add_subplot())
