"""Rank calibration (Talts et al., 2018) of posteriors behind time series of heat."""

import numpy as np
import pytest

import pddlvm
from problems import heat

pytestmark = pytest.mark.slow

POINTS = [[0.1, 0.5], [0.9, 0.5], [1.5, 0.5], [1.9, 0.2]]


@pytest.mark.parametrize(("n_terms", "seed"), [(8, 54321), (4, 7)])
def test_ranks_of_time_series_are_uniform(n_terms, seed):
    problem = heat.make(10, n_terms=n_terms, n_steps=100 if n_terms == 8 else 50)
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, max_steps=200)
    times = np.linspace(0.1, 2.0, 20)
    sensors = pddlvm.PointObservation(problem, POINTS, 0.01, times=times)
    report = pddlvm.validate_inference(model, sensors, "laplace", n_data=300, seed=seed)
    assert report.p_value > 0.01, report
