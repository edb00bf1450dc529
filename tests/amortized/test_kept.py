"""Amortised densities belong to the model, the limits and the seed that they were made of."""

import pytest
import torch
from linear import linear_problem

import pddlvm


@pytest.fixture(scope="module")
def model():
    found = pddlvm.LatentVariableModel(linear_problem())
    pddlvm.train(found, max_steps=5)
    return found


@pytest.fixture(scope="module")
def sensors(model):
    return pddlvm.PointObservation(model.problem, [0.3, 0.7], 0.01)


def test_a_density_is_kept_while_nothing_changes(model, sensors):
    first = model.amortize(sensors, max_steps=3)
    assert model.amortize(sensors) is first
    assert model.amortize(sensors, max_steps=3) is first


@pytest.mark.parametrize("other", [{"max_steps": 4}, {"max_steps": 3, "seed": 1}])
def test_another_budget_or_seed_trains_another_density(model, sensors, other):
    first = model.amortize(sensors, max_steps=3)
    assert model.amortize(sensors, **other) is not first


def change_weights(model):
    with torch.no_grad():
        next(model.forward_map.parameters()).mul_(1.01)


def change_calibration(model):
    model.calibrate(64, seed=7)


@pytest.mark.parametrize("change", [change_weights, change_calibration])
def test_a_changed_model_makes_a_density_stale(model, sensors, change):
    first = model.amortize(sensors, max_steps=3)
    change(model)
    assert model.amortize(sensors, max_steps=3) is not first
