"""Sobol's indices of a linear problem have a closed form."""

import pytest
import torch

import pddlvm


def test_indices_of_a_linear_problem(linear_model):
    problem = linear_model.problem
    rows = pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 0.5, lambda x: x[:, 0] < 0.5])
    quantity = pddlvm.Quantity(problem, rows)
    found = pddlvm.sobol_indices(linear_model, quantity, level=0.99)
    at = problem.prior.unstandardise(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    values = quantity(problem.solve(at))
    squares = (values[1:] - values[0]).T.square()
    shares = squares / squares.sum(1, keepdim=True)
    for index, (low, high) in (
        (found.first, found.first_interval),
        (found.total, found.total_interval),
    ):
        torch.testing.assert_close(index, shares, rtol=0, atol=0.02)
        assert ((low <= shares) & (shares <= high)).all()
    assert found.names == ("a", "b")
    assert "0.1" in str(found) and str(found).count("\n") == 5


def test_a_quantity_of_one_number_and_uniform_parameters(poisson_2d):
    model = pddlvm.LatentVariableModel(poisson_2d, basis=pddlvm.EnergyModes(6))
    quantity = pddlvm.Quantity(poisson_2d, torch.ones(poisson_2d.n_dofs))
    found = pddlvm.sobol_indices(model, quantity, 64)
    assert found.first.shape == found.total.shape == (1, poisson_2d.n_parameters)


def test_what_is_wrong_is_said(linear_model, poisson_1d):
    quantity = pddlvm.Quantity(linear_model.problem, torch.ones(linear_model.problem.n_dofs))
    with pytest.raises(pddlvm.InputError, match="power of two"):
        pddlvm.sobol_indices(linear_model, quantity, 1000)
    with pytest.raises(pddlvm.InputError, match="level"):
        pddlvm.sobol_indices(linear_model, quantity, 64, level=95)
    end = pddlvm.Quantity(linear_model.problem, torch.eye(1, linear_model.problem.n_dofs))
    with pytest.raises(pddlvm.InputError, match="nothing to explain"):
        pddlvm.sobol_indices(linear_model, end, 64)
    other = pddlvm.Quantity(poisson_1d, torch.ones(poisson_1d.n_dofs))
    with pytest.raises(pddlvm.InputError, match="poisson-1d"):
        pddlvm.sobol_indices(linear_model, other)
