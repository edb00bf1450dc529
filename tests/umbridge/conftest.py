"""Functions of a small model, and a server of them."""

import pytest
import torch
from serving import serving

import pddlvm
from pddlvm.umbridge.served import served


@pytest.fixture(scope="package")
def functions(linear_model):
    """`forward`, a quantity of two numbers, and `posterior`."""
    problem = linear_model.problem
    observation = pddlvm.PointObservation(problem, [0.3, 0.7], 0.01)
    y = torch.tensor([0.05, 0.04], dtype=torch.float64)
    quantity = pddlvm.Quantity(problem, pddlvm.gradient_matrix(problem, [0.1, 0.9]), "fluxes")
    return served(linear_model, quantities=[quantity], data=(observation, y))


@pytest.fixture(scope="package")
def url(functions):
    with serving(functions) as found:
        yield found
