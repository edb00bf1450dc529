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


@pytest.fixture(scope="module", params=["heat", pytest.param("boundary", marks=pytest.mark.slow)])
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


def test_a_posterior_has_files_and_trajectories(model, tmp_path):
    problem = model.problem
    y = sensors(problem).simulate(problem.solve(problem.prior.sample(seed=3)), seed=0)
    posterior = model.infer(y, sensors(problem))
    posterior.to_netcdf(tmp_path / "posterior.nc", n_samples=16)
    assert posterior.solution(4).mean.shape == problem.solution_shape
    assert posterior.predictive(posterior.sample((3,), seed=0)).shape == (3, 18)


@pytest.mark.slow
def test_densities_and_populations_are_trained(model):
    problem = model.problem
    y = sensors(problem).simulate(problem.solve(problem.prior.sample((10,), seed=3)), seed=0)
    obs = sensors(problem)
    model.amortize(obs, max_steps=4)
    assert model.infer(y, obs, "amortized").mean.shape == (10, problem.n_parameters)
    population = pddlvm.learn_population(model, obs, y, max_steps=1)
    assert population.sample(2).u.shape == (2, *problem.solution_shape)


def test_functions_of_trajectories_are_refused_and_rows_are_told_of_times(model):
    problem = model.problem
    with pytest.raises(pddlvm.InputError, match=r"linear in u so far: take PointObservation"):
        pddlvm.FunctionObservation(problem, torch.square, problem.n_dofs, 0.1)
    rows = pddlvm.average_matrix(problem, [lambda x: x[:, 0] < 0.5])
    with pytest.raises(pddlvm.InputError, match=r"problem\.seen_at\(rows, times\)"):
        pddlvm.LinearObservation(problem, rows, 0.1)
    half = pddlvm.LinearObservation(problem, problem.seen_at(rows, [0.1, 0.4]), 0.1)
    u = problem.solve(problem.prior.sample(seed=0))
    found = half.apply(u)
    torch.testing.assert_close(found[-1], torch.from_numpy(rows.toarray())[0] @ u[-1])


def test_quantities_of_trajectories_are_applied(model):
    problem = model.problem
    u = problem.solve(problem.prior.sample((2,), seed=0))
    quantity = pddlvm.Quantity(problem, sensors(problem))
    torch.testing.assert_close(quantity(u), sensors(problem).apply(u))
    found = model.forward(problem.prior.sample((2,), seed=0), corrections=2)
    torch.testing.assert_close(found.values(quantity.matrix), quantity(found.mean))
    of_both = found.of(quantity)
    torch.testing.assert_close(of_both.mean, quantity(found.mean))
    assert of_both.bound is found.error_bound is found.error_interval is None


def test_quantities_of_others_are_refused(model):
    problem = model.problem
    other = pddlvm.Quantity(poisson.make(4, 2), torch.ones(25, dtype=torch.float64))
    z = problem.prior.sample(seed=0)
    with pytest.raises(pddlvm.InputError, match="is of problem"):
        model.forward(z).of(other)
    own = pddlvm.Quantity(problem, sensors(problem))
    with pytest.raises(pddlvm.InputError, match="reads all steps"):
        model.forward(z, times=[0.1]).of(own)


@pytest.mark.slow
def test_error_bars_of_quantities_of_trajectories(model):
    problem = model.problem
    z = problem.prior.sample((150,), seed=9)
    u = problem.solve(z)
    free = torch.from_numpy(problem.steady.free_dofs)
    asked = {
        0: lambda u: u[:, -1, free].amax(-1, keepdim=True),
        1: lambda u, z: u[:, -1].square().mean(-1, keepdim=True) * z[:, :1].exp(),
        2: sensors(problem),
    }
    for corrections, functional in asked.items():
        quantity = pddlvm.Quantity(problem, functional)
        found = model.forward(z, corrections=corrections).of(quantity)
        lower, upper = found.interval(0.9)
        inside = (lower <= quantity(u, z)) & (quantity(u, z) <= upper)
        # Of 150 draws, three standard deviations.
        assert abs(float(inside.double().mean()) - 0.9) < 0.11, corrections
        assert found.sample((2,), seed=0).shape == (2, 150, quantity.n)
        assert found.bound is None
