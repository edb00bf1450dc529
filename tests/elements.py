"""Problems on elements of fluxes, circulations and second derivatives, that several tests share."""

import skfem
import torch

import pddlvm
from pddlvm import fem


def darcy_space(n, flux=None, pressure=None):
    """A flux u and a pressure p on the unit square, by default of the lowest order."""
    mesh = fem.unit_square(n)
    return fem.MixedSpace(
        {
            "u": fem.Space(mesh, element=flux or skfem.ElementTriRT0()),
            "p": fem.Space(mesh, element=pressure or skfem.ElementTriP0()),
        }
    )


def darcy(u, du, p, x, k):
    """u + k grad p = 0, div u = 1."""
    return {"u": (u / k, -p), "p": (1.0 - du, 0)}


def darcy_flow(n=4):
    """A wall on the left, a random outflow at the top; p = 0 on the rest."""
    space = darcy_space(n)
    return pddlvm.Problem(
        "darcy",
        space,
        [pddlvm.Flux(space.interior(), darcy)],
        {
            "k": pddlvm.KarhunenLoeve.on(space.field("p")[1], 3, length=0.5),
            "outflow": pddlvm.Constant(pddlvm.Uniform(0.1, 0.3)),
        },
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("top", lambda x, outflow: outflow)],
    )


def curls(n=4):
    """curl (k curl u) + u = (x_1, exp x_0), u . t = 0."""
    space = fem.Space(fem.unit_square(n), element=skfem.ElementTriN1())

    def density(u, du, x, k):
        load = torch.stack([x[1], x[0].exp()])
        return 0.5 * k * du**2 + 0.5 * (u * u).sum() - (load * u).sum()

    return pddlvm.Problem(
        "curls",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {"k": pddlvm.KarhunenLoeve.on(space, 3, length=0.5)},
        [pddlvm.Dirichlet(None)],
    )


def bending(u, du, x, ddu, D, q):
    """Kirchhoff's plate with a Poisson ratio of 0.3."""
    return 0.5 * D * (0.7 * (ddu * ddu).sum() + 0.3 * ddu.trace() ** 2) - q * u


def plate(n=4, element=None, *, D=None, dirichlet=(), mesh=None, **options):
    """The plate under a load of one, on the unit square."""
    mesh = fem.unit_square(n) if mesh is None else mesh
    space = fem.Space(mesh, element=element or skfem.ElementTriMorley(), **options)
    D = pddlvm.Constant(pddlvm.LogNormal()) if D is None else D
    terms = [pddlvm.Energy(space.interior(), bending)]
    return pddlvm.Problem("plate", space, terms, {"D": D, "q": 1.0}, dirichlet)


def stiff_plate(n=4):
    """Simply supported, of random stiffness."""
    D = pddlvm.KarhunenLoeve.on(fem.Space(fem.unit_square(n)), 3, length=0.5)
    return plate(n, D=D, dirichlet=[pddlvm.Dirichlet(None, slopes=False)], quadrature=2)
