"""Laplace approximations, against closed forms and against the finite element posterior."""

import math

import pytest
import torch
from linear import closed_form

import pddlvm
from pddlvm.galerkin.surrogate import GalerkinSurrogate
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from pddlvm.inference.laplace import laplace
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from problems import nonlinear_poisson, poisson

MANY = [[0.1 + 0.2 * i, 0.1 + 0.2 * j] for i in range(5) for j in range(5)]
SENSORS = [[0.2, 0.2], [0.5, 0.5], [0.8, 0.3], [0.3, 0.7], [0.6, 0.8]]


@pytest.fixture(scope="module")
def linear(linear_model):
    return linear_model


@pytest.fixture(scope="module")
def poisson_model():
    basis = pddlvm.ResidualEnriched(n_modes=32)
    model = pddlvm.LatentVariableModel(poisson.make(12, n_terms=4), basis=basis)
    pddlvm.train(model, max_steps=60)
    return model


@pytest.mark.parametrize(
    "noise",
    [0.01, torch.linspace(0.005, 0.02, 4).double(), 1e-4 * (torch.eye(4) + 0.5).double()],
)
def test_a_linear_gaussian_problem_has_its_closed_form(linear, noise):
    problem = linear.problem
    obs = pddlvm.PointObservation(problem, [0.2, 0.4, 0.6, 0.9], noise)
    y = obs.simulate(problem.solve(problem.prior.sample(seed=3)), seed=4)
    posterior = linear.infer(y, obs, method="laplace")
    mean, covariance = closed_form(problem, obs, y)
    std = covariance.diagonal().sqrt()
    assert ((posterior.mean - mean).abs() < 0.01 * std).all()
    torch.testing.assert_close(posterior.std, std, rtol=0.01, atol=0)
    assert posterior.diagnostics.verdict == "accept"
    # The density is that of the Gaussian.
    expected = torch.distributions.MultivariateNormal(mean, covariance)
    z = posterior.sample((200,), seed=0)
    torch.testing.assert_close(posterior.log_prob(z), expected.log_prob(z), rtol=0.05, atol=0.05)


class Rough(Surrogate):
    """y = A xi, with an error that is large along one direction of the data."""

    matrix = torch.tensor([[1.0, 0.2], [-0.3, 0.8], [0.5, 0.5]], dtype=torch.float64)
    direction = 0.1 * torch.tensor([[1.0], [0.5], [-0.2]], dtype=torch.float64)

    def mean(self, xi):
        return xi @ self.matrix.T

    predict = mean

    def linearise(self, xi):
        return self.mean(xi), self.matrix.expand(len(xi), 3, 2)

    def error(self, xi):
        return LowRank.of_factor(self.direction.expand(len(xi), 3, 1))


def test_data_are_weighed_by_noise_and_error_of_the_surrogate(linear):
    prior = pddlvm.ParameterSpace({"z": pddlvm.parameters.space.Block(2, pddlvm.Normal())})
    sensors = pddlvm.PointObservation(linear.problem, [0.2, 0.4, 0.6], 0.01)
    y = torch.tensor([[0.4, -0.3, 0.7], [0.1, torch.nan, -0.5]], dtype=torch.float64)
    found = laplace(Rough(prior, sensors), y)
    for i, seen in enumerate(~torch.isnan(y)):
        a = Rough.matrix[seen]
        weight = torch.linalg.inv(
            (Rough.direction @ Rough.direction.T)[seen][:, seen] + 1e-4 * torch.eye(len(a)).double()
        )
        covariance = torch.linalg.inv(a.T @ weight @ a + torch.eye(2).double())
        centre, factor = found.coordinates.centre[i], found.coordinates.factor[i]
        # A search ends within 1 % of a deviation.
        miss = torch.linalg.solve_triangular(
            torch.linalg.cholesky(covariance),
            (centre - covariance @ a.T @ weight @ y[i, seen])[:, None],
            upper=False,
        )
        assert miss.norm() < 0.01
        torch.testing.assert_close(factor @ factor.T, covariance, rtol=1e-6, atol=0)


def test_missing_sensors_are_left_out(linear):
    problem = linear.problem
    all_points = [0.2, 0.4, 0.6, 0.9]
    obs = pddlvm.PointObservation(problem, all_points, 0.01)
    fewer = pddlvm.PointObservation(problem, [0.2, 0.9], 0.01)
    y = obs.simulate(problem.solve(problem.prior.sample(seed=3)), seed=4)
    holes = y.clone()
    holes[[1, 2]] = torch.nan
    found, expected = (
        linear.infer(holes, obs, method="laplace"),
        linear.infer(y[[0, 3]], fewer, method="laplace"),
    )
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.std, expected.std, rtol=1e-4, atol=1e-6)


def test_derivatives_of_the_surrogate_are_those_of_differences(poisson_model):
    problem = poisson_model.problem
    obs = pddlvm.PointObservation(problem, SENSORS, 0.01)
    nonlinear = pddlvm.FunctionObservation(problem, lambda u: obs.apply(u) ** 2, 5, 0.01)
    xi = problem.prior.sample_standard((3,), generator=torch.Generator().manual_seed(0))
    for observation in (obs, nonlinear):
        # One correction is not quite the solution of the reduced problem; three are.
        surrogate = poisson_model.surrogate(observation, corrections=3)
        data, jacobian = surrogate.linearise(xi)
        torch.testing.assert_close(data, surrogate.mean(xi))
        for j in range(xi.shape[1]):
            step = torch.zeros_like(xi)
            step[:, j] = 1e-5
            difference = (surrogate.mean(xi + step) - surrogate.mean(xi - step)) / 2e-5
            scale = jacobian.abs().max()
            # Empirical cubature of the derivative against the full residual: a few in a thousand.
            assert ((jacobian[..., j] - difference).abs() < 2e-2 * scale).all()


def test_the_maximum_is_that_of_the_finite_element_posterior(poisson_model):
    problem = poisson_model.problem
    obs = pddlvm.PointObservation(problem, SENSORS, 0.005)
    z = problem.prior.sample((3,), seed=1)
    y = obs.simulate(problem.solve(z), seed=2)
    posterior = poisson_model.infer(y, obs, method="laplace")
    xi = problem.prior.standardise(posterior.mean)
    for i in range(3):
        density = FiniteElementPosterior(obs, y[i])
        # Newton's step from the maximum of the surrogate, in units of its standard deviation.
        _, gradient = density.log_prob_and_gradient(xi[i : i + 1])
        factor = posterior._density._made.coordinates.factor[i]
        covariance = factor @ factor.T
        step = (covariance @ gradient[0]) / covariance.diagonal().sqrt()
        assert step.abs().max() < 0.1


def test_batches_and_single_data_sets_agree(poisson_model):
    problem = poisson_model.problem
    obs = pddlvm.PointObservation(problem, SENSORS, 0.01)
    y = obs.simulate(problem.solve(problem.prior.sample((2, 2), seed=1)), seed=2)
    together = poisson_model.infer(y, obs, method="laplace")
    assert together.mean.shape == together.std.shape == (2, 2, 4)
    assert together.sample((7,), seed=0).shape == (7, 2, 2, 4)
    assert together.quantiles([0.1, 0.9]).shape == (2, 2, 2, 4)
    assert together.diagnostics.p_value.shape == (2, 2)
    alone = poisson_model.infer(y[1, 0], obs, method="laplace")
    torch.testing.assert_close(alone.mean, together.mean[1, 0], rtol=1e-2, atol=1e-3)


def test_the_solution_is_found_with_its_spread(poisson_model):
    problem = poisson_model.problem
    obs = pddlvm.PointObservation(problem, SENSORS, 0.005)
    z = problem.prior.sample(seed=8)
    u = problem.solve(z)
    posterior = poisson_model.infer(obs.simulate(u, seed=2), obs, method="laplace")
    solution = posterior.solution(400)
    free = torch.from_numpy(problem.free_dofs)
    score = ((solution.mean - u) / solution.std)[free]
    assert score.abs().mean() < 3
    assert solution.samples.shape == (400, problem.n_dofs)
    # Data tell more than the prior.
    prior_spread = problem.solve(problem.prior.sample((50,), seed=0)).std(0)[free].mean()
    assert solution.std[free].mean() < 0.3 * prior_spread


@pytest.mark.parametrize(
    "noise", [0.01, pddlvm.StudentT(0.01, 5), pddlvm.UnknownStd(0.01, 0.5, 5)], ids=repr
)
def test_data_that_contradict_the_prior_are_called_so(poisson_model, noise):
    problem = poisson_model.problem
    obs = pddlvm.PointObservation(problem, SENSORS, noise)
    y = torch.tensor([5.0, -5.0, 5.0, -5.0, 5.0], dtype=torch.float64)
    posterior = poisson_model.infer(y, obs, method="laplace")
    assert "contradict" in posterior.diagnostics.verdict


def test_a_map_that_is_wrong_far_out_does_not_lead_there(poisson_model, monkeypatch):
    obs = pddlvm.PointObservation(poisson_model.problem, [[0.5, 0.5], [0.2, 0.3]], 0.01)
    y = obs.simulate(poisson_model.problem.solve(torch.zeros(4).double()), seed=1)
    expected = poisson_model.infer(y, obs)
    # A map that fits everything at xi = 40, where the corrected one is not even finite.
    far = torch.full((1, 4), 40.0, dtype=torch.float64)
    monkeypatch.setattr(
        GalerkinSurrogate, "uncorrected", lambda self: Misled(self.prior, self.observation)
    )
    monkeypatch.setattr(Misled, "at", far, raising=False)
    posterior = poisson_model.infer(y, obs)
    torch.testing.assert_close(posterior.mean, expected.mean, rtol=0, atol=0.05)


class Misled(Surrogate):
    """Predicts the data at one point only, and steeply."""

    def mean(self, xi):
        return self.linearise(xi)[0]

    predict = mean

    def linearise(self, xi):
        slope = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).double()
        offset = (xi - self.at) @ slope.T
        return offset + 0.3, slope.expand(len(xi), -1, -1)

    def error(self, xi):
        return LowRank.of_factor(xi.new_zeros(len(xi), 2, 0))


@pytest.mark.parametrize(
    "noise", [pddlvm.StudentT(0.01, 25, 4.0), pddlvm.UnknownStd(0.02, 0.5, 25)], ids=repr
)
def test_other_noise(poisson_model, noise):
    problem = poisson_model.problem
    obs = pddlvm.PointObservation(problem, MANY, noise)
    z = problem.prior.sample(seed=1)
    y = obs.simulate(problem.solve(z), seed=2)
    posterior = poisson_model.infer(y, obs, method="laplace")
    assert posterior.diagnostics.converged
    assert ((posterior.mean - z) / posterior.std).abs().max() < 4


def test_heavy_tails_forgive_an_outlier(poisson_model):
    problem = poisson_model.problem
    z = problem.prior.sample(seed=1)
    clean = pddlvm.PointObservation(problem, MANY, 0.005)
    y = clean.apply(problem.solve(z)).clone()
    y[1] += 0.3
    robust = pddlvm.PointObservation(problem, MANY, pddlvm.StudentT(0.005, 25, 3.0))
    gaussian = poisson_model.infer(y, clean, method="laplace").solution(100).mean
    forgiving = poisson_model.infer(y, robust, method="laplace").solution(100).mean
    u = problem.solve(z)
    assert (forgiving - u).norm() < 0.7 * (gaussian - u).norm()


@pytest.mark.slow
def test_a_uniform_prior_keeps_its_support():
    problem = nonlinear_poisson.make_1d(12)
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, max_steps=40)
    obs = pddlvm.PointObservation(problem, [-0.5, 0.0, 0.5], 0.3)
    y = obs.simulate(problem.solve(problem.prior.sample(seed=1)), seed=2)
    posterior = model.infer(y, obs, method="laplace")
    draws = posterior.sample((2000,), seed=0)
    assert problem.prior.contains(draws).all()
    # A value of noise 0.3 says next to nothing about a load in U[1, 2]: the prior's own spread.
    assert float(posterior.std[5]) == pytest.approx(1 / math.sqrt(12), rel=0.25)


def test_an_observation_of_another_problem_is_refused(poisson_model):
    other = poisson.make(8, n_terms=4)
    obs = pddlvm.PointObservation(other, SENSORS, 0.01)
    with pytest.raises(pddlvm.InputError, match="observation is of problem"):
        poisson_model.infer(torch.zeros(5), obs, method="laplace")


def test_an_unknown_method_is_refused(poisson_model):
    obs = pddlvm.PointObservation(poisson_model.problem, SENSORS, 0.01)
    with pytest.raises(pddlvm.InputError, match="method must be"):
        poisson_model.infer(torch.zeros(5), obs, method="magic")
