"""Stokes flow of a fluid with an uncertain viscosity field.

    -div(2 nu(x; z) eps(u) - p) = 0,   div u = 0,   eps(u) = (grad u + grad u^T) / 2

Velocity u of degree 2 and pressure p of degree 1 (Taylor and Hood), a pair that is inf-sup stable.
Lengths are heights of the domain, velocities those of a unit inflow or lid, and nu is relative to
its median, p to that viscosity over a unit of time.
"""

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem

__all__ = ["make_cavity", "make_channel", "taylor_hood"]

Rows = dict[str, tuple[Tensor | float, Tensor | float]]
"""(f0, f1) of each field."""


def stokes(du: Tensor, p: Tensor, nu: Tensor) -> Rows:
    """2 nu eps(u) : grad v - p div v, and -q div u: a symmetric saddle point."""
    unit = torch.eye(len(du), dtype=du.dtype, device=du.device)
    return {"u": (0.0, nu * (du + du.T) - p * unit), "p": (-du.trace(), 0.0)}


def taylor_hood(mesh: object) -> fem.MixedSpace:
    """Velocity u of degree 2, pressure p of degree 1.

    Pairs of equal degree are not inf-sup stable: their pressures may oscillate without a word.
    """
    pressure = fem.Space(mesh)
    velocity = fem.Space(mesh, degree=2, n_components=pressure.dim)
    return fem.MixedSpace({"u": velocity, "p": pressure})


def inflow(x: Tensor, flow: Tensor, skew: Tensor) -> Tensor:
    """4 flow y (1 - y) + skew sin(2 pi y) along x: skew moves it up or down."""
    y = x[1]
    return torch.stack([4 * flow * y * (1 - y) + skew * (2 * torch.pi * y).sin(), 0 * y])


def make_channel(
    n: int = 12, n_terms: int = 4, *, length: float = 0.5, std: float = 0.5
) -> pddlvm.Problem:
    """A channel, three heights long, with a square obstacle of a third of its height.

    Flow enters on the left, u = 4 flow y (1 - y) + skew sin(2 pi y), and leaves on the right, where
    there is no traction; u = 0 on walls and obstacle. log nu is a Karhunen-Loève field of mean
    zero, flow ~ U[0.5, 1.5], skew ~ U[-0.4, 0.4]. With n = 12 4,024 degrees of freedom.

    Args:
        n: cells per height, a multiple of 3.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of log nu, in heights.
        std: of log nu.
    """
    square = fem.unit_square(n)
    if n % 3:
        raise pddlvm.InputError(f"n must be a multiple of 3, for the obstacle, got {n}")
    mesh = square + square.translated((1.0, 0.0)) + square.translated((2.0, 0.0))
    x, y = fem.Space(mesh).centroids.x.T
    is_fluid = (abs(x - 5 / 6) > 1 / 6) | (abs(y - 1 / 2) > 1 / 6)
    mesh = mesh.restrict(is_fluid.nonzero()[0])
    mesh = mesh.with_boundaries(
        {
            "inflow": lambda x: x[0] < 1e-9,
            "walls": lambda x: (x[0] > 1e-9) & (x[0] < 3 - 1e-9),
        }
    )
    space = taylor_hood(mesh)
    return pddlvm.Problem(
        "stokes-channel",
        space,
        terms=[pddlvm.Flux(space.interior(), stokes)],
        fields={
            "nu": pddlvm.KarhunenLoeve.on(fem.Space(mesh), n_terms, length=length, std=std),
            "flow": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "skew": pddlvm.Constant(pddlvm.Uniform(-0.4, 0.4)),
        },
        dirichlet=[pddlvm.Dirichlet("inflow", inflow), pddlvm.Dirichlet("walls")],
    )


def lid(x: Tensor, speed: Tensor, skew: Tensor) -> Tensor:
    """4 x (1 - x) (speed + skew (2 x - 1)) along x: zero at both corners."""
    s = x[0]
    return torch.stack([4 * s * (1 - s) * (speed + skew * (2 * s - 1)), 0 * s])


def make_cavity(
    n: int = 16, n_terms: int = 4, *, length: float = 0.5, std: float = 0.5
) -> pddlvm.Problem:
    """The unit square, driven by its lid, u = 4 x (1 - x) (speed + skew (2 x - 1)).

    u = 0 on the other sides, and the mean of p is zero. log nu is a Karhunen-Loève field of mean
    zero, speed ~ U[0.5, 1.5], skew ~ U[-0.5, 0.5]. With n = 16 2,467 degrees of freedom.

    Args:
        n: cells per side.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of log nu.
        std: of log nu.
    """
    mesh = fem.unit_square(n)
    space = taylor_hood(mesh)
    return pddlvm.Problem(
        "stokes-cavity",
        space,
        terms=[pddlvm.Flux(space.interior(), stokes)],
        fields={
            "nu": pddlvm.KarhunenLoeve.on(fem.Space(mesh), n_terms, length=length, std=std),
            "speed": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "skew": pddlvm.Constant(pddlvm.Uniform(-0.5, 0.5)),
        },
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", lid)],
        constraints=[pddlvm.MeanValue("p")],
    )
