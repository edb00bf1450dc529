"""Linear Poisson problems: diffusion with an uncertain conductivity.

-div(kappa(x; z) grad u) = f   in the domain,     Pi = int 1/2 kappa |grad u|^2 - f u
u = g on the Dirichlet boundary,   kappa du/dn = q on the rest
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

import pddlvm
from pddlvm import fem, links

__all__ = ["make", "make_1d"]

Density = Callable[..., Tensor]


def diffusion(u: Tensor, du: Tensor, x: Tensor, kappa: Tensor) -> Tensor:
    """Stored energy 1/2 kappa |grad u|^2."""
    return 0.5 * kappa * (du * du).sum()


def load(u: Tensor, du: Tensor, x: Tensor, f: Tensor) -> Tensor:
    """Potential of a volume source, -f u."""
    return -f * u


def diffusion_in_material(median: float) -> Density:
    """Stored energy 1/2 median factor kappa |grad u|^2 of one material."""

    def density(u: Tensor, du: Tensor, x: Tensor, kappa: Tensor, material: Tensor) -> Tensor:
        return 0.5 * median * material * kappa * (du * du).sum()

    return density


def boundary_flux(q: float) -> Density:
    """Potential -q u of a flux q into the domain."""

    def density(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
        return -q * u

    return density


def make_1d(n: int = 20) -> pddlvm.Problem:
    """-(kappa u')' = 1 on [-1, 1], u(-1) = 0, u(1) = 1/2, kappa = softplus(z), z ~ N(0, 1).

    The 1D case of Vadeboncoeur et al. (arXiv 2208.04856), on n linear elements.
    """
    space = fem.Space(fem.interval(n, -1.0, 1.0))
    return pddlvm.Problem(
        "poisson-1d",
        space,
        terms=[
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.interior(), load),
        ],
        fields={"kappa": pddlvm.Constant(pddlvm.Normal(), link=links.softplus), "f": 1.0},
        dirichlet=[pddlvm.Dirichlet("left", 0.0), pddlvm.Dirichlet("right", 0.5)],
    )


def make(
    n: int = 32,
    n_terms: int = 16,
    mesh: str | Path | None = None,
    *,
    length: float = 0.3,
    source: float = 10.0,
    dirichlet: Mapping[str | None, float] | None = None,
    flux: Mapping[str, float] | None = None,
    materials: Mapping[str, float] | None = None,
    spread: float = 0.5,
) -> pddlvm.Problem:
    """-div(kappa grad u) = f with a log-normal Karhunen-Loève conductivity kappa.

    By default the unit square, u = 0 on its boundary, f = 10, and kappa = exp(g) with g Gaussian
    of unit variance and Gaussian covariance. With `materials` the conductivity is kappa times
    median times an uncertain factor on each subdomain, log factor ~ N(0, spread^2).

    Args:
        n: cells per side of the unit square, (n + 1)^2 nodes.
        n_terms: terms of the Karhunen-Loève expansion.
        mesh: a mesh file of lines, triangles, quadrilaterals, tetrahedra or hexahedra instead.
        length: correlation length of log kappa, in units of the mesh.
        source: f, per unit of volume.
        dirichlet: u on named boundaries; default 0 on the whole boundary.
        flux: flux kappa du/dn into the domain on named boundaries; zero elsewhere.
        materials: median of the conductivity of each named subdomain; they must cover the mesh.
        spread: standard deviation of the log factor of each material.

    Raises:
        MeshError: the file is not a mesh, or lacks a boundary or subdomain that is named.
    """
    space = fem.Space(fem.unit_square(n) if mesh is None else fem.read_mesh(mesh))
    kappa = pddlvm.KarhunenLoeve.on(space, n_terms, length=length)
    fields: dict[str, pddlvm.Field | float] = {"kappa": kappa, "f": source}
    if materials is None:
        stored = [pddlvm.Energy(space.interior(), diffusion)]
    else:
        stored = [
            pddlvm.Energy(space.interior(name), diffusion_in_material(median))
            for name, median in materials.items()
        ]
        fields["material"] = pddlvm.Piecewise.on_subdomains(
            space, list(materials), prior=pddlvm.LogNormal(0.0, spread)
        )
    loads = [pddlvm.Energy(space.interior(), load)] if source else []
    inflow = [
        pddlvm.Energy(space.boundary(name), boundary_flux(q)) for name, q in (flux or {}).items()
    ]
    return pddlvm.Problem(
        "poisson",
        space,
        terms=[*stored, *loads, *inflow],
        fields=fields,
        dirichlet=[pddlvm.Dirichlet(k, g) for k, g in (dirichlet or {None: 0.0}).items()],
    )
