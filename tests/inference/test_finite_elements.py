"""The finite element model in the place of a surrogate, and its Laplace approximation."""

import pytest
import torch
from checks import UNLIKE_PROBLEMS
from linear import closed_form, linear_problem

import pddlvm
from pddlvm.inference.finite_element_surrogate import FiniteElements
from pddlvm.inference.laplace import laplace


@pytest.mark.parametrize("make", UNLIKE_PROBLEMS)
def test_derivatives_are_those_of_differences(make):
    problem = make()
    seen = problem.free_dofs[:: max(1, len(problem.free_dofs) // 7)].tolist()
    matrix = pddlvm.mask_matrix(problem, seen)
    surrogate = FiniteElements(pddlvm.LinearObservation(problem, matrix, 0.1))
    generator = torch.Generator().manual_seed(0)
    xi = problem.prior.sample_standard((2,), generator=generator)
    data, slope = surrogate.linearise(xi)
    torch.testing.assert_close(data, surrogate.mean(xi))
    h = 1e-4
    for j in range(xi.shape[1]):
        step = torch.zeros_like(xi)
        step[:, j] = h
        difference = (surrogate.mean(xi + step) - surrogate.mean(xi - step)) / (2 * h)
        # Both are differences of second order, and factors are those of the last Newton step.
        error = (slope[..., j] - difference).abs().max()
        assert error < 1e-4 * slope.abs().max()


def test_its_laplace_approximation_is_the_closed_form_of_a_linear_problem():
    problem = linear_problem()
    obs = pddlvm.PointObservation(problem, [0.2, 0.4, 0.6, 0.9], 0.01)
    y = obs.simulate(problem.solve(problem.prior.sample((2,), seed=3)), seed=4)
    found = laplace(FiniteElements(obs), y)
    assert found.converged.all()
    for i in range(2):
        mean, covariance = closed_form(problem, obs, y[i])
        own = found.coordinates.of(i)
        z = problem.prior.unstandardise(own.xi_of(torch.zeros(2).double()))
        # Stopped at a squared Newton decrement of 1e-4; linear, so its last step is exact.
        torch.testing.assert_close(z, mean, rtol=1e-5, atol=1e-6)
        scale = problem.prior.unstandardise(torch.eye(2).double()) - problem.prior.unstandardise(
            torch.zeros(2).double()
        )
        of_z = scale @ own.factor @ own.factor.T @ scale
        torch.testing.assert_close(of_z, covariance, rtol=1e-4, atol=1e-8)
