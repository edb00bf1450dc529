"""Ready problems in time: manufactured solutions that are linear in time, energies, and figures.

u = (1 + t) s(x) is stepped exactly by all methods: what is left is the error in space.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
from checks import l2_error, orders
from torch.func import grad, jacrev

import pddlvm
from pddlvm import fem
from problems import (
    elastodynamics,
    heat,
    nonlinear_heat,
    nonstationary_thermal_block,
    transport,
)
from problems.elastodynamics import stored_energy
from problems.heat import conduction
from problems.nonlinear_heat import hot_conduction
from problems.nonstationary_thermal_block import conduction as block_conduction
from problems.transport import advection_diffusion

END = 0.5
SMALL = {
    "heat": lambda: heat.make(10, 2, 10),
    "nonlinear heat": lambda: nonlinear_heat.make(10, 2, 10),
    "elastodynamics": lambda: elastodynamics.make(4, 2, 10),
    "transport": lambda: transport.make(12, 10),
    "thermal block": lambda: nonstationary_thermal_block.make(10, 10),
}
each = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


def hill(x):
    return torch.sin(math.pi * x[0]) * torch.sin(math.pi * x[1])


def swirl(x):
    return torch.stack([hill(x), x[0] * (1 - x[0]) * torch.sin(2 * x[1]) * (1 - x[1])])


def of_energy(density):
    return grad(density, argnums=(0, 1))


def no_force(u, du, x, E):
    return torch.zeros_like(u), grad(partial(stored_energy, 0.3), argnums=1)(u, du, x, E)


LAWS = {
    "heat": (of_energy(conduction), hill, {"k": 1.3}),
    "nonlinear heat": (hot_conduction, hill, {"k": 1.3}),
    "elastodynamics": (no_force, swirl, {"E": 1.3}),
    "transport": (
        partial(advection_diffusion, 0.1),
        hill,
        {"speed": 1.0, "angle": torch.tensor(0.7).double(), "kappa": 1.2},
    ),
    "thermal block": (of_energy(block_conduction), hill, {"sigma": 1.3}),
}


def manufactured(law, shape, values, n):
    second = shape is swirl
    space = fem.Space(fem.unit_square(n), quadrature=4, n_components=2 if second else 1)

    def exact(x, t):
        return (1 + t) * shape(x)

    def rows(x, t):
        f0, f1 = law(exact(x, t), jacrev(exact)(x, t), x, **values)
        return torch.as_tensor(f0, dtype=x.dtype), f1

    def load(u, du, x, t, one):
        rate = 0 * shape(x) if second else shape(x)
        f0, _ = rows(x, t)
        slope = jacrev(lambda x: rows(x, t)[1])(x)
        return -one * (rate + f0 - torch.einsum("...ii->...", slope)), 0 * du

    def physics(u, du, x, one):
        f0, f1 = law(u, du, x, **values)
        return torch.as_tensor(f0, dtype=x.dtype).expand(u.shape), f1

    terms = [pddlvm.Flux(space.interior(), physics), pddlvm.Flux(space.interior(), load)]
    fields = {"one": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)), "t": pddlvm.Time(END)}
    steady = pddlvm.Problem("made", space, terms, fields, [pddlvm.Dirichlet(None, exact)])
    method = pddlvm.Newmark() if second else pddlvm.BDF2()
    return pddlvm.TransientProblem(
        steady,
        stepping=pddlvm.Stepping(END, 4, method),
        initial=shape,
        velocity=shape if second else None,
    )


@pytest.mark.parametrize(("law", "shape", "values"), LAWS.values(), ids=LAWS.keys())
def test_manufactured_solutions_converge_with_second_order(law, shape, values):
    errors = []
    for n in (8, 16, 32):
        problem = manufactured(law, shape, values, n)
        u = problem.solve(torch.ones(1, dtype=torch.float64))[-1]
        errors.append(l2_error(problem.space, u, torch.vmap(lambda x: (1 + END) * shape(x))))
    assert abs(orders(errors)[-1] - 2) < 0.15, orders(errors)


@each
def test_residuals_of_solutions_vanish(make):
    problem = make()
    z = problem.prior.sample((2,), seed=0)
    u = problem.solve(z)
    assert problem.residual(u, z).abs().max() < 1e-8 * problem.residual(0 * u, z).abs().max()
    assert problem.parameter_field(z).shape[0] == 2


@each
def test_every_parameter_matters(make):
    problem = make()
    z = problem.prior.sample(seed=0)
    # To the other side of the centre of the prior.
    moved = problem.prior.unstandardise(-problem.prior.standardise(z))
    u = problem.solve(z)
    for i in range(problem.n_parameters):
        other = torch.where(torch.arange(len(z)) == i, moved, z)
        assert (problem.solve(other) - u).abs().max() > 1e-4 * u.abs().max(), i


def test_newmark_keeps_the_energy_of_a_free_plate():
    problem = elastodynamics.make(4, 2, 100)
    z = problem.prior.sample(seed=0)
    u = problem.solve(z)
    # The pulse is over after a quarter of the time.
    d, dofs = float(problem.scheme.weights[0]), problem.steady.free_dofs
    k = problem.steady.solver.matrix(u[-1], problem.at(z, [0.0])[0])
    m = problem.mass[dofs][:, dofs]
    u = u[:, dofs].numpy()
    # Energies of average acceleration, in the middle of the steps.
    v, middle = np.diff(u, axis=0) / d, 0.5 * (u[1:] + u[:-1])
    energy = 0.5 * (v * (m @ v.T).T + middle * (k @ middle.T).T).sum(1)
    free = energy[30:]
    assert free[0] > 0.01
    assert np.ptp(free) < 1e-11 * free[0]


def test_a_pulse_arrives_when_it_should():
    """A bar of nu = 0: waves go with speed 1."""
    problem = elastodynamics.make(8, 2, 200, std=1e-6, nu=0.0)
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    u = problem.solve(z) @ torch.from_numpy(problem.evaluation([[1.0, 0.5]]).toarray()).T
    at, x = torch.from_numpy(problem.times), u[:, 0]
    assert x[at < 0.9].abs().max() < 0.01 * x.max()
    # u = int pull / (rho c) behind the pulse: a half.
    behind = x[(at > 2.2) & (at < 2.8)]
    assert (behind - 0.5).abs().max() < 0.01


def test_a_bump_comes_where_it_is_carried():
    problem = transport.make()
    z = problem.prior.sample((3,), seed=0)
    u = problem.solve(z)[:, -1]
    speed, angle = z[:, 0], z[:, 1]
    b = speed[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    weights = torch.from_numpy(problem.mass @ np.ones(problem.n_dofs))
    mass = u @ weights
    middle = (u * weights) @ torch.from_numpy(problem.space.dof_points) / mass[:, None]
    assert (middle - (0.25 + 0.5 * b)).abs().max() < 1e-3
    assert (u.amin(1) > -0.01 * u.amax(1)).all()


def test_heat_comes_to_rest_at_the_steady_solution():
    made = heat.make(10, 2, 10)
    problem = pddlvm.TransientProblem(
        pddlvm.Problem(
            "long",
            made.space,
            made.steady.terms,
            {**made.fields, "t": pddlvm.Time(60.0)},
            made.steady.dirichlet,
        ),
        stepping=pddlvm.Stepping.graded(60.0, 50),
        initial=heat.warm,
    )
    z = problem.prior.sample((2,), seed=0)
    steady = problem.steady.solve(problem.at(z, [0.0])[:, 0])
    torch.testing.assert_close(problem.solve(z)[:, -1], steady, rtol=0, atol=1e-6)


def test_cells_follow_the_discs():
    mesh = nonstationary_thermal_block.plate(30)
    corners = mesh.p[:, mesh.t].transpose(2, 1, 0)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    assert areas.sum() == pytest.approx(1.0, rel=1e-12)
    # No slivers: none is below a fourth of the half of a square cell.
    assert areas.min() > 0.125 / 30**2
    for name in nonstationary_thermal_block.DISCS:
        # A polygon of 28 sides has 0.9916 of its circle's area.
        share = areas[mesh.subdomains[name]].sum() / (np.pi * 0.15**2)
        assert share == pytest.approx(1.0, abs=0.015)


def test_conductivities_are_those_of_their_discs():
    problem = nonstationary_thermal_block.make(10, 10)
    z = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    expected = torch.zeros(problem.space.mesh.nelements).double()
    for one, name in zip(z, nonstationary_thermal_block.DISCS, strict=True):
        expected[problem.space.cells(name)] = one
    torch.testing.assert_close(problem.parameter_field(z), expected.exp())
    region = problem.space.interior()
    sigma = problem.fields["sigma"].at(region.points)(z)
    torch.testing.assert_close(sigma, expected[region.points.cells].exp())


def test_a_plate_of_one_material_warms_up_as_a_rod_does():
    problem = nonstationary_thermal_block.make(20, 200)
    u = problem.solve(torch.zeros(4).double())
    x, t = problem.space.dof_points[:, 0], problem.times[:, None]
    k = (np.arange(200) + 0.5) * np.pi
    modes = 2 / k[:, None] ** 2 * np.cos(k[:, None] * x)
    expected = 1 - x - np.exp(-(k**2) * t) @ modes
    # Of the mesh and of the steps; the solution comes to one.
    assert np.abs(u.numpy() - expected)[40:].max() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [heat, nonlinear_heat, elastodynamics, transport, nonstationary_thermal_block]
)
def test_steps_are_short_enough(module):
    assert module.make().time_error(n_samples=2) < 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: heat.make(12), "multiple of 10"),
        (lambda: heat.make("fine"), "multiple of 10"),
        (lambda: heat.make(10, 2, 12), "do not match 5 levels"),
        (lambda: transport.make(peclet=0.0), "peclet"),
        (lambda: transport.make(width=0.3), "width"),
        (lambda: nonstationary_thermal_block.make(9), "from 10 on"),
        (lambda: nonstationary_thermal_block.make(decades=(1.0, 1.0)), "above"),
    ],
)
def test_what_makes_no_problem_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
