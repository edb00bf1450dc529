"""Sensors tell what the closed form of a linear-Gaussian problem says, and greedy ones are best."""

import numpy as np
import pytest
import torch
from small import in_time, strong

import pddlvm
from pddlvm.decisions.draws import even_draws

POINTS = np.linspace(0.05, 0.95, 19)[:, None]
NOISE = 0.02


def slopes(problem, rows):
    """Derivatives of L u by the standard coordinates of the linear problem, (n, 2)."""
    matrix = torch.from_numpy(rows.toarray())
    at = problem.prior.unstandardise(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    values = problem.solve(at) @ matrix.T
    return (values[1:] - values[0]).T


def information(h, noise=NOISE):
    """1/2 log |I + H H^T / noise^2|."""
    return 0.5 * torch.linalg.slogdet(torch.eye(len(h)) + h @ h.T / noise**2).logabsdet


def test_gains_are_those_of_the_closed_form(linear_model):
    problem = linear_model.problem
    h = slopes(problem, problem.evaluation(POINTS))
    found = pddlvm.place_sensors(linear_model, POINTS, 4, NOISE)
    alone = torch.stack([information(row[None]) for row in h])
    # The surrogate of a linear problem is exact but for rounding.
    torch.testing.assert_close(found.alone, alone, rtol=1e-6, atol=1e-8)
    together = torch.stack([information(h[found.index[: k + 1]]) for k in range(4)])
    torch.testing.assert_close(found.gain, together, rtol=1e-6, atol=1e-8)
    assert int(found.index[0]) == int(alone.argmax())
    pairs = torch.stack([information(h[[int(found.index[0]), k]]) for k in range(len(h))])
    pairs[found.index[0]] = -torch.inf
    assert int(found.index[1]) == int(pairs.argmax())


def test_a_goal_gains_what_its_variance_loses(linear_model):
    problem = linear_model.problem
    average = pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 0.7])
    goal = pddlvm.Quantity(problem, average, "mean on the right")
    found = pddlvm.place_sensors(linear_model, POINTS, 3, NOISE, goal)
    a, h = slopes(problem, average), slopes(problem, problem.evaluation(POINTS))
    for k in range(3):
        own = h[found.index[: k + 1]]
        left = torch.linalg.inv(torch.eye(2) + own.T @ own / NOISE**2)
        gain = 0.5 * torch.log((a @ a.T) / (a @ left @ a.T))
        # Differences of a linear quantity have no error but rounding, relative to their step.
        torch.testing.assert_close(found.gain[k], gain[0, 0], rtol=1e-5, atol=1e-7)
    every = pddlvm.place_sensors(linear_model, POINTS, 3, NOISE)
    assert (found.gain <= every.gain).all()


def test_a_goal_may_be_any_function(linear_model):
    problem = linear_model.problem
    average = pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 0.7])
    row = torch.from_numpy(average.toarray())
    linear = pddlvm.Quantity(problem, average)
    function = pddlvm.Quantity(problem, lambda u: u @ row.to(u).T)
    a, b = (pddlvm.place_sensors(linear_model, POINTS, 2, NOISE, q) for q in (linear, function))
    assert torch.equal(a.index, b.index)
    # Its solutions are in single precision, and its derivatives are differences.
    torch.testing.assert_close(a.gain, b.gain, rtol=1e-2, atol=1e-3)


def test_noisy_candidates_are_avoided(linear_model):
    std = torch.full((len(POINTS),), NOISE).double()
    best = int(pddlvm.place_sensors(linear_model, POINTS, 1, std).index[0])
    std[best] = 1.0
    found = pddlvm.place_sensors(linear_model, POINTS, 1, std)
    assert int(found.index[0]) != best
    assert float(found.observation.noise.variance()[0]) == pytest.approx(NOISE**2)


def test_candidates_may_be_rows(linear_model):
    problem = linear_model.problem
    rows = pddlvm.LinearObservation(problem, problem.evaluation(POINTS), 1.0)
    by_rows = pddlvm.place_sensors(linear_model, rows, 3, NOISE)
    by_points = pddlvm.place_sensors(linear_model, POINTS, 3, NOISE)
    assert torch.equal(by_rows.index, by_points.index)
    torch.testing.assert_close(by_rows.gain, by_points.gain)
    for found in (by_rows, by_points):
        own = problem.evaluation(POINTS[found.index.numpy()])
        assert abs(found.observation.matrix - own).max() == 0
    np.testing.assert_array_equal(by_points.chosen, POINTS[by_points.index.numpy()])
    with pytest.raises(pddlvm.InputError, match="no points"):
        _ = by_rows.chosen


def test_in_time_a_sensor_measures_at_all_steps():
    model = in_time()
    problem = model.problem
    points = np.array([[0.25, 0.25], [0.5, 0.5], [0.75, 0.5]])
    found = pddlvm.place_sensors(model, points, 2, 0.05, n_draws=4)
    chosen = points[found.index.numpy()]
    own = pddlvm.PointObservation(problem, chosen, 0.05)
    assert abs(found.observation.matrix - own.matrix).max() == 0
    # The same, by all rows together, at the same draws.
    xi = even_draws(problem.prior, 4, 0).flatten(0, 1)[:4]
    j = model.surrogate(own, corrections=model.cheap_corrections).linearise(xi)[1] / 0.05
    whole = torch.eye(own.n) + j @ j.mT
    total = 0.5 * torch.linalg.slogdet(whole).logabsdet.mean()
    torch.testing.assert_close(found.gain[-1], total)


def test_models_in_strong_form_place_sensors():
    model = strong()
    points = torch.cartesian_prod(torch.linspace(0.1, 0.9, 5), torch.linspace(0.1, 0.9, 5))
    found = pddlvm.place_sensors(model, points, 3, 0.01, n_draws=8)
    assert len(set(found.index.tolist())) == 3
    assert (found.gain.diff() >= 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": [[0.5], [1.5]]}, "outside"),
        ({"n": 20}, "19 candidates"),
        ({"noise_std": 0.0}, "positive"),
        ({"noise_std": torch.ones(3)}, "19 values"),
        ({"n": 0}, "n must be"),
    ],
)
def test_what_is_wrong_is_said(linear_model, changes, message):
    arguments = {"candidates": POINTS, "n": 2, "noise_std": NOISE} | changes
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.place_sensors(linear_model, **arguments)


def test_goals_and_rows_of_another_problem_are_refused(linear_model, poisson_1d):
    goal = pddlvm.Quantity(poisson_1d, torch.ones(poisson_1d.n_dofs))
    with pytest.raises(pddlvm.InputError, match="poisson-1d"):
        pddlvm.place_sensors(linear_model, POINTS, 2, NOISE, goal)
    rows = pddlvm.LinearObservation(poisson_1d, torch.ones(1, poisson_1d.n_dofs), 1.0)
    with pytest.raises(pddlvm.InputError, match="poisson-1d"):
        pddlvm.place_sensors(linear_model, rows, 1, NOISE)
