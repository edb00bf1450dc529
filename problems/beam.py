"""Beams of Euler and Bernoulli in strong form, (E I u'')'' = q in (0, 1).

A cantilever by its deflection and its moment, of which no derivative of E I is needed,

    E I u'' = m,    m'' = q,       u = u' = 0 at the clamped start,     m = m' = 0 at the free end

and a tapered beam, clamped at both ends, by its deflection alone,

    E I u + 2 (E I) = q,       E I = stiffness (1 + taper x),       u = u' = 0
"""

from torch import Tensor

import pddlvm
from pddlvm import fem

__all__ = ["bending", "make", "make_clamped", "tapered"]


def bending(
    u_xx: Tensor, m: Tensor, m_xx: Tensor, stiffness: Tensor, load: Tensor
) -> tuple[Tensor, Tensor]:
    """Residuals of both equations."""
    return stiffness * u_xx - m, m_xx - load


def make(n_terms: int = 3, grid: int = 101, nodes: int = 40) -> pddlvm.CollocationProblem:
    """Log-normal stiffness E I along the beam, standard deviation 0.3, and a load q U[1, 3].

    Args:
        n_terms: of the stiffness, at least 1.
        grid: points on which solutions are compared and inverted.
        nodes: Chebyshev nodes, also of the reference solutions.
    """
    box = pddlvm.Box(x=(0.0, 1.0))
    line = fem.Space(fem.interval(256))
    stiffness = pddlvm.KarhunenLoeve.on(line, n_terms, length=0.5, std=0.3)
    return pddlvm.CollocationProblem(
        "beam",
        box,
        bending,
        fields={"stiffness": stiffness, "load": pddlvm.Constant(pddlvm.Uniform(1.0, 3.0))},
        unknowns=("u", "m"),
        hard={"u": [box.start("x", with_slope=True)], "m": [box.end("x", with_slope=True)]},
        along={"stiffness": "x"},
        grid=(grid,),
        nodes=(nodes,),
    )


def tapered(
    u_xxx: Tensor, u_xxxx: Tensor, x: Tensor, stiffness: Tensor, taper: Tensor, load: Tensor
) -> Tensor:
    """Residual of the tapered beam."""
    return stiffness * ((1 + taper * x) * u_xxxx + 2 * taper * u_xxx) - load


def make_clamped(grid: int = 101, nodes: int = 24) -> pddlvm.CollocationProblem:
    """Stiffness U[1, 3], taper U[-0.5, 1] and a load q U[50, 150].

    Args:
        grid: points on which solutions are compared and inverted.
        nodes: Chebyshev nodes, also of the reference solutions.
    """
    box = pddlvm.Box(x=(0.0, 1.0))
    return pddlvm.CollocationProblem(
        "clamped beam",
        box,
        tapered,
        fields={
            "stiffness": pddlvm.Constant(pddlvm.Uniform(1.0, 3.0)),
            "taper": pddlvm.Constant(pddlvm.Uniform(-0.5, 1.0)),
            "load": pddlvm.Constant(pddlvm.Uniform(50.0, 150.0)),
        },
        hard=[box.start("x", with_slope=True), box.end("x", with_slope=True)],
        grid=(grid,),
        nodes=(nodes,),
    )
