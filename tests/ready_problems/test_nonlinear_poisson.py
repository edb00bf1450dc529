"""The nonlinear problems: manufactured solutions with their observed order, and their physics.

The load of a manufactured solution u* is f = f0(u*) - div f1(u*), by automatic differentiation.
"""

import numpy as np
import pytest
import torch
from torch.func import grad, jacrev

import pddlvm
from pddlvm import fem
from problems import nonlinear_poisson
from problems.nonlinear_poisson import (
    advection_diffusion_flux,
    conductivity,
    quasilinear_flux,
    stored_energy,
)

N_POINTS = 6
"""Degree of the quadrature that measures errors: beyond that of the elements."""


def bump_1d(x):
    return torch.sin(2 * x[0]) + 0.5 * x[0]


def bump_2d(x):
    return torch.sin(3 * x[0]) * torch.cos(2 * x[1]) + x[0] * x[1]


def material(x):
    """A smooth coefficient."""
    return 1.5 + 0.5 * torch.sin(4 * x).sum()


def variational(u, du, x, amplitude):
    return torch.zeros_like(u), conductivity((du @ du + 1e-12).sqrt(), amplitude * material(x)) * du


def quasilinear(u, du, x, amplitude):
    return quasilinear_flux(u, du, x, amplitude * material(x), torch.zeros_like(u))


def advection(n):
    """Kappa does not follow h here: the element Péclet number goes to zero."""

    def flux(u, du, x, amplitude, f):
        kappa = 0.05 * amplitude * material(x)
        return advection_diffusion_flux(u, du, x, kappa, u.new_tensor(0.6), f, u.new_tensor(1 / n))

    return flux


def source_of(flux, solution):
    """f of a flux without load, for a solution, at one point."""

    def f1(x, *fields):
        return flux(solution(x), grad(solution)(x), x, *fields)[1]

    def source(x, *fields):
        f0 = flux(solution(x), grad(solution)(x), x, *fields)[0]
        return f0 - jacrev(f1)(x, *fields).trace()

    return source


def energy_terms(space, n, solution):
    source = source_of(variational, solution)
    return [
        pddlvm.Energy(
            space.interior(),
            lambda u, du, x, amplitude: stored_energy(u, du, x, amplitude * material(x)),
        ),
        pddlvm.Energy(space.interior(), lambda u, du, x, amplitude: -source(x, amplitude) * u),
    ]


def quasilinear_terms(space, n, solution):
    source = source_of(quasilinear, solution)

    def flux(u, du, x, amplitude):
        f0, f1 = quasilinear(u, du, x, amplitude)
        return f0 - source(x, amplitude), f1

    return [pddlvm.Flux(space.interior(), flux, has_secant=True)]


def advection_terms(space, n, solution):
    flux = advection(n)

    def galerkin(u, du, x, amplitude):
        # Without stabilisation f is what is left of b . grad u* - div(kappa grad u*).
        return (
            du @ du.new_tensor([np.cos(0.6), np.sin(0.6)]),
            0.05 * amplitude * material(x) * du,
        )

    source = source_of(galerkin, solution)
    return [
        pddlvm.Flux(
            space.interior(),
            lambda u, du, x, amplitude: flux(u, du, x, amplitude, source(x, amplitude)),
        )
    ]


def error(terms, mesh, solution, n):
    """L2 error of the reference solution."""
    space = fem.Space(mesh)
    problem = pddlvm.Problem(
        "manufactured",
        space,
        terms(space, n, solution),
        {"amplitude": pddlvm.Constant(pddlvm.LogNormal())},
        [pddlvm.Dirichlet(None, solution)],
    )
    u = problem.solve(torch.ones(1, dtype=torch.float64)).numpy()
    fine = fem.Space(mesh, quadrature=N_POINTS).interior()
    values = (fine.matrix @ u).reshape(-1, fine.shape[2])[:, 0]
    exact = torch.vmap(solution)(torch.from_numpy(fine.points.x)).numpy()
    return np.sqrt(fine.weights.ravel() @ (values - exact) ** 2)


@pytest.mark.parametrize(
    ("terms", "mesh", "solution", "sizes"),
    [
        (energy_terms, lambda n: fem.interval(n, -1.0, 1.0), bump_1d, (16, 32, 64)),
        (energy_terms, fem.unit_square, bump_2d, (8, 16, 32)),
        (quasilinear_terms, fem.unit_square, bump_2d, (8, 16, 32)),
        (advection_terms, fem.unit_square, bump_2d, (16, 32, 64)),
    ],
    ids=["variational-1d", "variational-2d", "quasilinear", "advection-diffusion"],
)
def test_manufactured_solutions_converge_with_second_order(terms, mesh, solution, sizes):
    errors = [error(terms, mesh(n), solution, n) for n in sizes]
    orders = -np.diff(np.log2(errors))
    # Linear elements: two, within the 0.15 that three meshes can tell.
    assert abs(orders[-1] - 2) < 0.15, orders


@pytest.mark.parametrize("slope", [0.0, 1e-3, 0.5, 2.0, 4.0])
def test_the_energy_belongs_to_the_conductivity(slope):
    du = slope * torch.tensor([0.6, 0.8], dtype=torch.float64)
    kappa, u = torch.tensor(1.7, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    flux = grad(lambda e: stored_energy(u, e, e, kappa))(du)
    expected = conductivity(du.norm(), kappa) * du
    # Eight Gauss points, and the 1e-6 that keeps the slope differentiable.
    torch.testing.assert_close(flux, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "n_parameters", "is_coercive"),
    [
        (nonlinear_poisson.make_1d, 7, True),
        (lambda: nonlinear_poisson.make(6), 10, True),
        (lambda: nonlinear_poisson.make_quasilinear(6), 9, True),
        (lambda: nonlinear_poisson.make_advection_diffusion(6), 5, False),
    ],
)
def test_problems_are_as_documented(make, n_parameters, is_coercive):
    problem = make()
    assert problem.n_parameters == n_parameters
    assert problem.is_coercive == is_coercive
    z = problem.prior.sample((3,), seed=0)
    r, start = problem.residual(problem.solve(z), z), problem.residual(0 * problem.solve(z), z)
    # Newton's tolerance relative to the load.
    assert (r.norm(dim=1) <= 1e-9 * start.norm(dim=1)).all()


def test_the_1d_case_is_that_of_the_paper():
    problem = nonlinear_poisson.make_1d()
    z = problem.prior.sample(seed=0)
    kappa = problem.parameter_field(z)
    x = torch.linspace(-1, 1, 61, dtype=torch.float64)
    h = x[1] - x[0]

    def kappa_at(points):
        t = torch.from_numpy(np.polynomial.chebyshev.chebvander(points.numpy(), 4))
        return 1 + torch.nn.functional.softplus(t @ z[:5])

    middle = (x[1:] + x[:-1]) / 2
    torch.testing.assert_close(kappa, kappa_at(middle))
    # Its residual by hand: two Gauss points per element, equal loads.
    u = problem.solve(z)
    slope, offset = (u[1:] - u[:-1]) / h, h / 12**0.5
    kappa = (kappa_at(middle - offset) + kappa_at(middle + offset)) / 2
    q = (torch.sigmoid(slope.abs()) + 5 * kappa) / 10 * slope
    r = q[:-1] - q[1:] - h * z[5]
    # Eight Gauss points of the energy.
    assert r.abs().max() < 1e-7
    assert u[0] == 0 and float(u[-1]) == pytest.approx(float(z[6]))
