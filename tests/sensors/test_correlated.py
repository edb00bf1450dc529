"""Noise that is correlated in time, against its dense covariance."""

import math

import parabolic
import pytest
import torch

import pddlvm
from pddlvm.linalg.low_rank import LowRank

TIMES = [0.1, 0.15, 0.4, 0.5, 1.7]
NAN = math.nan


def noise(n_sensors=2):
    return pddlvm.AR1(0.3, TIMES, n_sensors, correlation_time=0.4)


def misfits(n=6, n_sensors=2):
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(n, 5 * n_sensors, generator=generator, dtype=torch.float64)
    found[1, 2] = NAN
    found[2, [0, 1, 2, 4]] = NAN
    found[3, 1:] = NAN
    found[4, ::2] = NAN
    return found


def dense(covariance, misfit):
    seen = ~misfit.isnan()
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(int(seen.sum()), dtype=torch.float64), covariance[seen][:, seen]
    )
    return normal.log_prob(misfit[seen])


def test_the_covariance_decays_in_time_and_not_between_sensors():
    c = noise().covariance()
    assert c[0, 1] == c[0, 3] == 0
    assert float(c[0, 4]) == pytest.approx(0.09 * math.exp(-0.3 / 0.4))
    torch.testing.assert_close(c.diagonal(), noise().variance())


@pytest.mark.parametrize("n_sensors", [1, 2, 3])
def test_densities_are_those_of_the_dense_covariance(n_sensors):
    own, e = noise(n_sensors), misfits(n_sensors=n_sensors)[:, : 5 * n_sensors]
    e = e[~e.isnan().all(-1)]
    expected = torch.stack([dense(own.covariance(), one) for one in e])
    torch.testing.assert_close(own.log_prob(e), expected)
    torch.testing.assert_close(own.log_prob(e[:, None])[:, 0], expected)


def test_precisions_squares_and_widened_noise_are_those_of_the_dense_covariance():
    own, e = noise(), misfits()
    factor = 0.2 * torch.randn(6, 10, 3, generator=torch.Generator().manual_seed(1)).double()
    error = LowRank.of_factor(factor)
    widened = own.widened(~e.isnan(), error).log_prob(e)
    for i, one in enumerate(e):
        seen = ~one.isnan()
        inverse = torch.linalg.inv(own.covariance()[seen][:, seen])
        found = own.precision(e).dense()[i]
        torch.testing.assert_close(found[seen][:, seen], inverse)
        assert (found[~seen] == 0).all()
        torch.testing.assert_close(own.square(e)[i], one[seen] @ inverse @ one[seen])
        log_det = own.precision(e).log_det[i]
        torch.testing.assert_close(log_det, torch.linalg.slogdet(inverse).logabsdet)
        whole = own.covariance() + error.dense()[i]
        torch.testing.assert_close(widened[i], dense(whole, one))


def test_draws_have_the_covariance():
    draws = noise().sample((40_000,), torch.Generator().manual_seed(0))
    # Of 40,000 draws a covariance has an error of 0.5 %.
    assert (draws.T @ draws / len(draws) - noise().covariance()).abs().max() < 0.025 * 0.09


def test_a_correlation_of_neighbours_is_that_of_its_time():
    times = [0.0, 0.5, 1.0]
    by_step = pddlvm.AR1(0.1, times, 2, correlation=0.6)
    by_time = pddlvm.AR1(0.1, times, 2, correlation_time=-0.5 / math.log(0.6))
    torch.testing.assert_close(by_step.covariance(), by_time.covariance())
    e = torch.tensor([0.1, 0.2, NAN, 0.3, 0.1, NAN], dtype=torch.float64)
    torch.testing.assert_close(by_step.log_prob(e), by_time.log_prob(e))
    white = pddlvm.AR1(0.1, times, 2, correlation=0.0)
    torch.testing.assert_close(white.log_prob(e), pddlvm.Gaussian(0.1, 6).log_prob(e))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": [0.0, 0.0]}, "increase"),
        ({"times": [0.0, NAN]}, "finite"),
        ({"correlation": 0.5, "correlation_time": 1.0}, "one of them"),
        ({}, "one of them"),
        ({"correlation": 1.0}, "below 1"),
        ({"correlation": 0.5}, "give correlation_time"),
        ({"correlation_time": 0.0}, "correlation_time"),
        ({"std": -1.0, "correlation_time": 1.0}, "std of AR1"),
        ({"n_sensors": 0, "correlation_time": 1.0}, "n_sensors"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.AR1(**{"std": 0.1, "times": TIMES} | arguments)


@pytest.fixture(scope="module")
def model():
    made = pddlvm.LatentVariableModel(parabolic.make("heat", n_steps=10), n_shapes=8, n_modes=8)
    pddlvm.train(made, max_steps=40)
    return made


@pytest.mark.parametrize(
    "method",
    ["laplace", *(pytest.param(m, marks=pytest.mark.slow) for m in ("variational", "nuts"))],
)
def test_gaps_are_left_out_of_batches(model, method):
    """A data set with gaps has the posterior of the sensors that it has."""
    problem, points, times = model.problem, [[0.3, 0.4], [0.7, 0.6]], [0.1, 0.2, 0.4]
    own = pddlvm.AR1(0.02, times, 2, correlation_time=0.1)
    sensors = pddlvm.PointObservation(problem, points, own, times=times)
    z = problem.prior.sample((2,), seed=3)
    y = sensors.simulate(problem.solve(z), seed=0)
    y[0, 2:4] = NAN
    y[1, 1::2] = NAN
    found = model.infer(y, sensors, method, n_samples=400)
    fewer = [
        pddlvm.PointObservation(
            problem,
            points,
            pddlvm.AR1(0.02, [0.1, 0.4], 2, correlation_time=0.1),
            times=[0.1, 0.4],
        ),
        pddlvm.PointObservation(
            problem, points[:1], pddlvm.AR1(0.02, times, correlation_time=0.1), times=times
        ),
    ]
    for i, alone in enumerate(fewer):
        expected = model.infer(y[i][~y[i].isnan()], alone, method, n_samples=400)
        # Of draws and stochastic gradients the mean is known to a tenth of a deviation.
        near = 1e-3 if method == "laplace" else 0.35
        assert ((found.mean[i] - expected.mean).abs() < near * expected.std).all()
