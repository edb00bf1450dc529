"""Linear Poisson problems: diffusion with an uncertain conductivity.

-div(kappa(x; z) grad u) = f   in the domain,     Pi = int 1/2 kappa |grad u|^2 - f u
u = g on the Dirichlet boundary,   kappa du/dn = q on the rest
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

import pddlvm
from pddlvm import fem, links

__all__ = ["both_ends", "make", "make_1d", "make_missing_middle"]


def diffusion(u: Tensor, du: Tensor, x: Tensor, kappa: Tensor) -> Tensor:
    """Stored energy 1/2 kappa |grad u|^2."""
    return 0.5 * kappa * (du * du).sum()


def load(u: Tensor, du: Tensor, x: Tensor, f: Tensor) -> Tensor:
    """Potential of a volume source, -f u."""
    return -f * u


def diffusion_in_material(
    median: float, u: Tensor, du: Tensor, x: Tensor, kappa: Tensor, material: Tensor
) -> Tensor:
    """Stored energy 1/2 median factor kappa |grad u|^2 of one material."""
    return 0.5 * median * material * kappa * (du * du).sum()


def boundary_flux(q: float, u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    """Potential -q u of a flux q into the domain."""
    return -q * u


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


def value_on_the_left(x: Tensor, u_left: Tensor) -> Tensor:
    """Uncertain boundary value."""
    return u_left


def value_on_the_right(x: Tensor, u_right: Tensor) -> Tensor:
    """Uncertain boundary value."""
    return u_right


def make_missing_middle(n: int = 100) -> pddlvm.Problem:
    """-(kappa u')' = f on [-1, 1] with uncertain conductivity, load and boundary values.

    kappa = 1 + softplus(sum_i z_i T_i(x)) with four Chebyshev polynomials and z_i ~ U[-1, 1],
    f ~ U[1, 5], u(-1) and u(1) ~ U[-0.5, 0.5]: the case of Vadeboncoeur et al. (arXiv 2208.04856)
    in which u is seen at both ends of the interval only. See `both_ends`.
    """
    space = fem.Space(fem.interval(n, -1.0, 1.0))
    kappa = pddlvm.Chebyshev(
        n_terms=4,
        low=-1.0,
        high=1.0,
        prior=pddlvm.Uniform(-1.0, 1.0),
        link=links.one_plus_softplus,
    )
    return pddlvm.Problem(
        "missing middle",
        space,
        terms=[
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.interior(), load),
        ],
        fields={
            "kappa": kappa,
            "f": pddlvm.Constant(pddlvm.Uniform(1.0, 5.0)),
            "u_left": pddlvm.Constant(pddlvm.Uniform(-0.5, 0.5)),
            "u_right": pddlvm.Constant(pddlvm.Uniform(-0.5, 0.5)),
        },
        dirichlet=[
            pddlvm.Dirichlet("left", value_on_the_left),
            pddlvm.Dirichlet("right", value_on_the_right),
        ],
    )


def both_ends(problem: pddlvm.Problem, noise_std: float = 0.01) -> pddlvm.LinearObservation:
    """u at the 40 % of the nodes nearest to each end, as in the paper."""
    space = getattr(problem, "space", None)
    if space is None or space.dim != 1:
        raise pddlvm.InputError(f"problem must be that of make_missing_middle, got {problem!r}")
    x = space.mesh.p[0]
    order = x.argsort()
    n = round(0.4 * (len(x) - 1))
    seen = [*order[:n], *order[-n:]]
    return pddlvm.LinearObservation(problem, pddlvm.mask_matrix(problem, seen), noise_std)


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
    for name, given in {"dirichlet": dirichlet, "flux": flux, "materials": materials}.items():
        if not isinstance(given, Mapping | None):
            raise pddlvm.InputError(f"{name} must map names to numbers, got {given!r}")
    space = fem.Space(fem.unit_square(n) if mesh is None else fem.read_mesh(mesh))
    kappa = pddlvm.KarhunenLoeve.on(space, n_terms, length=length)
    fields: dict[str, pddlvm.Field | float] = {"kappa": kappa}
    has_source = not (isinstance(source, float | int) and source == 0)
    if has_source:
        fields["f"] = source
    if materials is None:
        stored = [pddlvm.Energy(space.interior(), diffusion)]
    else:
        stored = [
            pddlvm.Energy(space.interior(name), partial(diffusion_in_material, median))
            for name, median in materials.items()
        ]
        fields["material"] = pddlvm.Piecewise.on_subdomains(
            space, list(materials), prior=pddlvm.LogNormal(0.0, spread)
        )
    loads = [pddlvm.Energy(space.interior(), load)] if has_source else []
    inflow = [
        pddlvm.Energy(space.boundary(name), partial(boundary_flux, q))
        for name, q in (flux or {}).items()
    ]
    return pddlvm.Problem(
        "poisson",
        space,
        terms=[*stored, *loads, *inflow],
        fields=fields,
        dirichlet=[pddlvm.Dirichlet(k, g) for k, g in (dirichlet or {None: 0.0}).items()],
    )
