"""Quantities are read off solutions: rows in any form, and differentiable functions of torch."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import pddlvm
from problems import heat, nonlinear_poisson, poisson


def test_rows_may_be_given_in_any_form(poisson_2d):
    rows = np.random.default_rng(0).standard_normal((2, poisson_2d.n_dofs))
    u = torch.randn(3, poisson_2d.n_dofs, dtype=torch.float64)
    observation = pddlvm.LinearObservation(poisson_2d, rows, 1.0)
    for given in (rows, sp.csr_matrix(rows), torch.from_numpy(rows), observation):
        quantity = pddlvm.Quantity(poisson_2d, given, "some")
        assert quantity.n == 2 and quantity.name == "some" and quantity.is_linear
        assert torch.allclose(quantity(u), u @ torch.from_numpy(rows).T)
    assert pddlvm.Quantity(poisson_2d, rows[0])(u).shape == (3, 1)
    assert quantity(u.float()).dtype == torch.float32
    assert (quantity.matrix != sp.csr_matrix(rows)).nnz == 0
    assert repr(quantity) == f"Quantity('some', 2 of {poisson_2d.name!r})"


def test_what_is_wrong_is_named(poisson_2d):
    n = poisson_2d.n_dofs
    for rows, message in [
        (np.ones(n - 1), f"{n} columns"),
        (np.full(n, np.nan), "not finite"),
        (np.zeros((0, n)), "'some' has no row"),
        (np.ones(n) * 1j, "matrix"),
    ]:
        with pytest.raises(pddlvm.InputError, match=message):
            pddlvm.Quantity(poisson_2d, rows, "some")
    other = nonlinear_poisson.make_1d(8)
    observation = pddlvm.LinearObservation(other, np.ones(other.n_dofs), 1.0)
    with pytest.raises(pddlvm.InputError, match="observation is of problem"):
        pddlvm.Quantity(poisson_2d, observation, "some")
    with pytest.raises(pddlvm.InputError, match="name"):
        pddlvm.Quantity(poisson_2d, np.ones(n), 3)
    with pytest.raises(pddlvm.InputError, match="problem"):
        pddlvm.Quantity("poisson", np.ones(n))
    with pytest.raises(pddlvm.InputError, match="'some' has 1 rows, and n is 2"):
        pddlvm.Quantity(poisson_2d, np.ones(n), "some", n=2)
    with pytest.raises(pddlvm.InputError, match="n must be an integer"):
        pddlvm.Quantity(poisson_2d, np.ones(n), "some", n=0)


def extremes(u):
    return torch.stack([u.amin(-1), u.amax(-1)], -1)


def test_functions_are_called_with_a_batch_whatever_the_axes_of_u(poisson_2d):
    u = torch.randn(2, 3, poisson_2d.n_dofs, dtype=torch.float64)
    quantity = pddlvm.Quantity(poisson_2d, extremes, n=2)
    assert quantity.n == 2 and not quantity.is_linear and not quantity.reads_z
    assert torch.equal(quantity(u), extremes(u))
    assert torch.equal(quantity(u[0, 0]), extremes(u[0, 0]))
    assert quantity(u.float()).dtype == torch.float32
    assert quantity(u[:0]).shape == (0, 3, 2)
    assert pddlvm.Quantity(poisson_2d, lambda u, scale=2.0: scale * u[:, :3]).n == 3
    with pytest.raises(pddlvm.InputError, match="is a function, and no matrix"):
        _ = quantity.matrix


def test_functions_of_u_and_z_broadcast_both(poisson_2d):
    quantity = pddlvm.Quantity(poisson_2d, lambda u, z: u[:, :1] * z[:, 1:2], "scaled")
    u = torch.randn(3, poisson_2d.n_dofs, dtype=torch.float64)
    z = poisson_2d.prior.sample((2, 1), seed=0)
    assert quantity.reads_z
    assert torch.equal(quantity(u, z), u[:, :1] * z[..., 1:2])
    with pytest.raises(pddlvm.InputError, match=r"call it quantity\(u, z\)"):
        quantity(u)
    with pytest.raises(pddlvm.InputError, match="parameters"):
        quantity(u, z[..., 1:])
    with pytest.raises(pddlvm.InputError, match="broadcast"):
        quantity(u, z.expand(2, 2, -1))


def test_a_quantity_is_differentiable(poisson_2d):
    u = torch.randn(2, poisson_2d.n_dofs, dtype=torch.float64, requires_grad=True)
    z = poisson_2d.prior.sample((2,), seed=0).requires_grad_()
    for functional in (np.ones(poisson_2d.n_dofs), lambda u, z: (u**3).sum(-1, True) * z[:, :1]):
        quantity = pddlvm.Quantity(poisson_2d, functional)
        assert torch.autograd.gradcheck(quantity, (u, z))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda u: u.amax(-1), r"must return \(2, n\).*returns \(2,\); keep the last axis"),
        (lambda u: u.amax(), r"returns \(\)"),
        (lambda u: 3, "returns int"),
        (lambda u: u[:, :0], "must return"),
        (lambda u: u.argmax(-1, keepdim=True).double(), "not differentiable"),
        (lambda u: (u > 1).double(), "not differentiable"),
        (lambda u: u.detach(), "not differentiable"),
        (lambda u: torch.from_numpy(np.sin(u)), "functions of torch"),
        (lambda u: u @ u, "cannot be evaluated"),
        (lambda u: u[:, :1] / 0, "values that are not finite"),
        (lambda u: (0 * u).sum(-1, keepdim=True).sqrt(), "derivatives by u that are not finite"),
        (lambda: 1, "cannot be evaluated"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(poisson_2d, function, message):
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.Quantity(poisson_2d, function, "some")


def test_another_size_than_n_is_said(poisson_2d):
    with pytest.raises(pddlvm.InputError, match=r"must return \(2, 3\).*returns \(2, 2\)"):
        pddlvm.Quantity(poisson_2d, extremes, n=3)


def test_values_that_are_not_finite_are_said_where_they_are(poisson_2d):
    quantity = pddlvm.Quantity(poisson_2d, lambda u: u.sum(-1, keepdim=True).log(), "log")
    with pytest.raises(pddlvm.InputError, match="'log' has values that are not finite"):
        quantity(-torch.ones(poisson_2d.n_dofs).double())
    with pytest.raises(pddlvm.InputError, match="u has values that are not finite"):
        quantity(torch.full((poisson_2d.n_dofs,), torch.nan))
    with pytest.raises(pddlvm.InputError, match="degrees of freedom"):
        quantity(torch.ones(3))


def test_a_function_that_knows_only_solutions_is_tried_with_solutions():
    problem = poisson.make(4, n_terms=2)
    quantity = pddlvm.Quantity(problem, lambda u: (0.1 - u[:, :1]).log(), "log")
    assert torch.isfinite(quantity(problem.solve(problem.prior.sample(seed=0)))).all()


def test_without_gradients_functions_are_still_probed(poisson_2d):
    with torch.no_grad():
        pddlvm.Quantity(poisson_2d, extremes)
    with torch.inference_mode():
        quantity = pddlvm.Quantity(poisson_2d, extremes)
    u = torch.randn(poisson_2d.n_dofs, requires_grad=True)
    quantity(u).sum().backward()
    assert u.grad is not None


def test_functions_of_trajectories_are_given_all_states():
    problem = heat.make(10, n_terms=2, n_steps=10)
    quantity = pddlvm.Quantity(problem, lambda u: u[:, -1].amax(-1, keepdim=True), "last maximum")
    u = torch.randn(2, *problem.solution_shape, dtype=torch.float64)
    assert torch.equal(quantity(u), u[:, -1].amax(-1, keepdim=True))
    with pytest.raises(pddlvm.InputError, match="u must"):
        quantity(u[:, 0])
