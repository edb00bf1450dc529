"""Inference in strong form: derivatives of the surrogate, and the calibration of a tracer."""

import pytest
import torch
import tracer
from scipy.stats import kstest

import pddlvm
from pddlvm.inference.laplace import laplace
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.validation.inference import validate_inference
from problems import pinn


@pytest.fixture(scope="module")
def rough():
    """A map with large weights that cancel, as least squares gives them."""
    problem = tracer.make(grid=(9, 7), nodes=(10, 6))
    model = pddlvm.LatentVariableModel(problem, n_functions=8, seed=0)
    generator = torch.Generator().manual_seed(0)
    weights = model.forward_map.weights
    random = torch.randn(len(weights) // 2, weights.shape[1], generator=generator)
    weights[: len(random)] = 1e3 * random
    model.forward_map.is_fitted.fill_(True)
    return model


def test_derivatives_are_those_of_the_prediction(rough):
    surrogate = rough.surrogate(tracer.sensors(rough.problem))
    xi = rough.problem.prior.sample_standard((3,), generator=torch.Generator().manual_seed(1))
    data, slope = surrogate.linearise(xi)
    torch.testing.assert_close(data, surrogate.mean(xi), rtol=0, atol=0)
    step = 1e-5
    for k, along in enumerate(torch.eye(xi.shape[1], dtype=xi.dtype)):
        there = surrogate.mean(xi + step * along) - surrogate.mean(xi - step * along)
        # Central differences in float64: their error is step^2, or rounding over step.
        torch.testing.assert_close(slope[..., k], there / (2 * step), rtol=1e-5, atol=1e-6 * 1e3)


def test_the_error_at_sensors_is_that_of_draws(rough):
    rough.forward_map.is_fitted.fill_(False)
    surrogate = rough.surrogate(tracer.sensors(rough.problem))
    xi = torch.zeros(1, 4, dtype=torch.float64)
    draws = rough.forward(rough.problem.prior.unstandardise(xi)).sample((20000,), seed=0)
    expected = torch.cov(surrogate.observation.apply(draws)[:, 0].T)
    found = surrogate.error(xi).dense()[0]
    rough.forward_map.is_fitted.fill_(True)
    # Of 20000 draws: a standard error of sqrt(2 / 20000) = 1 % of the largest variance.
    assert (found - expected).abs().max() < 0.05 * expected.diagonal().max()


class Wrong(Surrogate):
    """Two values of one parameter, with derivatives of the wrong sign."""

    def mean(self, xi):
        return xi.expand(-1, 2)

    predict = mean

    def linearise(self, xi):
        return self.mean(xi), -torch.ones(len(xi), 2, 1, dtype=xi.dtype)

    def error(self, xi):
        return LowRank.of_factor(xi.new_zeros(len(xi), 2, 0))


def test_a_search_that_is_stuck_has_not_converged(poisson_1d):
    surrogate = Wrong(poisson_1d.prior, pddlvm.PointObservation(poisson_1d, [-0.3, 0.3], 0.01))
    assert not laplace(surrogate, torch.ones(1, 2, dtype=torch.float64)).converged.any()


@pytest.mark.slow
def test_a_tracer_is_inferred_with_the_right_confidence():
    problem = tracer.make()
    model, obs = pddlvm.LatentVariableModel(problem, seed=0), tracer.sensors(problem)
    pddlvm.train(model, max_steps=300)
    report = validate_inference(model, obs, "laplace", n_data=200)
    # The rms of 800 standard normal numbers is 1 +- 0.025; the Gaussian is an approximation.
    assert report.error == pytest.approx(1, abs=0.1)
    assert report.p_value > 0.01
    z = problem.prior.sample((200,), seed=3)
    found = model.infer(obs.simulate(problem.solve(z), seed=4), obs, "laplace").diagnostics
    assert found.converged.all()
    # 1 % of right data have p < 0.01: more than 6 of 200 with a probability of 0.4 %.
    assert int((found.p_value < 0.01).sum()) <= 6
    assert kstest(found.p_value.numpy(), "uniform").pvalue > 1e-3


# A stretch that reads a parameter moves the nodes.
@pytest.mark.parametrize("make", [pinn.make_heat, pinn.make_burgers])
def test_linear_sensors_read_the_learnt_functions_as_any_sensors_do(make):
    problem = make((12, 9))
    model = pddlvm.LatentVariableModel(problem, n_functions=8)
    linear = pddlvm.PointObservation(problem, problem.grid_points[5::17] * 0.99, 0.01)
    h = torch.from_numpy(linear.matrix.toarray())
    general = pddlvm.FunctionObservation(problem, lambda u: u @ h.T, linear.n, 0.01)
    xi = problem.prior.sample_standard((3,), generator=torch.Generator().manual_seed(0)).double()
    one, other = (model.surrogate(o).predict(xi) for o in (linear, general))
    # Rounding of sums of a few hundred numbers of size one.
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
