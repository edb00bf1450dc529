"""Sensors that read at times, and parameters from what they read."""

import numpy as np
import parabolic
import pytest
import torch

import pddlvm
from pddlvm.trajectory.surrogate import TrajectorySurrogate
from problems import poisson

POINTS = [[0.3, 0.4], [0.7, 0.6]]
TIMES = np.linspace(0.05, parabolic.END, 9)


@pytest.fixture(scope="module", params=["heat", "boundary"])
def model(request):
    made = pddlvm.LatentVariableModel(parabolic.make(request.param), n_shapes=12, n_modes=16)
    pddlvm.train(made, max_steps=60)
    return made


def sensors(problem):
    return pddlvm.PointObservation(problem, POINTS, 0.01, times=TIMES)


def test_data_are_values_at_points_time_after_time(model):
    problem = model.problem
    u = problem.solve(problem.prior.sample((3,), seed=0))
    data = sensors(problem).apply(u)
    values = torch.from_numpy(problem.evaluation(POINTS) @ u[1, -1].numpy())
    torch.testing.assert_close(data.unflatten(-1, (9, 2))[1, -1], values)
    assert sensors(problem).simulate(u).shape == (3, 18)
    assert sensors(problem).log_prob(data, u).shape == (3,)


def test_all_steps_are_read_by_default(model):
    obs = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    assert obs.n == 2 * model.problem.n_times


def test_times_are_checked(model):
    with pytest.raises(pddlvm.InputError, match="outside of the interval"):
        pddlvm.PointObservation(model.problem, POINTS, 0.01, times=[9.0])
    with pytest.raises(pddlvm.InputError, match="no steps in time"):
        pddlvm.PointObservation(poisson.make(4, 2), POINTS, 0.01, times=[0.1])


@pytest.mark.parametrize("corrections", [0, 1])
def test_predictions_and_their_slopes_are_those_of_the_model(model, corrections):
    obs, prior = sensors(model.problem), model.problem.prior
    surrogate = TrajectorySurrogate(model, obs, corrections)
    xi = prior.standardise(prior.sample((3,), seed=1))
    mean = model.forward(prior.unstandardise(xi), corrections=corrections).mean
    data, slope = surrogate.linearise(xi)
    torch.testing.assert_close(data, obs.apply(mean), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(surrogate.mean(xi), data)
    step = 1e-5 * torch.eye(prior.size, dtype=torch.float64)
    for j in range(prior.size):
        moved = (surrogate.mean(xi + step[j]) - surrogate.mean(xi - step[j])) / 2e-5
        torch.testing.assert_close(slope[..., j], moved, rtol=1e-4, atol=1e-6)


def test_errors_of_predictions_are_those_of_the_answer(model):
    obs, prior = sensors(model.problem), model.problem.prior
    xi = prior.standardise(prior.sample((2,), seed=1))
    z = prior.unstandardise(xi)
    rows = torch.from_numpy(obs.matrix.toarray())
    expected = model.forward(z, corrections=1).covariance(rows)
    torch.testing.assert_close(TrajectorySurrogate(model, obs, 1).error(xi).dense(), expected)


@pytest.mark.parametrize("method", ["laplace", pytest.param("nuts", marks=pytest.mark.slow)])
def test_parameters_are_inferred(model, method):
    problem = model.problem
    z, obs = problem.prior.sample(seed=3), sensors(problem)
    y = obs.simulate(problem.solve(z), seed=0)
    posterior = model.infer(y, obs, method=method, n_samples=200, n_chains=2)
    assert (((posterior.mean - z) / posterior.std).abs() < 4).all()
    spread = problem.prior.sample((500,), seed=0).std(0)
    assert (posterior.std < spread).any()
