"""Effective conductivity of a periodic composite, from its cell problems.

    -div(k (e_i + grad w_i)) = 0,   w_i periodic, int w_i = 0,   i = 1, 2
    A_ij = int k (e_i + grad w_i) . (e_j + grad w_j)

The cell is the unit square, e_i are the mean gradients along x and y, and w_1, w_2 the fields u and
v. Pi = 1/2 (A_11 + A_22) is least at the solution: an error of w enters A by its square.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pddlvm
from pddlvm import fem, links

__all__ = ["effective_tensor", "make", "tensor_error_bound"]


def matrix_energy(du: Tensor, dv: Tensor) -> Tensor:
    """1/2 |e_1 + grad u|^2 + 1/2 |e_2 + grad v|^2, k = 1."""
    e = torch.eye(2, dtype=du.dtype, device=du.device)
    return 0.5 * ((e[0] + du) ** 2 + (e[1] + dv) ** 2).sum()


def inclusion_energy(du: Tensor, dv: Tensor, contrast: Tensor) -> Tensor:
    """The same, k = contrast."""
    return contrast * matrix_energy(du, dv)


def cell(n: int, n_inclusions: int) -> Any:
    """n x n pairs of triangles, those along the edges of the inclusions five times smaller.

    x + 0.8 sin(k x) / k has the slope 0.2 there, where the corners make the gradient singular.
    """
    k = 4 * math.pi * n_inclusions

    def is_included(x: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.all(abs(n_inclusions * x % 1 - 0.5) < 0.25, axis=0, keepdims=True)[0]

    mesh = fem.unit_square(n).morphed(
        lambda x: x[0] + 0.8 * np.sin(k * x[0]) / k, lambda x: x[1] + 0.8 * np.sin(k * x[1]) / k
    )
    return mesh.with_subdomains({"inclusions": is_included, "matrix": lambda x: ~is_included(x)})


def make(n: int = 24, n_inclusions: int = 2) -> pddlvm.Problem:
    """A matrix of k = 1 with square inclusions of k from 1 to 100, a quarter of the volume.

    Each inclusion has a contrast of its own, exp(z) with z ~ U[0, ln 100]. Quadratic elements; with
    n = 24 4,608 degrees of freedom, and A is right to 0.11 %.

    Args:
        n: cells per side, a multiple of four times n_inclusions.
        n_inclusions: inclusions per side of the cell.
    """
    square = fem.Space(fem.unit_square(n))
    contrast = pddlvm.Piecewise.on_blocks(
        square,
        (n_inclusions, n_inclusions),
        prior=pddlvm.Uniform(0.0, math.log(100.0)),
        link=links.exp,
    )
    if n % (4 * n_inclusions):
        raise pddlvm.InputError(
            f"n must be a multiple of {4 * n_inclusions}, for the inclusions, got {n}"
        )
    field = fem.Space(cell(n, n_inclusions), degree=2, periodic={"left": "right", "bottom": "top"})
    space = fem.MixedSpace({"u": field, "v": field})
    return pddlvm.Problem(
        "homogenisation",
        space,
        terms=[
            pddlvm.Energy(space.interior("matrix"), matrix_energy),
            pddlvm.Energy(space.interior("inclusions"), inclusion_energy),
        ],
        fields={"contrast": contrast},
        constraints=[pddlvm.MeanValue("u"), pddlvm.MeanValue("v")],
    )


def effective_tensor(problem: pddlvm.Problem, u: Tensor, z: Tensor) -> Tensor:
    """A of solutions of `make`, (..., 2, 2), symmetric.

    Args:
        problem: made by `make`.
        u: solutions (..., n_dofs), by any means.
        z: their parameters, (..., d).
    """
    space = problem.space
    if not isinstance(space, fem.MixedSpace) or "contrast" not in problem.fields:
        raise pddlvm.InputError(f"problem must be that of homogenisation.make, got {problem!r}")
    u, z = problem.check_solution(u), problem.prior.check(z)
    included = np.isin(np.arange(space.mesh.nelements), space.cells("inclusions"))
    k = torch.where(torch.from_numpy(included), problem.field_values(z, "contrast"), 1.0)
    slopes = []
    for name, direction in (("u", [1.0, 0.0]), ("v", [0.0, 1.0])):
        dofs, own = space.field(name)
        region = own.interior()
        e = region.matrix @ u[..., dofs].reshape(-1, own.n_dofs).double().numpy().T
        e = e.reshape(*region.weights.shape, 3, -1)[..., 1:, :]
        slopes.append(torch.from_numpy(e) + torch.tensor(direction)[:, None])
    g = torch.stack(slopes)  # (field, cell, point, axis, batch)
    weights = torch.from_numpy(region.weights)
    a = torch.einsum("bc,cq,icqxb,jcqxb->bij", k.reshape(-1, k.shape[-1]), weights, g, g)
    return a.reshape(*u.shape[:-1], 2, 2)


def tensor_error_bound(problem: pddlvm.Problem, error_bound: Tensor, z: Tensor) -> Tensor:
    """Bound of |A_ij(w) - A_ij| of approximate solutions w, rigorous if that of w is, (...,).

    A(w) - A = int k grad e_i . grad e_j, e = w - u, is at most |e|^2 at z, and this at most
    max(1, k / k0) times that at the centre of the prior, where k = k0.

    Args:
        problem: made by `make`.
        error_bound: of |e|_{K0}, (...,): that of a model is `model.forward(z).error_bound`.
        z: their parameters, (..., d).
    """
    z = problem.prior.check(z)
    centre = problem.prior.unstandardise(torch.zeros_like(z))
    ratio = problem.field_values(z, "contrast") / problem.field_values(centre, "contrast")
    return ratio.amax(-1).clamp(min=1.0) * error_bound**2
