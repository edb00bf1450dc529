"""The gradient of the finite element posterior by the adjoint method, against differences."""

import pytest
import torch
from checks import UNLIKE_PROBLEMS

import pddlvm
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from problems import pinn, poisson


def posterior(problem, noise=0.05):
    n = problem.n_dofs
    seen = list(range(0, n, max(1, n // 7)))
    obs = pddlvm.LinearObservation(problem, pddlvm.mask_matrix(problem, seen), noise)
    y = obs.simulate(problem.solve(problem.prior.sample(seed=5)), seed=6)
    return FiniteElementPosterior(obs, y)


@pytest.mark.parametrize("make", UNLIKE_PROBLEMS)
def test_the_gradient_is_that_of_the_density(make):
    density = posterior(make())
    xi = density.prior.standardise(density.prior.sample((2,), seed=0))
    value, gradient = density.log_prob_and_gradient(xi)
    torch.testing.assert_close(value, density.log_prob(xi))
    h = 1e-5
    for j in range(xi.shape[1]):
        step = torch.zeros_like(xi)
        step[:, j] = h
        difference = (density.log_prob(xi + step) - density.log_prob(xi - step)) / (2 * h)
        # The solver stops at 1e-10: differences are good to some 1e-5 of the largest entry.
        scale = gradient.abs().max()
        assert ((gradient[:, j] - difference).abs() < 2e-5 * scale).all()


def test_missing_values_do_not_count():
    problem = poisson.make(6, n_terms=3)
    obs = pddlvm.PointObservation(problem, [[0.5, 0.5], [0.2, 0.3]], 0.05)
    one = pddlvm.PointObservation(problem, [[0.5, 0.5]], 0.05)
    xi = torch.zeros(1, 3, dtype=torch.float64)
    both = FiniteElementPosterior(obs, torch.tensor([0.4, torch.nan], dtype=torch.float64))
    alone = FiniteElementPosterior(one, torch.tensor([0.4], dtype=torch.float64))
    for found, expected in zip(
        both.log_prob_and_gradient(xi), alone.log_prob_and_gradient(xi), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_it_needs_finite_elements():
    problem = pinn.make_heat(grid=(6, 5))
    obs = pddlvm.PointObservation(problem, [[1.0, 0.5]], 0.1)
    with pytest.raises(pddlvm.ProblemError, match="finite element"):
        FiniteElementPosterior(obs, torch.zeros(1))


def test_uniform_priors_have_no_slope():
    problem = poisson.make_missing_middle(20)
    density = posterior(problem)
    xi = problem.prior.standardise(problem.prior.sample((2,), seed=0))
    value, gradient = density.log_prob_and_gradient(xi)
    h = 1e-5
    step = torch.zeros_like(xi)
    step[:, 0] = h
    difference = (density.log_prob(xi + step) - density.log_prob(xi - step)) / (2 * h)
    torch.testing.assert_close(value, density.log_prob(xi))
    torch.testing.assert_close(gradient[:, 0], difference, rtol=1e-4, atol=1e-4)
