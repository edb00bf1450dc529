"""The public benchmark: its forward model, likelihood and prior match the published numbers."""

import json
import math
from pathlib import Path

import pytest
import torch

import pddlvm
from problems import bayesian_poisson

TESTS = json.loads((Path(__file__).parent / "data" / "bayesian_poisson_tests.json").read_text())


@pytest.fixture(scope="module")
def problem():
    return bayesian_poisson.make()


@pytest.fixture(scope="module")
def solved(problem):
    theta = torch.tensor([t["theta"] for t in TESTS["tests"]], dtype=torch.float64)
    return theta, problem.solve(theta)


def test_the_forward_model_matches_the_published_values(problem, solved):
    data = bayesian_poisson.read_data(problem)
    published = torch.tensor([t["values"] for t in TESTS["tests"]], dtype=torch.float64)
    found = data.observation.apply(solved[1])
    assert ((found - published).abs() / published.abs().amax(1, keepdim=True)).max() < 1e-8


def test_the_likelihood_matches_up_to_its_constant(problem, solved):
    data = bayesian_poisson.read_data(problem)
    found = data.observation.log_prob(data.y, solved[1])
    constant = -169 * (math.log(0.05) + 0.5 * math.log(2 * math.pi))
    published = torch.tensor([t["log_likelihood"] for t in TESTS["tests"]], dtype=torch.float64)
    torch.testing.assert_close(found - constant, published, rtol=1e-8, atol=1e-8)


def test_the_prior_is_that_of_theta(problem, solved):
    theta, _ = solved
    published = torch.tensor([t["log_prior"] for t in TESTS["tests"]], dtype=torch.float64)
    found = problem.prior.log_prob(theta)
    # exp(-x^2/8) dtheta = exp(-x^2/8 + x) dx = e^2 exp(-(x - 4)^2 / 8) dx.
    constant = -64 * (2.0 + math.log(2.0) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(found - constant, published, rtol=1e-8, atol=1e-8)


def test_the_mesh_must_fit_the_blocks():
    with pytest.raises(pddlvm.InputError, match="multiple"):
        bayesian_poisson.make(12)
