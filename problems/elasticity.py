"""Elastic bodies: nearly incompressible, at large strains, and of two materials.

    -div sigma = 0,    sigma n = t on the loaded side,    u = 0 on the clamped one
    sigma = 2 mu eps - p,  p = -lambda div u      u and p are fields      `make_incompressible`
    Pi = int W(1 + grad u) - int t . u            neo-Hookean             `make_neo_hookean`
    sigma = 2 mu eps + lambda tr(eps)             two materials, 3D       `make_bracket`

with eps = (grad u + grad u^T) / 2, mu = E / (2 (1 + nu)), lambda = 2 mu nu / (1 - 2 nu). Plane
bodies are in plane strain.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem
from problems.stokes import Rows, taylor_hood

__all__ = ["cook_membrane", "make_bracket", "make_incompressible", "make_neo_hookean"]


def moduli(E: Tensor, nu: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mu and lambda."""
    mu = E / (2 * (1 + nu))
    return mu, 2 * mu * nu / (1 - 2 * nu)


def mixed(du: Tensor, p: Tensor, E: Tensor, nu: Tensor) -> Rows:
    """sigma : grad v, and -q (div u + p / lambda): a symmetric saddle point."""
    mu, lame = moduli(E, nu)
    unit = torch.eye(len(du), dtype=du.dtype, device=du.device)
    return {"u": (0.0, mu * (du + du.T) - p * unit), "p": (-du.trace() - p / lame, 0.0)}


def shear(u: Tensor, load: Tensor) -> Rows:
    """-t . v of a traction upwards."""
    return {"u": (-torch.stack([0 * load, load]), 0.0)}


def poisson_ratio(g: Tensor) -> Tensor:
    """Nu of 1 - 2 nu = exp g."""
    return 0.5 * (1 - g.exp())


def cook_membrane(n: int) -> Any:
    """The panel with corners (0, 0), (48, 44), (48, 60), (0, 44), of n x n pairs of triangles.

    (R. D. Cook, J. Struct. Div. ASCE 100, 1851-1863, 1974.) They are smaller towards the upper
    left corner, where stresses are singular.
    """
    graded = fem.unit_square(n).morphed(lambda x: x[0] ** 1.5, lambda x: 1 - (1 - x[1]) ** 1.5)
    return graded.morphed(lambda x: 48 * x[0], lambda x: 44 * x[0] + (44 - 28 * x[0]) * x[1])


def make_incompressible(
    n: int = 20, n_terms: int = 4, *, length: float = 30.0, std: float = 0.3
) -> pddlvm.Problem:
    """Cook's membrane: clamped on the left, sheared on the right, nu from 0.3 to 0.4999.

    log(1 - 2 nu) ~ U[ln 2e-4, ln 0.4], log E a Karhunen-Loève field of mean zero, traction upwards
    load ~ U[0.5, 1.5] / 1000, in units of the median of E. Displacement u of degree 2, pressure p
    of degree 1 (Taylor and Hood) are inf-sup stable and do not lock as nu goes to 1/2, as linear
    elements of u alone do. With n = 20 3,803 degrees of freedom.

    Args:
        n: cells per side.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of log E; the membrane is 48 long.
        std: of log E.
    """
    mesh = cook_membrane(n)
    space = taylor_hood(mesh)
    gap = pddlvm.Uniform(math.log(2e-4), math.log(0.4))
    return pddlvm.Problem(
        "incompressible-elasticity",
        space,
        terms=[
            pddlvm.Flux(space.interior(), mixed),
            pddlvm.Flux(space.boundary("right"), shear),
        ],
        fields={
            "E": pddlvm.KarhunenLoeve.on(fem.Space(mesh), n_terms, length=length, std=std),
            "nu": pddlvm.Constant(gap, link=poisson_ratio),
            "load": pddlvm.Constant(pddlvm.Uniform(0.5e-3, 1.5e-3)),
        },
        dirichlet=[pddlvm.Dirichlet("left")],
    )


def neo_hookean(u: Tensor, du: Tensor, x: Tensor, E: Tensor, nu: float) -> Tensor:
    """W = mu/2 (|F|^2 - 2) - mu (J - 1) + (lambda + mu)/2 (J - 1)^2, F = 1 + grad u, J = det F.

    In plane strain. It is finite for all F, also where a guess turns cells inside out, and its
    small strains are those of E and nu (B. Smith, F. de Goes, T. Kim, ACM Trans. Graph. 37(2),
    2018).
    """
    mu, lame = moduli(E, nu)
    growth = du.trace() + du[0, 0] * du[1, 1] - du[0, 1] * du[1, 0]  # J - 1
    stretch = 2 * du.trace() + (du * du).sum()  # |F|^2 - 2
    return 0.5 * mu * stretch - mu * growth + 0.5 * (lame + mu) * growth**2


def pull(u: Tensor, du: Tensor, x: Tensor, load: Tensor) -> Tensor:
    """-t . u of a traction along x, per unit of the undeformed side."""
    return -load * u[0]


def make_neo_hookean(
    n: int = 16, n_terms: int = 4, *, length: float = 0.5, std: float = 0.3
) -> pddlvm.Problem:
    """A square plate, clamped on the left and pulled at its right to mean strains of 3 to 30 %.

    log E is a Karhunen-Loève field of mean zero, the traction load ~ U[0.05, 0.2] in units of the
    median of E, nu = 0.3. Newton's method starts without load, and needs no steps. Quadratic
    elements; with n = 16 2,178 degrees of freedom.

    Args:
        n: cells per side.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of log E, in sides.
        std: of log E.
    """
    # Three points a cell instead of six keep the order of quadratic elements.
    space = fem.Space(fem.unit_square(n), degree=2, n_components=2, quadrature=2)
    return pddlvm.Problem(
        "neo-hookean",
        space,
        terms=[
            pddlvm.Energy(space.interior(), neo_hookean),
            pddlvm.Energy(space.boundary("right"), pull),
        ],
        fields={
            "E": pddlvm.KarhunenLoeve.on(space, n_terms, length=length, std=std),
            "load": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2)),
            "nu": 0.3,
        },
        dirichlet=[pddlvm.Dirichlet("left")],
    )


def isotropic(du: Tensor, mu: Tensor, lame: Tensor) -> Tensor:
    """mu |eps|^2 + lambda/2 tr(eps)^2."""
    strain = 0.5 * (du + du.T)
    return mu * (strain * strain).sum() + 0.5 * lame * strain.trace() ** 2


def strain_energy(
    median: float, nu: float, u: Tensor, du: Tensor, x: Tensor, stiffness: Tensor
) -> Tensor:
    """mu |eps|^2 + lambda/2 tr(eps)^2 of a material, E = median stiffness."""
    return isotropic(du, *moduli(median * stiffness, nu))


def traction(u: Tensor, du: Tensor, x: Tensor, t_x: Tensor, t_y: Tensor, t_z: Tensor) -> Tensor:
    """-t . u."""
    return -(t_x * u[0] + t_y * u[1] + t_z * u[2])


def make_bracket(n: int = 8) -> pddlvm.Problem:
    """A bracket in three dimensions: a foot of steel, clamped below, and an upright of aluminium.

    Legs of length 1 along x and y, thickness 1/4, depth 1/2 along z. E is 210 GPa and 70 GPa, each
    times an uncertain stiffness, log stiffness ~ N(0, 0.2^2), and nu 0.3 and 0.33. On the end of
    the upright the traction (t_x, t_y, t_z), each ~ U[-10, 10] MPa. u in lengths of a leg.
    Quadratic tetrahedra; with n = 8 3,915 degrees of freedom.

    Args:
        n: cells per leg, a multiple of 4.
    """
    cube = fem.unit_cube(n)
    if n % 4:
        raise pddlvm.InputError(f"n must be a multiple of 4, for the thickness, got {n}")
    x, y, z = fem.Space(cube).centroids.x.T
    mesh = cube.restrict((((x < 1 / 4) | (y < 1 / 4)) & (z < 1 / 2)).nonzero()[0])
    mesh = mesh.with_subdomains(
        {"foot": lambda x: x[1] < 1 / 4, "upright": lambda x: x[1] > 1 / 4}
    ).with_boundaries({"base": lambda x: x[1] < 1e-9, "tip": lambda x: x[1] > 1 - 1e-9})
    space = fem.Space(mesh, degree=2, n_components=3)
    component = pddlvm.Constant(pddlvm.Uniform(-10.0, 10.0))
    return pddlvm.Problem(
        "bracket",
        space,
        terms=[
            pddlvm.Energy(space.interior("foot"), partial(strain_energy, 210e3, 0.3)),
            pddlvm.Energy(space.interior("upright"), partial(strain_energy, 70e3, 0.33)),
            pddlvm.Energy(space.boundary("tip"), traction),
        ],
        fields={
            "stiffness": pddlvm.Piecewise.on_subdomains(
                space, ["foot", "upright"], prior=pddlvm.LogNormal(0.0, 0.2)
            ),
            "t_x": component,
            "t_y": component,
            "t_z": component,
        },
        dirichlet=[pddlvm.Dirichlet("base")],
    )
