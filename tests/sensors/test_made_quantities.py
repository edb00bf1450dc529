"""Ready quantities: integrals, fluxes by the residual, compliances and maxima."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from problems import heat, pinn, poisson, stokes


def test_integrals_are_means_times_sizes(poisson_2d):
    patches = [None, lambda x: x[:, 0] < 0.5]
    integrals = pddlvm.integral_matrix(poisson_2d, patches).toarray()
    means = pddlvm.average_matrix(poisson_2d, patches).toarray()
    sizes = integrals.sum(1)
    assert np.allclose(sizes, [1.0, 0.5]) and np.allclose(integrals, sizes[:, None] * means)
    assert np.allclose(pddlvm.integral_matrix(poisson_2d).toarray(), integrals[:1])


def tilted(u, du, x, k):
    return 0.5 * k * (du * du).sum() - 3.0 * u


def bar() -> pddlvm.Problem:
    """-k u'' = 3 on [0, 1], u(0) = 0: 3 flow out at the left end, and u = 3 (x - x^2 / 2) / k."""
    space = fem.Space(fem.interval(8, 0.0, 1.0))
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
    terms = [pddlvm.Energy(space.interior(), tilted)]
    return pddlvm.Problem("bar", space, terms, fields, [pddlvm.Dirichlet("left", 0.0)])


def test_a_flux_is_what_the_loads_ask_for():
    problem = bar()
    flux = pddlvm.Quantity(problem, pddlvm.boundary_flux(problem, "left"), "flux")
    z = problem.prior.sample((2, 3), seed=0)
    u = problem.solve(z)
    # Of the gradient at the wall it would be 3 (1 - h / 2).
    torch.testing.assert_close(flux(u, z), torch.full((2, 3, 1), -3.0).double())
    assert flux.reads_z and flux(u.float(), z).dtype == torch.float32
    at, zs = u[0].clone().requires_grad_(), z[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(flux, (at, zs))


def test_a_compliance_is_the_work_of_the_loads():
    problem = bar()
    work = pddlvm.Quantity(problem, pddlvm.compliance(problem), "compliance")
    z = problem.prior.sample((4,), seed=0)
    u = problem.solve(z)
    # Twice the stored energy, and as much below zero as the minimum of the potential.
    torch.testing.assert_close(work(u, z)[:, 0], -2 * problem.energy(u, z))


def test_a_maximum_is_of_one_field_and_of_all_times():
    cavity = stokes.make_cavity(3)
    u = torch.randn(5, cavity.n_dofs, dtype=torch.float64)
    pressure = pddlvm.Quantity(cavity, pddlvm.maximum(cavity, "p"))
    own = cavity.fields_of_u["p"]
    assert torch.equal(pressure(u)[:, 0], u[:, own].amax(-1))
    moving = heat.make(10, n_terms=2, n_steps=10)
    u = torch.randn(2, *moving.solution_shape, dtype=torch.float64)
    found = pddlvm.Quantity(moving, pddlvm.maximum(moving))(u)
    assert torch.equal(found[:, 0], u.amax((1, 2)))


def test_what_holds_a_field_is_a_force_for_each_component():
    cavity = stokes.make_cavity(3)
    force = pddlvm.Quantity(cavity, pddlvm.boundary_flux(cavity, "bottom"), "drag")
    assert force.n == 2


def test_what_there_is_not_is_said(poisson_2d):
    problem = bar()
    with pytest.raises(pddlvm.InputError, match="held nowhere on 'right'"):
        pddlvm.boundary_flux(problem, "right")
    with pytest.raises(pddlvm.MeshError, match="no boundary 'wall'"):
        pddlvm.boundary_flux(problem, "wall")
    with pytest.raises(pddlvm.ProblemError, match="no field 'p'"):
        pddlvm.maximum(problem, "p")
    with pytest.raises(pddlvm.InputError, match="at least one patch"):
        pddlvm.integral_matrix(problem, [])
    for other in (pinn.make_heat(grid=(9, 9)), heat.make(10, n_terms=2, n_steps=10)):
        with pytest.raises(pddlvm.InputError, match="steady finite element problems"):
            pddlvm.boundary_flux(other, "left")
        with pytest.raises(pddlvm.InputError, match="steady finite element problems"):
            pddlvm.compliance(other)
    for make in (pddlvm.compliance, pddlvm.maximum, pddlvm.integral_matrix):
        with pytest.raises(pddlvm.InputError, match="problem must be a ParametricProblem"):
            make("poisson")


def test_fluxes_of_all_sides_balance_the_source():
    problem = poisson.make(6, n_terms=3)
    flux = pddlvm.boundary_flux(problem, None)
    z = problem.prior.sample((3,), seed=0)
    # A source of 10 on the unit square.
    found = flux(problem.solve(z), z)
    torch.testing.assert_close(found, torch.full_like(found, -10.0))
