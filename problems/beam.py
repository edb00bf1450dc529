"""A cantilever in strong form: the beam of Euler and Bernoulli, by its deflection and its moment.

    (E I u'')'' = q        as        E I u'' = m,    m'' = q              (0, 1)
    u = u' = 0 at the clamped start,     m = m' = 0 at the free end

No derivative of E I is needed, and the two ends are conditions of one unknown each.
"""

from torch import Tensor

import pddlvm
from pddlvm import fem

__all__ = ["bending", "make"]


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
