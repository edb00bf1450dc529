"""Amortised posteriors of time series whose noise is correlated."""

import pytest
import torch

import pddlvm
from pddlvm.amortized.families import Full
from tests.linear import closed_form

POINTS, TIMES = [0.2, 0.5, 0.9], [0.0, 1.0, 3.0]


def sensors(problem, **changes):
    """Three series of a body at rest: all sensors of a time after each other."""
    noise = pddlvm.AR1(0.01, TIMES, n_sensors=len(POINTS), **({"correlation_time": 8.0} | changes))
    return pddlvm.PointObservation(problem, POINTS * len(TIMES), noise)


@pytest.fixture(scope="module")
def amortized(linear_model):
    seen = sensors(linear_model.problem)
    return seen, linear_model.amortize(seen, Full, max_steps=300)


@pytest.mark.slow
def test_the_posterior_knows_the_correlation(linear_model, amortized):
    seen, density = amortized
    problem = linear_model.problem
    y = seen.simulate(problem.solve(problem.prior.sample((6,), seed=3)), seed=4)
    found = density(y)
    expected = [closed_form(problem, seen, one) for one in y]
    mean = torch.stack([mean for mean, _ in expected])
    std = expected[0][1].diagonal().sqrt()
    # Another noise of the same size has other error bars.
    plain = pddlvm.PointObservation(problem, POINTS * len(TIMES), 0.01)
    independent = closed_form(problem, plain, y[0])[1].diagonal().sqrt()
    assert (independent < 0.8 * std).any()
    # Measured of two seeds: 0.18 and 0.04.
    assert ((found.mean - mean) / std).abs().max() < 0.4
    torch.testing.assert_close(found.std / std, torch.ones_like(found.std), rtol=0, atol=0.1)


@pytest.mark.slow
def test_draws_are_those_of_the_closed_form(linear_model, amortized):
    seen, _ = amortized
    problem = linear_model.problem
    y = seen.simulate(problem.solve(problem.prior.sample(seed=5)), seed=6)
    posterior = linear_model.infer(y, seen, "amortized")
    z = posterior.sample((2000,), seed=0)
    mean, covariance = closed_form(problem, seen, y)
    std = covariance.diagonal().sqrt()
    # Three standard errors of resampled draws are a tenth of a standard deviation.
    assert ((z.mean(0) - mean) / std).abs().max() < 0.15
    torch.testing.assert_close(z.std(0) / std, torch.ones(2).double(), rtol=0, atol=0.1)


def test_a_gap_is_refused_with_what_to_do(linear_model, amortized):
    seen, _ = amortized
    y = torch.full((seen.n,), 0.1, dtype=torch.float64)
    y[4] = torch.nan
    message = "missing values .* 'laplace', 'variational', 'nuts' and 'exact' leave missing values"
    with pytest.raises(pddlvm.InputError, match=message):
        linear_model.infer(y, seen, "amortized")
    assert torch.isfinite(linear_model.infer(y, seen, "laplace").mean).all()


def test_a_density_of_another_correlation_is_refused(linear_model, amortized, tmp_path):
    amortized[1].save(tmp_path / "density.pt")
    linear_model.load_amortized(tmp_path / "density.pt", sensors(linear_model.problem))
    other = sensors(linear_model.problem, correlation_time=3.0)
    with pytest.raises(pddlvm.RunFileError):
        linear_model.load_amortized(tmp_path / "density.pt", other)
