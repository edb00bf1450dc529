"""Nonlinear problems in strong form, for maps that need no mesh.

    heat               u_t = (1 / gamma) ((kappa u + 1 / kappa) u_x)_x      (0, 2 pi) x (0, 2)
    Burgers            u_t + u u_x = nu u_xx                                (-1, 1) x (0, 1)
    reaction-diffusion u_t = D u_xx + rate u^2 + f(x; z)                    (0, 1) x (0, 1)
    heat in the plane  u_t = D (u_xx + u_yy) + q(x, y; z)                   (0, 1)^2 x (0, 1)
    Navier-Stokes      psi_y D psi_x - psi_x D psi_y = D^2 psi / Re,   D = d_xx + d_yy

The first is the case of Vadeboncoeur et al., arXiv 2208.04856, section 4. References are exact
for Burgers (`problems.cole_hopf`), on the nodes for a flow, by `problems.method_of_lines` else, and
for validation only.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem, links
from problems import cole_hopf, method_of_lines

__all__ = [
    "make_burgers",
    "make_heat",
    "make_heat_2d",
    "make_navier_stokes",
    "make_reaction_diffusion",
]


HEAT, WIDTH = 5.0, 0.15
"""Of the source in the plane."""


def heat(u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, gamma: Tensor, kappa: Tensor) -> Tensor:
    """Residual of the nonlinear heat equation."""
    return u_t - ((kappa * u + 1 / kappa) * u_xx + kappa * u_x**2) / gamma


def _wave(x: Tensor) -> Tensor:
    return 1 + torch.sin(x)


def make_heat(grid: tuple[int, int] = (100, 200)) -> pddlvm.CollocationProblem:
    """Conductivity kappa u + 1 / kappa and capacity gamma, both U[1, 5].

    u = 1 + sin x at the start, u = 1 at both ends.

    Args:
        grid: points in x and t on which solutions are compared and inverted.
    """
    box = pddlvm.Box(x=(0.0, 2 * math.pi), t=(0.0, 2.0))
    return pddlvm.CollocationProblem(
        "nonlinear heat",
        box,
        heat,
        fields={
            "gamma": pddlvm.Constant(pddlvm.Uniform(1.0, 5.0)),
            "kappa": pddlvm.Constant(pddlvm.Uniform(1.0, 5.0)),
        },
        lift=_wave,
        hard=[box.start("t"), box.start("x"), box.end("x")],
        stretch={"t": pddlvm.Graded()},
        grid=grid,
        reference=partial(_on_grid, method_of_lines.heat, box, grid),
    )


def burgers(u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, log_viscosity: Tensor) -> Tensor:
    """Residual of the viscous Burgers equation."""
    return u_t + u * u_x - torch.exp(log_viscosity) * u_xx


def steepness(u_x: Tensor) -> Tensor:
    """Where the solution is steep the residual may be larger: sqrt(1 + u_x^2 / 10)."""
    return torch.sqrt(1 + 0.1 * u_x**2)


def _odd_wave(x: Tensor) -> Tensor:
    return -torch.sin(math.pi * x)


def _width_of_layer(log_viscosity: Tensor) -> Tensor:
    return 3 * torch.exp(log_viscosity)


def make_burgers(grid: tuple[int, int] = (100, 200)) -> pddlvm.CollocationProblem:
    """Viscosity log-uniform in [0.01 / pi, 0.1]; u = -sin(pi x) at the start, 0 at both ends.

    The reference coordinate follows the layer at x = 0, whose width is some 3 nu.

    Args:
        grid: points in x and t on which solutions are compared and inverted.
    """
    box = pddlvm.Box(x=(-1.0, 1.0), t=(0.0, 1.0))
    return pddlvm.CollocationProblem(
        "Burgers",
        box,
        burgers,
        fields={
            "log_viscosity": pddlvm.Constant(
                pddlvm.Uniform(math.log(0.01 / math.pi), math.log(0.1))
            )
        },
        lift=_odd_wave,
        hard=[box.start("t"), box.start("x"), box.end("x")],
        odd=["x"],
        stretch={"x": pddlvm.Sinh(0.0, _width_of_layer)},
        residual_scale=steepness,
        grid=grid,
        nodes=(48, 32),
        reference=partial(_on_grid, cole_hopf.burgers, box, grid),
    )


def reaction_diffusion(
    diffusion: float, rate: float, u: Tensor, u_t: Tensor, u_xx: Tensor, f: Tensor
) -> Tensor:
    """Residual of a reaction-diffusion equation with a source f."""
    return u_t - diffusion * u_xx - rate * u**2 - f


def make_reaction_diffusion(
    diffusion: float = 0.01, rate: float = 0.01, grid: tuple[int, int] = (100, 100)
) -> pddlvm.CollocationProblem:
    """Source f(x; z), a Gaussian field with five Karhunen-Loève terms; zero values all around.

    Args:
        diffusion: D > 0.
        rate: of the reaction.
        grid: points in x and t on which solutions are compared and inverted.
    """
    if not (isinstance(diffusion, float | int) and 0 < diffusion < math.inf):
        raise pddlvm.InputError(f"diffusion must be positive and finite, got {diffusion!r}")
    if not (isinstance(rate, float | int) and math.isfinite(rate)):
        raise pddlvm.InputError(f"rate must be a finite number, got {rate!r}")
    box = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
    f = pddlvm.KarhunenLoeve.on(fem.Space(fem.interval(256)), 5, length=0.2, link=links.identity)
    return pddlvm.CollocationProblem(
        "reaction-diffusion",
        box,
        partial(reaction_diffusion, diffusion, rate),
        fields={"f": f},
        along={"f": "x"},
        hard=[box.start("t"), box.start("x"), box.end("x")],
        stretch={"t": pddlvm.Graded()},
        grid=grid,
        reference=partial(
            _on_grid,
            partial(method_of_lines.reaction_diffusion, f, diffusion, rate),
            box,
            grid,
        ),
    )


def heat_2d(
    u_t: Tensor,
    u_xx: Tensor,
    u_yy: Tensor,
    x: Tensor,
    y: Tensor,
    diffusivity: Tensor,
    x0: Tensor,
    y0: Tensor,
) -> Tensor:
    """Residual of a plate that is heated around (x0, y0)."""
    near = torch.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * WIDTH**2))
    return u_t - diffusivity * (u_xx + u_yy) - HEAT * near


def make_heat_2d(
    grid: tuple[int, int, int] = (25, 25, 21), nodes: tuple[int, int, int] = (16, 16, 12)
) -> pddlvm.CollocationProblem:
    """A cold plate whose edges stay cold, heated around an uncertain place from the start on.

    Diffusivity U[0.05, 0.2], and the place of the source U[0.3, 0.7] in x and in y.

    Args:
        grid: points in x, y and t on which solutions are compared and inverted.
        nodes: Chebyshev nodes in x, y and t, also of the reference solutions.
    """
    box = pddlvm.Box(x=(0.0, 1.0), y=(0.0, 1.0), t=(0.0, 1.0))
    edges = [side(c) for c in ("x", "y") for side in (box.start, box.end)]
    place = pddlvm.Uniform(0.3, 0.7)
    return pddlvm.CollocationProblem(
        "heat in the plane",
        box,
        heat_2d,
        fields={
            "diffusivity": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2)),
            "x0": pddlvm.Constant(place),
            "y0": pddlvm.Constant(place),
        },
        hard=[box.start("t"), *edges],
        stretch={"t": pddlvm.Graded()},
        grid=grid,
        nodes=nodes,
    )


def navier_stokes(
    psi_x: Tensor,
    psi_y: Tensor,
    psi_xxx: Tensor,
    psi_xxy: Tensor,
    psi_xyy: Tensor,
    psi_yyy: Tensor,
    psi_xxxx: Tensor,
    psi_xxyy: Tensor,
    psi_yyyy: Tensor,
    Re: Tensor,
) -> Tensor:
    """The vorticity -D psi of the velocity (psi_y, -psi_x) is carried along, and diffuses."""
    carried = psi_y * (psi_xxx + psi_xyy) - psi_x * (psi_xxy + psi_yyy)
    return carried - (psi_xxxx + 2 * psi_xxyy + psi_yyyy) / Re


def _lid(x: Tensor, y: Tensor, skew: Tensor) -> Tensor:
    return (4 * x * (1 - x)) ** 2 * (1 + skew * (2 * x - 1)) * y**2 * (y - 1)


def make_navier_stokes(
    grid: tuple[int, int] = (41, 41), nodes: tuple[int, int] = (24, 24)
) -> pddlvm.CollocationProblem:
    """A steady flow in a cavity, by its stream function psi; the pressure is eliminated.

    The lid y = 1 moves with 16 x^2 (1 - x)^2 (1 + skew (2 x - 1)), smooth at both corners, the
    walls are at rest: psi and its slope are held all around. Re = exp(z), z ~ U[ln 10, ln 100], and
    skew ~ U[-0.5, 0.5].

    Args:
        grid: points in x and y on which solutions are compared and inverted.
        nodes: Chebyshev nodes in x and y, also of the reference solutions.
    """
    box = pddlvm.Box(x=(0.0, 1.0), y=(0.0, 1.0))
    return pddlvm.CollocationProblem(
        "Navier-Stokes",
        box,
        navier_stokes,
        unknowns=("psi",),
        fields={
            "Re": pddlvm.Constant(pddlvm.Uniform(math.log(10.0), math.log(100.0)), link=links.exp),
            "skew": pddlvm.Constant(pddlvm.Uniform(-0.5, 0.5)),
        },
        lift=_lid,
        hard=[side(c, with_slope=True) for c in box.names for side in (box.start, box.end)],
        grid=grid,
        nodes=nodes,
    )


def _on_grid(
    solve: Callable[[Tensor, Tensor, Tensor], Tensor],
    box: pddlvm.Box,
    grid: tuple[int, int],
    z: Tensor,
) -> Tensor:
    """A reference on the grid."""
    x, t = (
        torch.linspace(*interval, n, dtype=torch.float64)
        for interval, n in zip(box.intervals.values(), grid, strict=True)
    )
    return solve(z, x, t)
