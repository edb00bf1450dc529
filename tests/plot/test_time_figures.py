"""Figures and films of problems in time."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import parabolic
import pytest
import torch
from matplotlib.animation import writers
from PIL import Image

import pddlvm
from pddlvm import plot

TIMES = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model():
    made = pddlvm.LatentVariableModel(parabolic.make("heat", n_steps=10), n_shapes=8, n_modes=8)
    pddlvm.train(made, max_steps=20)
    return made


@pytest.fixture(scope="module")
def posterior(model):
    points = [[0.3, 0.4], [0.7, 0.6]]
    sensors = pddlvm.PointObservation(model.problem, points, 0.01, times=TIMES)
    y = sensors.simulate(model.problem.solve(model.problem.prior.sample(seed=1)), seed=0)
    y[4:] = torch.nan
    return model.infer(y, sensors)


def test_series_have_a_band_and_the_data_of_each_sensor(posterior):
    ax = plot.series(posterior, plt.figure().subplots())
    assert len(ax.collections) == 2
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    y = posterior.y.reshape(4, 2).numpy()
    for k, line in enumerate(dots):
        np.testing.assert_array_equal(line.get_ydata(), y[:, k])
    # What has not come yet is less well known than what has.
    band = ax.collections[0].get_paths()[0].vertices
    widths = [np.ptp(band[np.isclose(band[:, 0], t), 1]) for t in TIMES]
    assert all(w > 0 for w in widths)


def test_bands_lie_around_the_data(posterior):
    ax = plot.series(posterior, plt.figure().subplots())
    y = posterior.y.reshape(4, 2).numpy()
    for k, band in enumerate(ax.collections):
        ends = band.get_paths()[0].vertices
        for t, value in zip(TIMES[:2], y[:2, k], strict=True):
            own = ends[np.isclose(ends[:, 0], t), 1]
            # Three deviations of the noise, which is not in the band.
            assert own.min() - 0.03 < value < own.max() + 0.03


def test_expected_data_are_those_of_the_solutions(model, posterior):
    z = posterior.sample((3,), seed=0)
    found = posterior.expected(z)
    expected = posterior.observation.apply(model.forward(z, corrections=1).mean)
    torch.testing.assert_close(found, expected)


def test_series_are_of_one_data_set_at_times(model, posterior):
    many = model.infer(posterior.y.repeat(2, 1), posterior.observation)
    rows = pddlvm.LinearObservation(model.problem, posterior.observation.matrix, 0.01)
    for wrong in (many, model.infer(posterior.y, rows)):
        with pytest.raises(pddlvm.InputError, match="sensors that read at times"):
            plot.series(wrong, plt.figure().subplots())


def test_a_filmstrip_has_states_in_the_same_colours(model):
    problem = model.problem
    u = problem.solve(problem.prior.sample(seed=0))
    figure = plot.filmstrip(problem, u, times=[0.1, 0.25, 0.4])
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["t = 0.1", "t = 0.25", "t = 0.4"]
    limits = {ax.collections[0].get_clim() for ax in panels}
    assert len(limits) == 1
    assert len([ax for ax in plot.filmstrip(problem, u).axes if ax.get_title()]) == 4
    with pytest.raises(pddlvm.InputError, match="outside of the interval"):
        plot.filmstrip(problem, u, times=[9.0])
    with pytest.raises(pddlvm.InputError, match="one trajectory"):
        plot.filmstrip(problem, u[-1])
    with pytest.raises(pddlvm.InputError, match="1 to 12 states"):
        plot.filmstrip(problem, u, times=np.linspace(0.1, 0.4, 13))


def test_a_film_is_a_gif(model, tmp_path):
    problem = model.problem
    u = problem.solve(problem.prior.sample(seed=0))
    plot.animate(problem, u, tmp_path / "u.gif", n_frames=3)
    with Image.open(tmp_path / "u.gif") as film:
        assert film.n_frames == 3
    assert not plt.get_fignums()
    with pytest.raises(pddlvm.InputError, match=r"\.gif or an \.mp4"):
        plot.animate(problem, u, tmp_path / "u.avi")


def test_mp4_needs_ffmpeg(model, tmp_path, monkeypatch):
    problem = model.problem
    u = problem.solve(problem.prior.sample(seed=0))
    if writers.is_available("ffmpeg"):
        plot.animate(problem, u, tmp_path / "u.mp4", n_frames=2)
        assert (tmp_path / "u.mp4").stat().st_size > 0
    monkeypatch.setattr(type(writers), "is_available", lambda *_: False)
    with pytest.raises(pddlvm.InputError, match="needs the program ffmpeg"):
        plot.animate(problem, u, tmp_path / "u.mp4", n_frames=2)
