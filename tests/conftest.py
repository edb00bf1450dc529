"""Fixtures that several test files share."""

import gc
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings
from linear import linear_problem

import pddlvm
from problems import poisson

# The problems of the tests are tiny: a second thread costs more than it gives.
torch.set_num_threads(1)

# The same examples in each run, on machines that may be slow.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_finish():
    """What was imported and collected stays to the end: no use to look for garbage in it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def few_draws():
    """Trainings of tests end with a rough calibration; who tests error bars calibrates anew."""
    with (
        patch("pddlvm.galerkin.calibration.default_n_samples", return_value=128),
        patch("pddlvm.collocation.calibration.default_n_samples", return_value=32),
        patch("pddlvm.collocation.calibration._N_FINE", 8),
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def small_models(pytestconfig):
    """The fast tests make narrow networks from few draws; a run with slow tests has the defaults.

    At the width of 192 half of a step goes to Muon, and tiny problems need no width.
    """
    if pytestconfig.option.markexpr != "not slow":
        yield
        return
    with (
        patch.dict(pddlvm.NeuralGaussian.__init__.__kwdefaults__, width=64),
        patch("pddlvm.reduced.reduction._N_SNAPSHOTS", 128),
        patch("pddlvm.trajectory.reduction._N_SNAPSHOTS", 256),
        patch("pddlvm.trajectory.reduction._MOST_TERMS", 400),
        patch("pddlvm.galerkin.solved_draws._N_DRAWS", 512),
        patch("pddlvm.collocation.projection._N_DRAWS", 1024),
        patch("pddlvm.latent.quantity_laws._MOST", 256),
    ):
        yield


@pytest.fixture(scope="session")
def linear_model():
    """A trained model of the linear-Gaussian problem; nobody changes it, but for its densities."""
    model = pddlvm.LatentVariableModel(linear_problem())
    pddlvm.train(model, max_steps=150)
    return model


@pytest.fixture(scope="session")
def poisson_1d():
    """Two-point problem with one parameter, its conductivity softplus(z)."""
    return poisson.make_1d()


@pytest.fixture(scope="session")
def poisson_2d():
    """Poisson problem on 8 x 8 x 2 triangles with four parameters of a log-normal field."""
    return poisson.make(8, n_terms=4)


@pytest.fixture
def generator():
    """Seeded generator, made anew for each test: its draws do not depend on which tests ran."""
    return torch.Generator().manual_seed(0)
