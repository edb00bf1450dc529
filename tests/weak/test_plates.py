"""Plates and beams by elements with second derivatives: published values, orders and supports."""

from dataclasses import replace

import numpy as np
import pytest
import skfem
import torch
from checks import orders, refuses
from elements import bending, plate
from torch.func import jacrev, vmap

import pddlvm
from pddlvm import fem

ONE = torch.ones(1, dtype=torch.float64)
CLAMPED, SUPPORTED = pddlvm.Dirichlet(None), pddlvm.Dirichlet(None, slopes=False)
CENTRE = {"clamped": 0.001265, "supported": 0.004062}
"""Deflection of the centre, over q a^4 / D (Timoshenko and Woinowsky-Krieger, tables 8 and 35)."""


def centre(problem):
    return float((problem.evaluation([[0.5, 0.5]]) @ problem.solve(ONE).numpy())[0])


@pytest.mark.parametrize(("condition", "name"), [(CLAMPED, "clamped"), (SUPPORTED, "supported")])
@pytest.mark.parametrize(
    ("element", "mesh"),
    [
        (skfem.ElementTriArgyris(), fem.unit_square(4)),
        (skfem.ElementQuadBFS(), fem.unit_square(6, quadrilaterals=True)),
    ],
    ids=["Argyris", "BFS"],
)
def test_conforming_elements_have_the_published_deflection(element, mesh, condition, name):
    problem = plate(element=element, mesh=mesh, dirichlet=[condition])
    assert centre(problem) == pytest.approx(CENTRE[name], rel=1e-3)


@pytest.mark.parametrize(("condition", "name"), [(CLAMPED, "clamped"), (SUPPORTED, "supported")])
def test_morley_converges_to_the_published_deflection(condition, name):
    """Of second order, from above."""
    errors = [centre(plate(n, dirichlet=[condition])) - CENTRE[name] for n in (8, 16, 32)]
    assert (orders([[e] for e in errors]) > 1.7).all()
    assert 0 < errors[-1] < 0.03 * CENTRE[name]


def bump(x):
    return ((torch.pi * x).sin() ** 2).prod()


def load(x):
    """Its fourth derivatives, d_0000 + 2 d_0011 + d_1111, with sin^2 = (1 - cos) / 2."""
    a, b = (2 * torch.pi * x).cos()
    return (2 * torch.pi) ** 4 / 4 * (4 * a * b - a - b)


def test_morley_is_of_first_order_in_the_energy():
    """Both u and u_n of the solution are zero all around."""

    def density(u, du, x, ddu, D):
        return 0.5 * D * (0.7 * (ddu * ddu).sum() + 0.3 * ddu.trace() ** 2) - load(x) * u

    errors = []
    for n in (8, 16, 32):
        space = fem.Space(fem.unit_square(n), element=skfem.ElementTriMorley())
        problem = pddlvm.Problem(
            "plate",
            space,
            [pddlvm.Energy(space.interior(), density)],
            {"D": pddlvm.Constant(pddlvm.LogNormal())},
            [CLAMPED],
        )
        region = space.interior()
        e = (region.matrix @ problem.solve(ONE).numpy()).reshape(-1, 7)
        exact = vmap(jacrev(jacrev(bump)))(torch.from_numpy(region.points.x)).reshape(-1, 4).numpy()
        errors.append([np.sqrt(region.weights.ravel() @ ((e[:, 3:] - exact) ** 2).sum(axis=1))])
    assert orders(errors)[-1] == pytest.approx(1.0, abs=0.15)


# A beam: EI u'''' = 1


def beam(n, dirichlet, space=None):
    space = space or fem.Space(fem.interval(n), element=skfem.ElementLineHermite())

    def density(u, du, x, EI, ddu):
        return 0.5 * EI * ddu[0, 0] ** 2 - u

    return pddlvm.Problem(
        "beam",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {"EI": pddlvm.Constant(pddlvm.LogNormal())},
        dirichlet,
    )


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(
    ("dirichlet", "exact"),
    [
        ([pddlvm.Dirichlet("left")], lambda x: x**2 * (6 - 4 * x + x**2) / 24),
        ([SUPPORTED], lambda x: x * (1 - 2 * x**2 + x**3) / 24),
        ([CLAMPED, SUPPORTED][:1], lambda x: (x * (1 - x)) ** 2 / 24),
    ],
    ids=["cantilever", "supported", "clamped"],
)
def test_a_beam_is_exact_at_its_nodes(n, dirichlet, exact):
    if n == 1 and dirichlet == [CLAMPED]:
        return
    problem = beam(n, dirichlet)
    u = problem.space.at_nodes(problem.solve(ONE).numpy())[:, 0]
    np.testing.assert_allclose(u, exact(problem.space.mesh.p[0]), atol=1e-13)


def test_a_support_may_settle():
    """u = 0.1 at both ends, whose slopes are zero or free: the beam moves as it is."""
    for slopes in (True, False):
        moved = beam(3, [pddlvm.Dirichlet(None, 0.1, slopes=slopes)]).solve(ONE)
        at_rest = beam(3, [pddlvm.Dirichlet(None, slopes=slopes)]).solve(ONE)
        difference = moved - at_rest
        torch.testing.assert_close(difference[::2], torch.full_like(difference[::2], 0.1))
        # Slopes of size 0.1 / 3.
        assert difference[1::2].abs().max() < 1e-12


def test_a_function_may_be_given_where_slopes_are_free():
    problem = beam(3, [pddlvm.Dirichlet(None, lambda x: 0.2 * x[0], slopes=False)])
    u = problem.space.at_nodes(problem.solve(ONE).numpy())[[0, -1], 0]
    np.testing.assert_allclose(u, [0.0, 0.2], atol=1e-13)
    refuses("some degrees of freedom are slopes", beam, 3, [pddlvm.Dirichlet(None, lambda x: x[0])])


# Supports


@pytest.mark.parametrize(
    ("dirichlet", "is_held"),
    [
        ([pddlvm.Dirichlet("left")], True),
        ([SUPPORTED], True),
        ([pddlvm.Dirichlet("left", slopes=False)], False),
        ([pddlvm.Dirichlet(fem.Nodes([0]), slopes=False)], False),
    ],
)
def test_a_beam_that_can_tilt_is_refused(dirichlet, is_held):
    if is_held:
        assert torch.isfinite(beam(3, dirichlet).solve(ONE)).all()
    else:
        refuses("not enough to keep it from turning", beam, 3, dirichlet)


def test_a_plate_on_two_corners_tilts_and_on_three_does_not():
    corners = [0, 4, 20]
    points = fem.unit_square(4).p.T[corners]
    assert np.linalg.matrix_rank(points - points[0]) == 2
    held = [pddlvm.Dirichlet(fem.Nodes(corners), slopes=False)]
    assert torch.isfinite(plate(4, dirichlet=held).solve(ONE)).all()
    two = [pddlvm.Dirichlet(fem.Nodes(corners[:2]), slopes=False)]
    refuses("not enough to keep it from turning", plate, 4, dirichlet=two)


def kinds(element, mesh, slopes):
    """What is held along the bottom."""
    space = fem.Space(mesh, element=element)
    held = pddlvm.Dirichlet("bottom", slopes=slopes).dofs_of(space)
    return sorted({space.dof_kinds[dof] for dof in held})


def test_supports_of_argyris_hold_what_they_should():
    """Along y = 0: of a clamped edge all but u_yy is zero, of a supported one u, u_x and u_xx."""
    element, mesh = skfem.ElementTriArgyris(), fem.unit_square(2)
    assert kinds(element, mesh, True) == ["", "n", "x", "xx", "xy", "y"]
    assert kinds(element, mesh, False) == ["", "x", "xx"]


def test_oblique_edges_are_for_morley():
    mesh = fem.unit_square(2)
    mesh = replace(mesh, doflocs=mesh.p + 0.3 * mesh.p[::-1])
    refuses("needs edges along the axes", kinds, skfem.ElementTriArgyris(), mesh, True)
    assert kinds(skfem.ElementTriMorley(), mesh, False) == [""]
    assert kinds(skfem.ElementTriMorley(), mesh, True) == ["", "n"]


def test_free_slopes_are_of_elements_that_have_some():
    space = fem.Space(fem.interval(3))

    def density(u, du, x, EI):
        return 0.5 * EI * du[0] ** 2 - u

    def make():
        return pddlvm.Problem(
            "bar",
            space,
            [pddlvm.Energy(space.interior(), density)],
            {"EI": pddlvm.Constant(pddlvm.LogNormal())},
            [SUPPORTED],
        )

    refuses("slopes=False leaves the slopes of a plate or a beam free", make)


# What functions read and return


def test_second_derivatives_of_other_elements_are_refused_by_name():
    refuses(
        "'ddu' would be second derivatives of 'u'.*ElementTriMorley",
        beam,
        3,
        [CLAMPED],
        fem.Space(fem.interval(3)),
    )


def test_a_flux_of_a_plate_is_a_triple_or_a_pair():
    """The rows of the energy, those of a load by itself."""
    space = plate(dirichlet=[CLAMPED]).space

    def moments(u, du, x, ddu, D):
        return 0.0, 0, D * (0.7 * ddu + 0.3 * ddu.trace() * torch.eye(2, dtype=x.dtype))

    terms = [
        pddlvm.Flux(space.interior(), moments),
        pddlvm.Flux(space.interior(), lambda u, du, x: (-1.0, 0)),
    ]
    D = {"D": pddlvm.Constant(pddlvm.LogNormal())}
    by_flux = pddlvm.Problem("plate", space, terms, D, [CLAMPED])
    expected = plate(dirichlet=[CLAMPED]).solve(ONE)
    torch.testing.assert_close(by_flux.solve(ONE), expected, rtol=1e-10, atol=1e-14)

    def too_many(u, du, x, D):
        return 0.0, 0, 0, D

    refuses(
        r"\(f0, f1\) or \(f0, f1, f2\)",
        pddlvm.Problem,
        "plate",
        space,
        [pddlvm.Flux(space.interior(), too_many)],
        D,
        [CLAMPED],
    )

    def small(u, du, x, D):
        return 0.0, 0, D * du

    refuses(
        r"f2 has 2 entries, and 4 are expected, in the shape \(2, 2\) of ddu",
        pddlvm.Problem,
        "plate",
        space,
        [pddlvm.Flux(space.interior(), small)],
        D,
        [CLAMPED],
    )


def test_a_parameter_field_is_not_called_as_a_derivative():
    space = plate(dirichlet=[CLAMPED]).space
    refuses(
        "the Hessian of the solution",
        pddlvm.Problem,
        "plate",
        space,
        [pddlvm.Energy(space.interior(), bending)],
        {"D": 1.0, "q": 1.0, "ddu": pddlvm.Constant(pddlvm.LogNormal())},
        [CLAMPED],
    )


def test_a_plate_with_a_hinge_line_is_a_field_of_a_mixed_space():
    """w of a plate beside u of a membrane: `ddw` by its name."""
    mesh = fem.unit_square(3)
    space = fem.MixedSpace(
        {"w": fem.Space(mesh, element=skfem.ElementTriMorley()), "u": fem.Space(mesh)}
    )

    def density(w, ddw, u, du, x, k):
        return 0.5 * (ddw * ddw).sum() + 0.5 * k * du @ du + 5.0 * (w - u) ** 2 - w

    both = [pddlvm.Dirichlet(None, field=name) for name in ("w", "u")]
    problem = pddlvm.Problem(
        "both",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {"k": pddlvm.Constant(pddlvm.LogNormal())},
        both,
    )
    u = problem.solve(ONE)
    assert problem.residual(u, ONE).abs().max() < 1e-12
    assert (u.abs() > 0).any()
