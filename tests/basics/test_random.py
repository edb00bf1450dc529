"""The package draws from generators and seeds of its own: the user's streams go on as before."""

import random

import numpy as np
import pytest
import torch
from linear import linear_problem

import pddlvm


def streams():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.fixture(scope="module")
def model():
    return pddlvm.LatentVariableModel(linear_problem())


def trained(model, path):
    pddlvm.train(model, max_steps=3)


def saved_and_loaded(model, path):
    model.save(path)
    pddlvm.load(path, model.problem)


def amortized_and_loaded(model, path):
    obs = pddlvm.PointObservation(model.problem, [0.3, 0.7], 0.1)
    model.amortize(obs, max_steps=3).save(path)
    model.load_amortized(path, obs)


def inferred(method):
    def run(model, path):
        obs = pddlvm.PointObservation(model.problem, [0.3, 0.7], 0.1)
        if method == "amortized":
            model.amortize(obs, max_steps=3)
        y = torch.tensor([0.1, 0.1], dtype=torch.float64)
        model.infer(y, obs, method, n_samples=16, n_chains=2).sample((5,), seed=0)

    return pytest.param(run, id=method, marks=[pytest.mark.slow] * (method in ("exact", "nuts")))


def simulated(model, path):
    u = model.problem.solve(model.problem.prior.sample((3,), seed=0))
    noise = pddlvm.StudentT(0.1, 2)
    pddlvm.PointObservation(model.problem, [0.3, 0.7], noise).simulate(u, seed=0)


METHODS = ["laplace", "amortized", "variational", "exact", "nuts"]


@pytest.mark.parametrize(
    "use", [trained, saved_and_loaded, amortized_and_loaded, simulated, *map(inferred, METHODS)]
)
def test_global_streams_are_left_as_they_were(model, use, tmp_path):
    before = streams()
    use(model, tmp_path / "model.pt")
    assert streams() == before
