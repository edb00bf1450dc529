"""Polynomials of the parameters: exact for polynomials, and sparse where solutions are."""

import pytest
import torch

import pddlvm
from pddlvm.parameters.space import Block
from pddlvm.trajectory.polynomials import Products, draws_of_fit, fit_polynomial

PRIOR = pddlvm.ParameterSpace(
    {"k": Block(4, pddlvm.Normal(1.0, 0.5)), "load": Block(2, pddlvm.Uniform(1.0, 3.0))}
)


def draws(n, seed=0):
    z = PRIOR.sample((n,), seed=seed)
    return z, PRIOR.standardise(z)


def linear_in_loads(xi):
    """Smooth of the first coordinate, less so of the others; linear in the last two."""
    k, load = (0.5 * xi[:, 0] + 0.1 * xi[:, 1]).exp(), xi[:, 4:]
    return torch.stack([k, k * load[:, 0], k + load[:, 1], xi[:, 2]], dim=1)


def test_products_are_those_of_the_polynomials_of_each_coordinate():
    columns = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    degrees = torch.tensor([[0, 0, 0], [0, 2, 0], [1, 0, 0], [1, 2, 0], [1, 0, 0], [1, 2, 1]])
    degrees = degrees[[0, 1, 2, 3, 5]]
    xi = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1)).double()[:, 0]
    powers = torch.stack([torch.ones_like(xi), xi, xi**2], dim=2)
    each = torch.einsum("bil,ilk->bik", powers, columns)
    one = torch.ones(4, dtype=torch.float64)
    expected = [one, each[:, 1, 2], each[:, 0, 1], each[:, 0, 1] * each[:, 1, 2]]
    expected.append(expected[-1] * each[:, 2, 1])
    torch.testing.assert_close(Products(degrees, columns)(xi), torch.stack(expected, dim=1))


def test_products_lack_nothing_and_are_in_order():
    columns = torch.ones(2, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="lack some"):
        Products(torch.tensor([[0, 0], [0, 1], [1, 1]]), columns)
    with pytest.raises(ValueError, match="not in order"):
        Products(torch.tensor([[1, 0], [0, 0]]), columns)


def test_a_polynomial_is_found():
    z, xi = draws(1024)

    def cubic(xi):
        return torch.stack([xi[:, 0] ** 3 - xi[:, 1], 1 + xi[:, 4] * xi[:, 2] ** 2], dim=1)

    found = fit_polynomial(PRIOR, z, cubic(xi))
    fresh = draws(100, seed=1)[1]
    torch.testing.assert_close(found(fresh), cubic(fresh), rtol=1e-6, atol=1e-6)


def test_it_has_more_products_where_the_solution_bends():
    z = draws_of_fit(PRIOR, 300, seed=0)
    found = fit_polynomial(PRIOR, z, linear_in_loads(PRIOR.standardise(z)))
    assert len(found.degrees) <= 300
    of = found.degrees.sum(1).bincount().tolist()
    # Of six coordinates there are 462 of degree five and less: most of degree four, 126, are left.
    assert of[5] > 10
    assert of[4] < 126
    highest = found.degrees[found.degrees.sum(1) == 5].amax(0).tolist()
    assert highest[0] == 5
    fresh = draws(500, seed=1)[1]
    true = linear_in_loads(fresh)
    assert (found(fresh) - true).norm() < 2e-3 * true.norm()


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-33, 2.0**100])
def test_units_of_the_solution_choose_no_products(unit):
    z = draws_of_fit(PRIOR, 300, seed=0)
    a = linear_in_loads(PRIOR.standardise(z))
    expected, found = fit_polynomial(PRIOR, z, a), fit_polynomial(PRIOR, z, unit * a)
    assert torch.equal(found.degrees, expected.degrees)
    assert torch.equal(found.weights, unit * expected.weights)


def test_nothing_is_a_polynomial_too():
    z, xi = draws(100)
    assert not fit_polynomial(PRIOR, z, torch.zeros_like(linear_in_loads(xi))).weights.any()


def test_few_draws_make_few_products():
    z, xi = draws(40)
    found = fit_polynomial(PRIOR, z, linear_in_loads(xi), per_term=4)
    assert len(found.degrees) <= 10


def test_half_of_the_draws_are_spread_wider_within_the_prior():
    z = draws_of_fit(PRIOR, 300, seed=0)
    assert len(z) == 2400
    assert PRIOR.contains(z).all()
    std = PRIOR.standardise(z)[:, :4].unflatten(0, (-1, 2)).std(0).mean(1)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.2]).double(), rtol=0, atol=0.05)


def test_they_are_differentiable():
    z, xi = draws(1024)
    found = fit_polynomial(PRIOR, z, linear_in_loads(xi))
    at = draws(3, seed=2)[1].requires_grad_()
    assert torch.autograd.gradcheck(found, (at,))
    assert torch.isfinite(
        torch.autograd.functional.jacobian(found, torch.zeros(1, 6).double())
    ).all()
