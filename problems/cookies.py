"""The cookies problem, a benchmark of forward uncertainty quantification: eight discs in a plate.

-div(a(x; z) grad u) = 100 in F, 0 elsewhere,   u = 0 around the unit square
a = 1 + z_i in disc i, 1 in the plate,   z_i ~ U[-0.99, -0.2],   l(u) = int_F u dx

F is the square in the middle, [0.4, 0.6]^2, and the discs stand around it: nine places of a grid
without the middle one. The problem is that of Baeck, Nobile, Tamellini and Tempone (2011, doi
10.1007/978-3-642-15337-2_3) as UM-Bridge (arXiv 2402.13768) has it: 400 x 400 bilinear elements,
whose cells do not follow the circles, and a at the points of a quadrature of degree 8. There
E l(u) = 0.0642024. Cells that no circle cuts have a quadrature of degree 3, which gives them the
same matrices.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

import pddlvm
from pddlvm import fem
from problems.discs import DiscField, distances
from problems.poisson import diffusion

__all__ = ["make", "quantity"]

_PLACES = (0.2, 0.5, 0.8)
_CENTRES = np.array([(x, y) for y in _PLACES for x in _PLACES if (x, y) != (0.5, 0.5)])
_RADIUS = 0.13
_SOURCE = 100.0
_FIRST, _LAST = 2, 3
"""F, in fifths of a side."""
_DEGREE = 8
"""Of the quadrature in cells that a circle cuts."""


@dataclass(frozen=True)
class InDiscs(DiscField):
    """One parameter in each disc, and none in the plate between them."""

    centres: ClassVar = _CENTRES
    radius: ClassVar = _RADIUS


def source(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    """-100 u, the potential of the source."""
    return -_SOURCE * u


def make(n: int = 400) -> pddlvm.Problem:
    """Conductivities of eight discs, 8 parameters: what each adds to that of the plate, 1.

    They are numbered row by row from below. With n = 400, the mesh of the benchmark, 160,801
    degrees of freedom, and seconds for a solution.

    Args:
        n: cells per side, a multiple of 5.

    Raises:
        InputError: n is none, so that the source would cut cells.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 5 or n % 5:
        raise pddlvm.InputError(
            f"n must be a multiple of 5, or the source in [0.4, 0.6]^2 would cut cells; got {n!r}"
        )
    mesh = fem.unit_square(n, quadrilaterals=True)
    middle = mesh.p[:, mesh.t].mean(axis=1).T
    to_circle = np.abs(distances(middle, _CENTRES) - _RADIUS).min(axis=1)
    is_cut = to_circle <= math.sqrt(0.5) / n
    in_source = ((5 * middle > _FIRST) & (5 * middle < _LAST)).all(axis=1)
    parts = {"whole": ~is_cut, "cut": is_cut, "source": in_source}
    mesh = mesh.with_subdomains({name: np.flatnonzero(cells) for name, cells in parts.items()})
    space = fem.Space(mesh)
    return pddlvm.Problem(
        "cookies",
        space,
        terms=[
            pddlvm.Energy(space.interior("whole"), diffusion),
            pddlvm.Energy(space.with_quadrature(_DEGREE).interior("cut"), diffusion),
            pddlvm.Energy(space.interior("source"), source),
        ],
        fields={"kappa": InDiscs(prior=pddlvm.Uniform(-0.99, -0.2), shift=1.0)},
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def quantity(problem: pddlvm.Problem) -> pddlvm.Quantity:
    """The integral of u over the square in the middle.

    Args:
        problem: that of `make`.

    Raises:
        InputError: it is another problem.
    """
    if getattr(problem, "name", None) != "cookies":
        raise pddlvm.InputError(f"problem must be that of cookies.make, got {problem!r}")
    mean = pddlvm.average_matrix(problem, ["source"])
    area = ((_LAST - _FIRST) / 5) ** 2
    return pddlvm.Quantity(problem, area * mean, "integral over the middle")
