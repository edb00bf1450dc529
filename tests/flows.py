"""Flows in two fields, velocity u and pressure p, as several test files have them."""

import torch

import pddlvm
from pddlvm import fem

MESH = fem.unit_square(3).with_subdomains({"low": lambda x: x[1] < 0.5})
VELOCITY, PRESSURE = fem.Space(MESH, 2, n_components=2), fem.Space(MESH)
SPACE = fem.MixedSpace({"u": VELOCITY, "p": PRESSURE})
U, P = (SPACE.field(name)[0] for name in "up")
"""Velocity and pressure on a mesh with a subdomain, and their degrees of freedom."""

VISCOSITY = pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))


def stokes(u, du, p, dp, x, nu):
    """-div(nu grad u - p) = 0 and div u = 0."""
    return {"u": (0.0, nu * du - p * torch.eye(2, dtype=x.dtype)), "p": (du.trace(), 0.0)}


def navier_stokes(u, du, p, x, nu):
    """(u . grad) u - div(nu grad u - p) = 0 and div u = 0."""
    return {"u": (du @ u, nu * du - p * torch.eye(2, dtype=x.dtype)), "p": (du.trace(), 0.0)}


def parabola(x):
    """Inflow of height one."""
    return torch.stack([4 * x[1] * (1 - x[1]), torch.zeros_like(x[0])])


def lid(x):
    """A lid that moves to the right, at rest at its ends."""
    return torch.stack([4 * x[0] * (1 - x[0]), torch.zeros_like(x[0])])


def taylor_hood(mesh):
    """Velocity of degree 2, pressure of degree 1."""
    return fem.MixedSpace({"u": fem.Space(mesh, 2, n_components=2), "p": fem.Space(mesh)})


def channel(n=4, function=stokes, space=None, **changes):
    """A channel with an open end; the solution for a constant viscosity is a parabola."""
    space = space or taylor_hood(fem.unit_square(n))
    arguments = {
        "space": space,
        "terms": [pddlvm.Flux(space.interior(), function)],
        "fields": {"nu": VISCOSITY},
        "dirichlet": [
            pddlvm.Dirichlet("left", parabola),
            pddlvm.Dirichlet("top"),
            pddlvm.Dirichlet("bottom"),
        ],
    }
    return pddlvm.Problem("channel", **(arguments | changes))


def random_channel():
    """A channel with a random viscosity and a random inflow."""
    space = taylor_hood(fem.unit_square(4))

    def inflow(x, speed):
        return speed * parabola(x)

    fields = {
        "nu": pddlvm.KarhunenLoeve.on(space.field("p")[1], 2, length=0.5, std=0.5),
        "speed": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
    }
    walls = [pddlvm.Dirichlet("left", inflow), pddlvm.Dirichlet("top"), pddlvm.Dirichlet("bottom")]
    return channel(space=space, fields=fields, dirichlet=walls)


def draw(n):
    """A solution of n numbers that means nothing."""
    return torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
