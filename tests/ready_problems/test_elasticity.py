"""Elastic bodies: orders of manufactured solutions, published values, and their energies."""

import math

import numpy as np
import pytest
import torch
from manufactured import manufactured, material, observed_orders, rows_of, vortex, wave

import pddlvm
from pddlvm import fem
from problems.elasticity import (
    cook_membrane,
    make_bracket,
    make_incompressible,
    make_neo_hookean,
    mixed,
    neo_hookean,
    shear,
    strain_energy,
)
from problems.stokes import taylor_hood

NU = 0.4999


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def lame(E, nu):
    """Mu and lambda."""
    return E / 2 / (1 + nu), E * nu / (1 + nu) / (1 - 2 * nu)


# --- orders --------------------------------------------------------------------------------------


def nearly_incompressible(du, p, x, amplitude):
    return mixed(du, p, amplitude * material(x), x.new_tensor(NU))


def mixed_law(du, p, x, amplitude):
    mu, la = lame(amplitude * material(x), NU)
    stress = mu * (du + du.T) - torch.diag(torch.stack([p, p]))
    return {"u": (0.0, stress), "p": (-du[0, 0] - du[1, 1] - p / la, 0.0)}


def test_orders_of_the_mixed_form():
    exact = {"u": vortex, "p": wave}

    def make(n):
        space = taylor_hood(fem.unit_square(n))
        return manufactured(
            space, nearly_incompressible, mixed_law, exact, [pddlvm.Dirichlet(None, vortex)]
        )

    found = observed_orders(make, exact, (6, 12, 24))
    # Three and two in theory, also for nu next to 1/2.
    assert found["u"] == pytest.approx(3.0, abs=0.15)
    assert found["p"] == pytest.approx(2.0, abs=0.15)


def bent(x):
    """Displacements with gradients of up to a third."""
    return 0.1 * torch.stack([(2 * x[0]).sin() * x[1].exp(), (3 * x[1]).cos() * x[0] ** 2])


def rubber(u, du, x, amplitude):
    return neo_hookean(u, du, x, amplitude * material(x), 0.3)


def piola_stress(du, x, amplitude):
    """First Piola-Kirchhoff stress mu (F - cof F) + (lambda + mu) (J - 1) cof F."""
    mu, la = lame(amplitude * material(x), 0.3)
    f = torch.eye(2, dtype=x.dtype) + du
    cofactor = torch.linalg.det(f) * torch.linalg.inv(f).T
    return {
        "u": (0.0, mu * (f - cofactor) + (la + mu) * (torch.linalg.det(f) - 1) * cofactor),
    }


def twisted(x):
    return torch.stack([x[0] * x[1] * x[2], (x[0] + x[2]).sin(), x[1] ** 2 * x[2].cos()])


def solid(u, du, x, amplitude):
    return strain_energy(2.0, 0.33, u, du, x, amplitude * material(x))


def hooke(du, x, amplitude):
    mu, la = lame(2.0 * amplitude * material(x), 0.33)
    return {"u": (0.0, mu * (du + du.T) + la * du.trace() * torch.eye(3, dtype=x.dtype))}


@pytest.mark.parametrize(
    ("energy", "law", "exact", "mesh", "sizes"),
    [
        (rubber, piola_stress, bent, fem.unit_square, (4, 8, 16)),
        (solid, hooke, twisted, fem.unit_cube, (1, 2, 4)),
    ],
    ids=["neo-Hookean", "bracket"],
)
def test_orders_of_displacements(energy, law, exact, mesh, sizes):
    exact, held = {"u": exact}, [pddlvm.Dirichlet(None, exact)]

    def make(n):
        cells = mesh(n)
        dim = cells.dim()
        space = fem.Space(cells, 2, n_components=dim, quadrature=2 if dim == 2 else 3)
        return manufactured(fem.MixedSpace({"u": space}), rows_of(energy), law, exact, held)

    # Quadratic elements: three, with the quadrature of the ready problems.
    assert observed_orders(make, exact, sizes)["u"] == pytest.approx(3.0, abs=0.15)


# --- Cook's membrane -----------------------------------------------------------------------------


def test_the_membrane_in_plane_stress_is_that_of_the_literature():
    # Plane stress of E = 1 and nu = 1/3 is plane strain of these.
    nu = 1 / 3 / (1 + 1 / 3)
    E = 1 - nu**2
    space = taylor_hood(cook_membrane(16))
    problem = pddlvm.Problem(
        "Cook's membrane",
        space,
        [pddlvm.Flux(space.interior(), mixed), pddlvm.Flux(space.boundary("right"), shear)],
        {"load": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0)), "E": E, "nu": nu},
        [pddlvm.Dirichlet("left")],
    )
    # A total shear of one on a side of length 16.
    u = problem.solve(double([1 / 16])).numpy()
    # The deflection in the middle of the right side, 23.96 from refined meshes (J. C. Simo,
    # M. S. Rifai, Int. J. Numer. Meth. Eng. 29, 1595-1638, 1990): its four digits.
    assert (problem.evaluation([[48.0, 52.0]]) @ u)[1] == pytest.approx(23.96, rel=1e-3)


def compliance(problem, z):
    """int t . u on the right side for a unit traction."""
    dofs, space = problem.space.field("u")
    region = space.boundary("right")
    u = problem.solve(z).numpy()[dofs]
    return region.weights.ravel() @ (region.matrix @ u)[1 :: region.shape[2]]


@pytest.mark.parametrize(("gap", "converged"), [(0.4, 5.6346), (2e-4, 4.752)])
def test_the_membrane_does_not_lock(gap, converged):
    problem = make_incompressible()
    found = compliance(problem, double([0.0, 0.0, 0.0, 0.0, math.log(gap), 1e-3]))
    # Converged: 50 cells a side, 2e-4 above 40.
    assert found == pytest.approx(converged, rel=5e-3)


def test_poisson_ratios_reach_the_incompressible_limit():
    problem = make_incompressible(2)
    ratios = problem.field_values(problem.prior.sample((2000,), seed=0), "nu")[:, 0]
    assert ratios.aminmax() == pytest.approx((0.3, 0.4999), abs=2e-3)
    assert (ratios < 0.5).all()


# --- energies ------------------------------------------------------------------------------------

ONE = torch.ones((), dtype=torch.float64)
GRADIENT = double([[0.2, -0.3], [0.1, 0.4]])


def stored(du):
    return neo_hookean(None, du, None, ONE, 0.3)


def test_small_strains_of_rubber_are_those_of_hooke():
    strain = (GRADIENT + GRADIENT.T) / 2
    mu, la = lame(1.0, 0.3)
    expected = mu * (strain**2).sum() + la / 2 * strain.trace() ** 2
    # The next order.
    assert float(stored(1e-4 * GRADIENT)) == pytest.approx(1e-8 * float(expected), rel=1e-3)


def test_rubber_does_not_feel_rotations():
    c, s = math.cos(2.0), math.sin(2.0)
    unit = torch.eye(2, dtype=torch.float64)
    turned = double([[c, -s], [s, c]]) @ (unit + GRADIENT) - unit
    torch.testing.assert_close(stored(turned), stored(GRADIENT), rtol=1e-12, atol=0)


def test_rubber_can_be_turned_inside_out():
    mirrored = torch.diag(double([-2.0, 0.0]))
    assert stored(mirrored) > stored(0.5 * mirrored) > stored(0 * mirrored) == 0


def test_rubber_is_pulled_to_large_strains():
    problem = make_neo_hookean(4)
    z = problem.prior.sample((50,), seed=0)
    u = problem.solve(z)
    strain = (problem.evaluation([[1.0, 0.5]]) @ u.T.numpy())[0]
    assert 0.02 < strain.min() < 0.06
    assert 0.25 < strain.max() < 0.35
    # A stretched strip is thinner.
    top, bottom = problem.evaluation([[0.6, 1.0], [0.6, 0.0]])[1::2] @ u.T.numpy()
    assert (top < 0).all()
    assert (bottom > 0).all()


# --- the bracket ---------------------------------------------------------------------------------


def test_work_of_the_traction_is_twice_the_energy_of_the_bracket():
    problem = make_bracket(4)
    z = problem.prior.sample((2,), seed=0)
    u = problem.solve(z)
    region = problem.space.boundary("tip")
    # A quarter of the leg by a half of its length.
    assert region.weights.sum() == pytest.approx(1 / 8)
    shifts = (region.matrix @ u.T.numpy()).reshape(-1, region.shape[2], 2)[:, :3]
    work = np.einsum("q,qib,bi->b", region.weights.ravel(), shifts, z[:, 2:].numpy())
    # Clapeyron: the energy with that of the load is minus half of the work.
    np.testing.assert_allclose(problem.energy(u, z), -work / 2, rtol=1e-9)


def test_materials_of_the_bracket_are_where_they_belong():
    problem = make_bracket(4)
    soft = [1.0, 1.0, 5.0, 0.0, 0.0]
    u = problem.solve(double([soft, [2.0, 2.0, 10.0, 0.0, 0.0], [2.0, *soft[1:]]]))
    torch.testing.assert_close(u[1], u[0], rtol=0, atol=1e-9 * float(u[0].abs().max()))
    tip = (problem.evaluation([[0.125, 1.0, 0.25]]) @ u.T.numpy())[0]
    # A beam of the upright alone, clamped at the foot: t l^3 / (3 E I) and its shear, some 20 %;
    # the foot gives way as well.
    beam = 5.0 * 0.25 * 0.75**3 / (3 * 70e3 * 0.25**3 / 12)
    assert beam < tip[0] < 2 * beam
    # The foot carries a small part of the deflection.
    assert 0.7 * tip[0] < tip[2] < tip[0]


def test_a_bracket_of_uneven_cells_is_refused():
    with pytest.raises(pddlvm.InputError, match="multiple of 4"):
        make_bracket(6)
