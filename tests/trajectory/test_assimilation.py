"""Data that arrive one time after the other."""

import numpy as np
import parabolic
import pytest
import torch

import pddlvm
from problems import poisson

POINTS = [[0.3, 0.4], [0.7, 0.6], [0.5, 0.2]]
TIMES = np.linspace(0.05, parabolic.END, 8)


@pytest.fixture(scope="module")
def model():
    made = pddlvm.LatentVariableModel(parabolic.make("heat"), n_shapes=12, n_modes=16)
    pddlvm.train(made, max_steps=40)
    return made


@pytest.fixture(scope="module")
def sensors(model):
    return pddlvm.PointObservation(model.problem, POINTS, 0.01, times=TIMES)


@pytest.fixture(scope="module")
def data(model, sensors):
    z = model.problem.prior.sample((4,), seed=2)
    return z, sensors.simulate(model.problem.solve(z), seed=1)


def stream_of(y):
    return zip(TIMES.tolist(), y.unflatten(-1, (len(TIMES), -1)).unbind(-2), strict=True)


@pytest.mark.slow
def test_each_posterior_is_that_of_all_data_so_far(model, sensors, data):
    y = data[1]
    found = list(model.assimilate(stream_of(y), sensors))
    assert len(found) == len(TIMES)
    # After the first arrival the answers are weighted draws, worth 200 independent ones or more.
    for k, apart, wider in ((0, 0.25, 0.2), (3, 0.05, 0.02), (7, 0.05, 0.02)):
        seen = y.clone()
        seen[:, 3 * (k + 1) :] = torch.nan
        batch = model.infer(seen, sensors)
        assert ((found[k].mean - batch.mean).abs() < apart * batch.std).all()
        torch.testing.assert_close(found[k].std, batch.std, rtol=wider, atol=0)
        assert torch.equal(found[k].y.isnan(), seen.isnan())
    assert (found[-1].std < found[0].std).double().mean() > 0.9
    assert found[-1].diagnostics.counts == {"accept": 4}


def test_an_answer_comes_before_the_next_time_is_asked_for(model, sensors, data):
    asked = []

    def stream():
        for time, values in stream_of(data[1][0]):
            asked.append(time)
            yield time, values

    answers = model.assimilate(stream(), sensors)
    assert asked == []
    next(answers)
    assert len(asked) == 1


def test_searches_begin_at_the_last_modes(model, sensors, data, monkeypatch):
    from pddlvm.inference import search

    def never(*_):
        raise AssertionError("anew")

    monkeypatch.setattr(search, "starts", never)
    first, *_, last = model.assimilate(stream_of(data[1][0]), sensors)
    assert last.diagnostics.iterations <= first.diagnostics.iterations + 4


def test_times_and_values_may_be_missing(model, sensors, data):
    y = data[1][0].clone().reshape(len(TIMES), 3)
    y[2, 1] = torch.nan
    stream = [(TIMES[k], y[k]) for k in (0, 2, 5)]
    *_, last = model.assimilate(iter(stream), sensors)
    seen = torch.full_like(y, torch.nan)
    seen[[0, 2, 5]] = y[[0, 2, 5]]
    batch = model.infer(seen.flatten(), sensors)
    assert ((last.mean - batch.mean).abs() < 0.05 * batch.std).all()


def test_before_anything_was_measured_it_is_the_prior(model, sensors, data):
    y = data[1].unflatten(-1, (len(TIMES), 3))[:2]
    nothing = torch.full((2, 3), torch.nan, dtype=torch.float64)
    late = torch.stack([nothing[0], y[1, 1]])
    stream = [(TIMES[0], nothing), (TIMES[1], late), (TIMES[2], y[:, 2])]
    first, second, third = model.assimilate(stream, sensors)
    prior = model.problem.prior
    xi = prior.standardise(first.mean)
    assert (xi.abs() < 0.05).all()
    scale = prior.sample((20000,), seed=0).std(0)
    assert (first.std / scale - 1).abs().max() < 0.1
    torch.testing.assert_close(second.mean[0], first.mean[0], rtol=1e-3, atol=1e-3)
    assert (second.std[1] < 0.9 * first.std[1]).any() and (third.std < 0.95 * first.std).any()
    with pytest.raises(pddlvm.InputError, match="infinite"):
        list(model.assimilate([(TIMES[0], torch.full_like(nothing, torch.inf))], sensors))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([(TIMES[3], 0.1), (TIMES[1], 0.1)], "after t = .*in the order of time"),
        ([(TIMES[3], 0.1), (TIMES[3], 0.1)], "has come already"),
        ([(0.123, 0.1)], r"t = 0\.123 is none of the 8 times.*nearest is 0\.1"),
        ([0.1], "pair of a time and its values"),
        ([("soon", 0.1)], "pair of a time and its values"),
    ],
)
def test_a_wrong_stream_is_refused(model, sensors, wrong, message):
    stream = [
        (one[0], torch.full((3,), one[1])) if isinstance(one, tuple) else one for one in wrong
    ]
    with pytest.raises(pddlvm.InputError, match=message):
        list(model.assimilate(stream, sensors))


def test_wrong_values_and_sensors_are_refused(model, sensors):
    with pytest.raises(pddlvm.InputError, match="3 values on its last axis"):
        list(model.assimilate([(TIMES[0], torch.zeros(2))], sensors))
    with pytest.raises(pddlvm.InputError, match="batch of shape"):
        list(model.assimilate([(TIMES[0], torch.zeros(2, 3)), (TIMES[1], torch.zeros(3))], sensors))
    steady = pddlvm.PointObservation(poisson.make(4, 2), POINTS, 0.01)
    with pytest.raises(pddlvm.InputError, match=r"sensors that read at times"):
        model.assimilate([], steady)
    twice = pddlvm.PointObservation(model.problem, POINTS, 0.01, times=[0.2, 0.1])
    with pytest.raises(pddlvm.InputError, match="must increase"):
        model.assimilate([], twice)


def test_derivatives_are_taken_whatever_the_caller_does_without(model, sensors, data):
    with torch.inference_mode():
        assert len(list(model.assimilate(stream_of(data[1][0]), sensors))) == len(TIMES)
