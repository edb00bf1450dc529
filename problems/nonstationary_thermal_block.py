"""The thermal block that warms up: a plate with four discs, a test of model order reduction.

    du/dt - div(sigma grad u) = 0,       u(0) = 0,     sigma = 1 in the plate, e^(z_i) in disc i
    sigma du/dn = 1 on the left,   u = 0 on the right,   sigma du/dn = 0 below and above

The plate is the unit square, and times go to 1. The benchmark of the MOR Wiki (Rave and Saak,
arXiv 2003.00846) is of this kind: the same equations, sides and outputs, the means of u over the
discs. Here the places and sizes of the discs and the mesh are our own, and sigma covers the powers
of ten that are asked for, by default from 1/10 to 10; there they are from 1e-6 to 100.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import skfem
from numpy.typing import NDArray
from scipy.spatial import Delaunay
from torch import Tensor

import pddlvm
from pddlvm import fem, links
from problems.discs import DiscField, distances

__all__ = ["DISCS", "make", "plate"]

_CENTRES = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
_RADIUS = 0.15
_GAP = 0.6
"""Of cells, between a circle and nodes outside of it."""

DISCS = tuple(f"disc {i}" for i in range(1, 5))
"""Names of the subdomains, against the clock from below on the left."""


@dataclass(frozen=True)
class InDiscs(DiscField):
    """One parameter in each disc, and none in the plate between them."""

    centres: ClassVar = _CENTRES
    radius: ClassVar = _RADIUS


def conduction(u: Tensor, du: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """1/2 sigma |grad u|^2."""
    return 0.5 * sigma * (du @ du)


def inflow(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    """-u: a flux of one."""
    return -u


def plate(n: int) -> Any:
    """The mesh of the plate, about n cells a side, whose edges follow the circles."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 10:
        raise pddlvm.InputError(f"n must be a whole number from 10 on, got {n!r}")
    ticks = np.linspace(0, 1, n + 1)
    lattice = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    outside = lattice[(distances(lattice, _CENTRES) > _RADIUS + _GAP / n).all(axis=1)]
    n_rings = max(2, round(_RADIUS * n))
    rings = [_circle(_RADIUS * k / n_rings, round(2 * math.pi * k)) for k in range(1, n_rings + 1)]
    disc = np.concatenate([np.zeros((1, 2)), *rings])
    nodes = np.concatenate([outside, *(centre + disc for centre in _CENTRES)])
    p, t = (np.ascontiguousarray(x.T) for x in (nodes, Delaunay(nodes).simplices))
    mesh = skfem.MeshTri(p, t).with_defaults()
    to_centres = distances(mesh.p[:, mesh.t].mean(axis=1).T, _CENTRES)
    return mesh.with_subdomains(
        {name: np.flatnonzero(own < _RADIUS) for name, own in zip(DISCS, to_centres.T, strict=True)}
    )


def make(
    n: int = 84, n_steps: int = 100, *, decades: tuple[float, float] = (-1.0, 1.0)
) -> pddlvm.TransientProblem:
    """Conductivities of four discs: 4 parameters, logarithms of sigma.

    log10 sigma ~ U[decades]; to t = 1 by BDF2, on 5 levels of steps each 2.5 times as long as
    before. With n = 84 7,305 degrees of freedom. Its outputs are the rows of
    `pddlvm.average_matrix(problem, DISCS)`, at all steps `forward.values(rows)`.

    Args:
        n: cells per side, from 10 on.
        n_steps: steps, a multiple of 5.
        decades: powers of ten between which sigma lies.
    """
    low, high = (math.log(10.0) * float(power) for power in decades)
    space = fem.Space(plate(n))
    problem = pddlvm.Problem(
        "thermal block in time",
        space,
        terms=[
            pddlvm.Energy(space.interior(), conduction),
            pddlvm.Energy(space.boundary("left"), inflow),
        ],
        fields={"sigma": InDiscs(prior=pddlvm.Uniform(low, high), link=links.exp)},
        dirichlet=[pddlvm.Dirichlet("right")],
    )
    return pddlvm.TransientProblem(problem, stepping=pddlvm.Stepping.graded(1.0, n_steps))


def _circle(radius: float, n: int) -> NDArray[np.float64]:
    """n nodes on a circle around zero."""
    angle = 2 * math.pi * np.arange(n) / n
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])
