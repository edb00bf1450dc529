"""Elements of fluxes and circulations: orders, boundary values, their norm, and stable pairs."""

import warnings

import numpy as np
import pytest
import scipy.linalg as sl
import skfem
import torch
from checks import orders, refuses
from elements import curls, darcy, darcy_flow, darcy_space
from manufactured import material
from torch.func import grad, jacrev, vmap

import pddlvm
from pddlvm import fem
from pddlvm.weak.inner_product import inner_product

ONE = torch.ones(1, dtype=torch.float64)
AMPLITUDE = {"amplitude": pddlvm.Constant(pddlvm.LogNormal())}


def error(space, dofs, exact, order=0):
    """|u - exact| in L2, or of du."""
    region = space.with_quadrature(8).interior()
    values = (region.matrix @ np.asarray(dofs)).reshape(-1, region.shape[2])
    values = values[:, region.columns()[order]]
    expected = vmap(exact)(torch.from_numpy(region.points.x)).reshape(len(values), -1).numpy()
    return float(np.sqrt(region.weights.ravel() @ ((values - expected) ** 2).sum(axis=1)))


# Darcy: u = -k grad p, div u = f


def pressure(x):
    return torch.sin(torch.pi * x).prod() * x[0].exp()


def flux(x):
    return -material(x) * grad(pressure)(x)


def source(x):
    return jacrev(flux)(x).trace()


@pytest.mark.parametrize(
    ("element", "of_p", "expected"),
    [
        (skfem.ElementTriRT0(), skfem.ElementTriP0(), (1, 1, 1)),
        (skfem.ElementTriRT2(), skfem.ElementTriP1DG(), (2, 2, 2)),
        (skfem.ElementTriBDM1(), skfem.ElementTriP0(), (2, 1, 1)),
    ],
    ids=["RT0", "RT1", "BDM1"],
)
def test_darcy_converges(element, of_p, expected):
    """In the flux, its divergence, and the pressure."""

    def rows(u, du, p, x, amplitude):
        return {"u": (amplitude * u / material(x), -p), "p": (source(x) - du, 0)}

    errors = []
    for n in (4, 8, 16):
        space = darcy_space(n, element, of_p)
        problem = pddlvm.Problem("darcy", space, [pddlvm.Flux(space.interior(), rows)], AMPLITUDE)
        u = problem.solve(ONE)
        (of_u, fluxes), (of_p_dofs, pressures) = space.field("u"), space.field("p")
        errors.append(
            [
                error(fluxes, u[of_u], flux),
                error(fluxes, u[of_u], source, 1),
                error(pressures, u[of_p_dofs], pressure),
            ]
        )
    assert orders(errors)[-1] == pytest.approx(expected, abs=0.15)


def test_energy_and_fluxes_of_a_field_are_the_same():
    """u^2 / 2k - p (div u - 1) is what the rows are derivatives of."""
    space = darcy_space(3)

    def lagrangian(u, du, p, x, k):
        return 0.5 * (u * u).sum() / k - p * (du - 1.0)

    k = {"k": pddlvm.Constant(pddlvm.LogNormal())}
    both = [
        pddlvm.Problem("darcy", space, [term(space.interior(), f)], k)
        for term, f in ((pddlvm.Flux, darcy), (pddlvm.Energy, lagrangian))
    ]
    u = torch.arange(space.n_dofs, dtype=torch.float64).cos()
    # The same numbers by two ways.
    torch.testing.assert_close(
        both[0].residual(u, ONE), both[1].residual(u, ONE), atol=1e-13, rtol=0
    )


def potential(x):
    return x[0].cos() * x[1].cosh()


@pytest.mark.parametrize("element", [skfem.ElementTriRT0(), skfem.ElementTriBDM1()])
def test_a_flux_through_the_boundary_is_held(element):
    """A harmonic potential by its fluxes all around; what flows in flows out, cell by cell."""
    errors = []
    for n in (4, 8):
        space = darcy_space(n, element)

        def rows(u, du, p, x, amplitude):
            return {"u": (amplitude * u, -p), "p": (-du, 0)}

        problem = pddlvm.Problem(
            "potential",
            space,
            [pddlvm.Flux(space.interior(), rows)],
            AMPLITUDE,
            [pddlvm.Dirichlet(None, lambda x: -grad(potential)(x))],
            constraints=[pddlvm.MeanValue("p")],
        )
        dofs, fluxes = space.field("u")
        u = problem.solve(ONE)[dofs]
        errors.append([error(fluxes, u, lambda x: -grad(potential)(x))])
        # What the quadrature leaves of the sum of all fluxes.
        assert error(fluxes, u, lambda x: 0 * x[0], 1) < 1e-7
    order = 2 if type(element) is skfem.ElementTriBDM1 else 1
    assert orders(errors)[-1] == pytest.approx(order, abs=0.15)


def values_on(element, value, mesh=None):
    """The space, and the lifting of a boundary value that is given all around."""
    space = fem.Space(mesh or fem.unit_square(3), element=element)

    def density(u, du, x, amplitude):
        return 0.5 * amplitude * ((u * u).sum() + (du * du).sum())

    problem = pddlvm.Problem(
        "lifting",
        space,
        [pddlvm.Energy(space.interior(), density)],
        AMPLITUDE,
        [pddlvm.Dirichlet(None, value)],
    )
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    return space, operators.lift(ONE[None])[0].numpy()


@pytest.mark.parametrize(
    "element",
    [
        skfem.ElementTriRT0(),
        skfem.ElementTriRT2(),
        skfem.ElementTriBDM1(),
        skfem.ElementTriN1(),
        skfem.ElementTriN2(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_traces_of_constants_are_found_again(element):
    """Of the constant (0.3, -0.7), whose degrees of freedom are known everywhere."""
    space, lifted = values_on(element, lambda x: torch.stack([0 * x[0] + 0.3, 0 * x[0] - 0.7]))
    exact = space.near_nullspace @ [0.3, -0.7]
    on = space.dofs_on()
    np.testing.assert_allclose(lifted[on], exact[on], atol=1e-12)


@pytest.mark.parametrize(
    "value", [2.0, lambda x: 2.0 + 0 * x[0], lambda x, amplitude: 2 * amplitude]
)
@pytest.mark.parametrize(
    ("mesh", "element"),
    [
        (fem.unit_square(3), skfem.ElementTriRT2()),
        (fem.unit_square(3, quadrilaterals=True), skfem.ElementQuadRT0()),
        (fem.unit_cube(2), skfem.ElementTetRT0()),
    ],
)
def test_a_number_is_the_flux_outwards(mesh, element, value):
    """Its sum over the boundary is the integral of the divergence."""
    space, lifted = values_on(element, value, mesh)
    region = space.interior()
    divergence = (region.matrix @ lifted)[region.shape[2] - 1 :: region.shape[2]]
    assert region.weights.ravel() @ divergence == pytest.approx(2.0 * 2 * space.dim, rel=1e-12)


def test_a_number_is_the_circulation_counter_clockwise():
    """Its sum over the boundary is the integral of the curl."""
    space, lifted = values_on(skfem.ElementTriN1(), 2.0)
    region = space.interior()
    curl = (region.matrix @ lifted)[2::3]
    assert region.weights.ravel() @ curl == pytest.approx(8.0, rel=1e-12)


def test_values_that_degrees_of_freedom_cannot_have_are_refused():
    refuses("must be the number 0 here", values_on, skfem.ElementTetN0(), 1.0, fem.unit_cube(1))
    _, lifted = values_on(skfem.ElementTetN0(), 0.0, fem.unit_cube(1))
    assert not lifted.any()


# curl curl u + u = f


def in_the_plane(x):
    return torch.stack([(torch.pi * x[1]).sin() * (1 + x[0]), (torch.pi * x[0]).sin() * x[1].exp()])


def in_space(x):
    s = (torch.pi * x).sin()
    return torch.stack([s[1] * s[2], s[0] * s[2] * (1 + x[1]), s[0] * s[1]])


def curl(u):
    def of(x):
        du = jacrev(u)(x)
        if du.shape == (2, 2):
            return du[1, 0] - du[0, 1]
        if du.ndim == 1:
            return torch.stack([du[1], -du[0]])
        return torch.stack([du[2, 1] - du[1, 2], du[0, 2] - du[2, 0], du[1, 0] - du[0, 1]])

    return of


@pytest.mark.parametrize(
    ("mesh", "element", "exact", "sizes", "value", "order"),
    [
        (fem.unit_square, skfem.ElementTriN1(), in_the_plane, (4, 8, 16), 0.0, 1),
        (fem.unit_square, skfem.ElementTriN2(), in_the_plane, (4, 8, 16), in_the_plane, 2),
        (fem.unit_cube, skfem.ElementTetN0(), in_space, (2, 4, 8), 0.0, 1),
    ],
    ids=["N0", "N1", "N0 in space"],
)
def test_curls_converge(mesh, element, exact, sizes, value, order):
    """In the field and in its curl; u . t of the field is zero."""

    def density(u, du, x, amplitude):
        load = curl(curl(exact))(x) + exact(x)
        return 0.5 * (du * du).sum() + 0.5 * (u * u).sum() - amplitude * (load * u).sum()

    errors = []
    for n in sizes:
        space = fem.Space(mesh(n), element=element)
        term, wall = pddlvm.Energy(space.interior(), density), pddlvm.Dirichlet(None, value)
        u = pddlvm.Problem("curls", space, [term], AMPLITUDE, [wall]).solve(ONE)
        errors.append([error(space, u, exact), error(space, u, curl(exact), 1)])
    assert orders(errors)[-1] == pytest.approx(order, abs=0.15)


# The norm, and pairs


def test_a_flux_is_measured_with_its_divergence():
    """k^-1 u . v + m (1/pi)^2 div u div v, m the mean of k^-1, which is one at the centre."""
    problem = darcy_flow(3)
    x = inner_product(problem)
    dofs, own = problem.space.field("u")
    mass, energy = own.gram_matrices()
    expected = mass + energy / np.pi**2
    np.testing.assert_allclose(x[dofs, dofs].toarray(), expected.toarray(), atol=1e-12)


def test_a_pressure_is_balanced_with_its_flux():
    """The least eigenvalue of B X^-1 B^T in X_p is one."""
    problem = darcy_flow(3)
    x, free = inner_product(problem), problem.free_dofs
    n = int((free < problem.space.field("u")[0].stop).sum())
    x = x[free][:, free].toarray()
    k = problem.solver.matrix(
        torch.zeros(problem.n_dofs, dtype=torch.float64), problem.prior.sample(seed=0)
    )
    b = k.toarray()[n:, :n]
    values = sl.eigvalsh(b @ np.linalg.solve(x[:n, :n], b.T), x[n:, n:])
    assert values[0] == pytest.approx(1.0, rel=1e-6)


def test_curls_are_their_own_norm():
    problem = curls(3)
    u = torch.arange(problem.n_dofs, dtype=torch.float64).cos()
    x = inner_product(problem)
    assert problem.energy_norm(u).item() ** 2 == pytest.approx(u.numpy() @ (x @ u.numpy()))


def warned(space, rows):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pddlvm.Problem(
            "pair",
            space,
            [pddlvm.Flux(space.interior(), rows)],
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
            [pddlvm.Dirichlet("left")],
        )
    return [str(one.message) for one in found]


@pytest.mark.parametrize(
    ("flux", "pressure", "is_stable"),
    [
        (skfem.ElementTriRT0(), skfem.ElementTriP0(), True),
        (skfem.ElementTriRT2(), skfem.ElementTriP1DG(), True),
        (skfem.ElementTriBDM1(), skfem.ElementTriP0(), True),
        (skfem.ElementTriRT2(), skfem.ElementTriP0(), True),
        (skfem.ElementTriRT2(), skfem.ElementTriP1(), True),
        (skfem.ElementTriRT0(), skfem.ElementTriP1DG(), False),
        (skfem.ElementTriRT0(), skfem.ElementTriP1(), False),
        (skfem.ElementTriBDM1(), skfem.ElementTriP1DG(), False),
    ],
)
def test_fluxes_and_pressures_that_do_not_fit_are_warned_of(flux, pressure, is_stable):
    messages = warned(darcy_space(3, flux, pressure), darcy)
    assert [("'u' does not see" in m and "ElementTriRT0 with" in m) for m in messages] == (
        [] if is_stable else [True]
    )


@pytest.mark.parametrize(("degree", "is_stable"), [(1, True), (2, False)])
def test_fields_and_potentials_that_do_not_fit_are_warned_of(degree, is_stable):
    """curl curl u + grad p = (0, 1), div u = 0."""
    mesh = fem.unit_square(3)
    space = fem.MixedSpace(
        {"u": fem.Space(mesh, element=skfem.ElementTriN1()), "p": fem.Space(mesh, degree)}
    )

    def rows(u, du, dp, x, k):
        return {"u": (dp - x, k * du), "p": (0.0, u)}

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pddlvm.Problem(
            "field",
            space,
            [pddlvm.Flux(space.interior(), rows)],
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
            [pddlvm.Dirichlet(None), pddlvm.Dirichlet(None, field="p")],
        )
    assert ["whose gradients 'u' has" in str(w.message) for w in found] == (
        [] if is_stable else [True]
    )


def test_quadrilaterals_that_are_no_parallelograms_are_a_pair():
    mesh = fem.unit_square(3, quadrilaterals=True)
    p = mesh.p + 0.05 * np.sin(3 * mesh.p[::-1])
    mesh = skfem.MeshQuad(p, mesh.t)
    space = fem.MixedSpace(
        {
            "u": fem.Space(mesh, element=skfem.ElementQuadRT0()),
            "p": fem.Space(mesh, element=skfem.ElementQuad0()),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = pddlvm.Problem(
            "darcy",
            space,
            [pddlvm.Flux(space.interior(), darcy)],
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
        )
    assert torch.isfinite(problem.solve(ONE)).all()
