"""Elastic thin shells with an uncertain modulus or thickness.

    Pi = int t/2 e : C(E) e + t^3/24 k : C(E) k - p . u,     E Young's modulus, t thickness

e and k are membrane strain and curvature of the mid-surface (Kirchhoff-Love), C that of plane
stress.
"""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem, links, supports

__all__ = ["make", "make_roof", "plane_stress"]


def plane_stress(strain: Tensor, E: Tensor | float, nu: Tensor | float) -> Tensor:
    """Energy 1/2 e : C e of e = (e11, e22, 2 e12) per unit of thickness."""
    e11, e22, shear = strain
    direct = e11**2 + e22**2 + 2 * nu * e11 * e22
    return 0.5 * E / (1 - nu**2) * (direct + 0.5 * (1 - nu) * shear**2)


def membrane_energy(
    u: Tensor, strain: Tensor, x: Tensor, E: Tensor, thickness: Tensor, nu: float
) -> Tensor:
    """Energy of the membrane strain."""
    return thickness * plane_stress(strain, E, nu)


def bending_energy(
    u: Tensor, curvature: Tensor, x: Tensor, E: Tensor, thickness: Tensor, nu: float
) -> Tensor:
    """Energy of the curvature."""
    return thickness**3 / 12 * plane_stress(curvature, E, nu)


def push(up: int, low: float, height: float, u: Tensor, normal: Tensor, x: Tensor) -> Tensor:
    """Potential of a traction along the axis after `up`, up to 1e-6 at the top."""
    return -1e-6 * ((x[up] - low) / height) ** 2 * u[(up + 1) % 3]


def make(
    mesh: str | Path | fem.SurfaceMesh | None = None,
    *,
    thickness: float = 0.02,
    n_terms: int = 3,
    up: int = 1,
) -> pddlvm.Problem:
    """A surface, clamped at its foot and pushed aside, with a modulus that varies with the height.

    E = 1 + softplus(sum_i z_i T_i(height)), z_i ~ U[-2, 2], nu = 0.3 (the shell of Vadeboncoeur
    et al., arXiv 2208.04856, whose surface is the Stanford bunny). The traction grows with the
    square of the height, up to 1e-6.

    Args:
        mesh: a surface or a file of one; by default a hare. Its lowest 6 % are the foot, unless it
            has a vertex set `foot`.
        thickness: relative to the height.
        n_terms: Chebyshev polynomials of the modulus.
        up: axis of the height.

    Raises:
        MeshError: the file is not a surface that a shell can be put on.
        InputError: thickness or axis out of range.
    """
    if not (isinstance(thickness, float | int) and 0 < thickness < math.inf):
        raise pddlvm.InputError(f"thickness must be positive and finite, got {thickness!r}")
    if not (isinstance(up, int) and not isinstance(up, bool) and 0 <= up <= 2):
        raise pddlvm.InputError(f"up must be 0, 1 or 2, got {up!r}")
    if mesh is None:
        mesh = fem.hare()
    elif not isinstance(mesh, fem.SurfaceMesh):
        mesh = fem.read_surface(mesh)
    low, high = float(mesh.p[up].min()), float(mesh.p[up].max())
    height = high - low
    if "foot" not in mesh.vertex_sets:
        mesh = mesh.with_sets(foot=lambda x: x[up] < low + 0.06 * height)

    space = fem.ShellSpace(mesh)
    return pddlvm.Problem(
        "shell",
        space,
        terms=[
            pddlvm.Energy(space.membrane(), membrane_energy),
            pddlvm.Energy(space.bending(), bending_energy),
            pddlvm.Energy(space.faces(), partial(push, up, low, height)),
        ],
        fields={
            "E": pddlvm.Chebyshev(
                n_terms=n_terms,
                low=low,
                high=high,
                axis=up,
                prior=pddlvm.Uniform(-2.0, 2.0),
                link=links.one_plus_softplus,
            ),
            "thickness": thickness * height,
            "nu": 0.3,
        },
        dirichlet=supports.clamped("foot"),
    )


def own_weight(u: Tensor, normal: Tensor, x: Tensor, load: Tensor) -> Tensor:
    """Potential of 90 load per unit of area, downwards along z."""
    return 90.0 * load * u[2]


def quarter_thickness(g: Tensor) -> Tensor:
    """0.25 exp g."""
    return 0.25 * torch.exp(g)


def make_roof(n: int = 20, n_terms: int = 8, *, length: float = 20.0) -> pddlvm.Problem:
    """Scordelis-Lo roof, a quarter of it, with an uncertain thickness and load.

    t = 0.25 exp(g) with a Matérn field g of standard deviation 0.2 along the surface, load factor
    ~ U[0.5, 1.5] on 90 per unit of area, E = 4.32e8, nu = 0, diaphragms at the ends.

    Args:
        n: cells per side.
        n_terms: terms of the field g.
        length: correlation length of g along the surface.
    """
    mesh = fem.roof(n)
    space = fem.ShellSpace(mesh)
    return pddlvm.Problem(
        "roof",
        space,
        terms=[
            pddlvm.Energy(space.membrane(), membrane_energy),
            pddlvm.Energy(space.bending(), bending_energy),
            pddlvm.Energy(space.faces(), own_weight),
        ],
        fields={
            "thickness": pddlvm.SurfaceField.on(
                mesh, n_terms, length=length, std=0.2, link=quarter_thickness
            ),
            "load": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "E": 4.32e8,
            "nu": 0.0,
        },
        dirichlet=[
            *supports.symmetry("crown", 0),
            *supports.symmetry("middle", 1),
            *supports.diaphragm("end", 1),
        ],
    )
