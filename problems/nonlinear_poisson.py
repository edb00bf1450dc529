"""Nonlinear Poisson problems, with random loads and boundary values; and advection-diffusion.

-div(k(x, |grad u|) grad u) = f                  `make_1d`, `make`: a potential exists
-div((kappa(x) + u^2) grad u) = f                `make_quasilinear`: Picard's secant
-div(kappa(x) grad u) + b . grad u = f           `make_advection_diffusion`: not symmetric
"""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

import pddlvm
from pddlvm import fem, links
from problems.poisson import load

__all__ = ["make", "make_1d", "make_advection_diffusion", "make_quasilinear"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_TAU = torch.from_numpy(0.5 * (_NODES + 1))
_TAU_WEIGHTS = torch.from_numpy(0.5 * _WEIGHTS)


def conductivity(slope: Tensor, kappa: Tensor) -> Tensor:
    """k = (sigmoid(|grad u|) + 5 kappa) / 10."""
    return (torch.sigmoid(slope) + 5 * kappa) / 10


def stored_energy(u: Tensor, du: Tensor, x: Tensor, kappa: Tensor) -> Tensor:
    """int_0^1 k(tau |grad u|) tau |grad u|^2 dtau, whose gradient is k(|grad u|) grad u.

    By eight Gauss points: exact to 1e-8 of the flux for |grad u| <= 4.
    """
    # Differentiable where grad u vanishes.
    slope = (du @ du + 1e-12).sqrt()
    tau, weights = _TAU.to(du), _TAU_WEIGHTS.to(du)
    return slope**2 * (weights * tau * conductivity(tau * slope, kappa)).sum()


def value_on_the_right(x: Tensor, u_right: Tensor) -> Tensor:
    """Uncertain boundary value."""
    return u_right


def make_1d(n: int = 60) -> pddlvm.Problem:
    """-(k(x, |u'|) u')' = f on [-1, 1], u(-1) = 0, u(1) = u_right.

    kappa = 1 + softplus(sum_i z_i T_i(x)) with five Chebyshev polynomials and z_i ~ N(0, 1),
    f ~ U[1, 2], u_right ~ U[0.5, 1]: the nonlinear case of Vadeboncoeur et al. (arXiv 2208.04856),
    on n linear elements. There f is known to the inverse map: `model.inverse(u, z_known={"f": f})`.
    """
    space = fem.Space(fem.interval(n, -1.0, 1.0))
    kappa = pddlvm.Chebyshev(n_terms=5, low=-1.0, high=1.0, link=links.one_plus_softplus)
    return _variational("nonlinear-poisson-1d", space, kappa)


def make(n: int = 32, n_terms: int = 8, *, length: float = 0.3) -> pddlvm.Problem:
    """-div(k(x, |grad u|) grad u) = f on the unit square, u = 0 left, u = u_right on the right.

    The other two sides are insulated. kappa = 1 + softplus(g) with a Karhunen-Loève field g of
    unit variance and Gaussian covariance, f ~ U[1, 2], u_right ~ U[0.5, 1].

    Args:
        n: cells per side.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of g.
    """
    space = fem.Space(fem.unit_square(n))
    kappa = pddlvm.KarhunenLoeve.on(space, n_terms, length=length, link=links.one_plus_softplus)
    return _variational("nonlinear-poisson", space, kappa)


def _variational(name: str, space: fem.Space, kappa: pddlvm.Field) -> pddlvm.Problem:
    cells = space.interior()
    return pddlvm.Problem(
        name,
        space,
        terms=[pddlvm.Energy(cells, stored_energy), pddlvm.Energy(cells, load)],
        fields={
            "kappa": kappa,
            "f": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
            "u_right": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        dirichlet=[pddlvm.Dirichlet("left", 0.0), pddlvm.Dirichlet("right", value_on_the_right)],
    )


def quasilinear_flux(
    u: Tensor, du: Tensor, x: Tensor, kappa: Tensor, f: Tensor
) -> tuple[Tensor, Tensor]:
    """(-f, (kappa + u^2) grad u): linear in grad u once u is frozen in the conductivity."""
    return -f, (kappa + u**2) * du


def make_quasilinear(n: int = 32, n_terms: int = 8, *, length: float = 0.3) -> pddlvm.Problem:
    """-div((kappa + u^2) grad u) = f on the unit square, u = 0 on its boundary.

    log kappa is a Karhunen-Loève field of variance 1/4, f ~ U[10, 30]: u^2 reaches the size of
    kappa.

    Args:
        n: cells per side.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of log kappa.
    """
    space = fem.Space(fem.unit_square(n))
    return pddlvm.Problem(
        "quasilinear-poisson",
        space,
        terms=[pddlvm.Flux(space.interior(), quasilinear_flux, has_secant=True)],
        fields={
            "kappa": pddlvm.KarhunenLoeve.on(space, n_terms, length=length, std=0.5),
            "f": pddlvm.Constant(pddlvm.Uniform(10.0, 30.0)),
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def advection_diffusion_flux(
    u: Tensor, du: Tensor, x: Tensor, kappa: Tensor, angle: Tensor, f: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """(b . grad u - f, kappa grad u + tau (b . grad u - f) b), |b| = 1.

    The last term is streamline-upwind Petrov-Galerkin stabilisation with tau = h / 2 min(1, Pe/3)
    and the element Péclet number Pe = h / (2 kappa) (Brooks and Hughes, Comput. Methods Appl.
    Mech. Eng. 32, 1982); on linear elements it is consistent but for terms of second order.
    """
    b = torch.stack([angle.cos(), angle.sin()])
    along = b @ du - f
    tau = 0.5 * h * (h / (6 * kappa)).clamp(max=1.0)
    return along, kappa * du + tau * along * b


def _advection_diffusion(
    smallest: float, h: float, u: Tensor, du: Tensor, x: Tensor, kappa: Tensor, angle: Tensor
) -> tuple[Tensor, Tensor]:
    return advection_diffusion_flux(
        u, du, x, smallest * kappa, angle, u.new_ones(()), u.new_tensor(h)
    )


def make_advection_diffusion(
    n: int = 32, n_terms: int = 4, *, length: float = 0.5, peclet: float = 2.0
) -> pddlvm.Problem:
    """-div(kappa grad u) + b . grad u = 1 on the unit square, u = 0 on its boundary.

    b = (cos angle, sin angle), angle ~ U[0, pi/2]; kappa = kappa_min (1 + softplus(g)) with a
    Karhunen-Loève field g of unit variance.

    Args:
        n: cells per side.
        n_terms: terms of the Karhunen-Loève expansion.
        length: correlation length of g.
        peclet: largest element Péclet number |b| h / (2 kappa); it sets kappa_min.
    """
    if not (isinstance(peclet, float | int) and 0 < peclet < math.inf):
        raise pddlvm.InputError(f"peclet must be positive and finite, got {peclet!r}")
    space = fem.Space(fem.unit_square(n))
    flux = partial(_advection_diffusion, 1.0 / (2 * n * peclet), 1.0 / n)
    return pddlvm.Problem(
        "advection-diffusion",
        space,
        terms=[pddlvm.Flux(space.interior(), flux)],
        fields={
            "kappa": pddlvm.KarhunenLoeve.on(
                space, n_terms, length=length, link=links.one_plus_softplus
            ),
            "angle": pddlvm.Constant(pddlvm.Uniform(0.0, np.pi / 2)),
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )
