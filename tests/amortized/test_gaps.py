"""Amortised posteriors of data with gaps, and of a number of sensors that changes."""

import math

import pytest
import torch
from linear import closed_form, linear_problem

import pddlvm

NAN = math.nan


@pytest.fixture(scope="module")
def model():
    found = pddlvm.LatentVariableModel(linear_problem(), basis=pddlvm.Nodal(), seed=0)
    pddlvm.train(found, max_steps=60, calibrate=False)
    found.calibrate(128)
    return found


def sensors(model, n=6):
    return pddlvm.PointObservation(model.problem, torch.linspace(0.1, 0.9, n), noise_std=0.01)


@pytest.fixture(scope="module")
def amortized(model):
    observation = sensors(model)
    model.amortize(observation, pddlvm.Full, max_steps=1200, gaps=0.7)
    return observation


@pytest.fixture(scope="module")
def quick(model):
    observation = sensors(model)
    model.amortize(observation, pddlvm.Full, max_steps=20, gaps=0.7)
    return observation


@pytest.fixture(scope="module")
def data(model):
    z = model.problem.prior.sample((200,), seed=1)
    y = sensors(model).simulate(model.problem.solve(z), seed=2)
    gone = torch.rand(y.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    gone[:, 0] &= ~gone[:, 1:].all(-1)
    return z, torch.where(gone, NAN, y)


def seen_alone(model, observation, y):
    """Closed-form posterior of the values that are there."""
    seen = ~torch.isnan(y)
    some = pddlvm.PointObservation(model.problem, observation.points[seen.numpy()], noise_std=0.01)
    return closed_form(model.problem, some, y[seen])


@pytest.mark.slow
def test_the_network_answers_as_the_closed_form_does(model, amortized, data):
    _, y = data
    density, errors, ratios = model.amortize(amortized)(y[:50]), [], []
    for i in range(50):
        mean, covariance = seen_alone(model, amortized, y[i])
        std = covariance.diagonal().sqrt()
        errors.append((density.mean[i] - mean) / std)
        ratios.append((density.std[i] / std).log())
    # A network of 1200 steps; a blind one has some standard deviations.
    assert float(torch.stack(errors).square().mean()) < 0.5**2
    assert float(torch.stack(ratios).square().mean()) < 0.3**2


@pytest.mark.slow
def test_draws_are_those_of_the_closed_form(model, amortized, data):
    posterior = model.infer(data[1][:5], amortized, method="amortized")
    draws = posterior.sample((1000,), seed=0)
    for i in range(5):
        mean, covariance = seen_alone(model, amortized, data[1][i])
        std = covariance.diagonal().sqrt()
        # A thousand draws, of which some are equal.
        assert ((draws[:, i].mean(0) - mean).abs() < 0.2 * std).all()
        torch.testing.assert_close(draws[:, i].std(0), std, rtol=0.15, atol=0)


@pytest.mark.slow
def test_ranks_of_data_with_gaps_are_uniform(model, amortized, data):
    z, y = data
    found = model.infer(y, amortized, method="amortized").sample((60,), seed=0)
    share = (found < z).double().mean(0)
    inside = ((share > 0.1) & (share < 0.9)).double().mean(0)
    # Two parameters of 200 data sets: 0.8 to 0.03.
    assert ((inside - 0.8).abs() < 0.1).all()


@pytest.mark.slow
def test_whole_data_stay_as_good(model, amortized):
    y = amortized.simulate(model.problem.solve(model.problem.prior.sample((1,), seed=7)), seed=8)
    posterior = model.infer(y, amortized, method="amortized")
    mean, covariance = closed_form(model.problem, amortized, y[0])
    assert ((posterior.mean[0] - mean).abs() < 0.5 * covariance.diagonal().sqrt()).all()


def test_more_gaps_than_those_of_the_training_are_foreign(model, quick):
    y = quick.simulate(model.problem.solve(model.problem.prior.sample((2,), seed=7)), seed=8)
    y[0, 1:] = NAN
    y[1, 3:] = NAN
    assert model.amortize(quick).is_foreign(y).tolist() == [True, False]


def test_a_density_with_gaps_is_saved(model, quick, data, tmp_path):
    density = model.amortize(quick)
    density.save(tmp_path / "gaps.pt")
    loaded = model.load_amortized(tmp_path / "gaps.pt", sensors(model))
    assert torch.equal(loaded(data[1]).mean, density(data[1]).mean)


def test_data_with_gaps_need_a_density_that_knows_them(model):
    observation = sensors(model, 4)
    y = torch.tensor([0.1, NAN, 0.1, 0.1]).double()
    with pytest.raises(pddlvm.InputError, match=r"model\.amortize\(observation, gaps=0\.5\)"):
        model.infer(y, observation, method="amortized")
    assert observation not in model.amortized, "it was trained before it was refused"
    density = model.amortize(observation, max_steps=10)
    with pytest.raises(pddlvm.InputError, match=r"gaps=0\.5"):
        density(y[None])


@pytest.mark.parametrize("gaps", [-0.1, 1.0, NAN])
def test_a_share_that_is_none_is_refused(model, gaps):
    with pytest.raises(pddlvm.InputError, match="gaps must be from 0 to below 1"):
        model.amortize(sensors(model, 4), max_steps=10, gaps=gaps)


def test_another_share_of_gaps_is_another_training(model):
    observation = sensors(model, 4)
    first = model.amortize(observation, pddlvm.Diagonal, max_steps=5)
    assert model.amortize(observation, max_steps=5, gaps=0.3) is not first
