"""Are two fields of a saddle point a stable pair? A rule for elements, before any solve.

    inf_q sup_v b(v, q) / (|q| |v|) >= beta > 0,    beta of all meshes

velocity, pressure   int q div v        Lagrange of one degree more; P1-P1, P2-P2 have no such beta
flux, pressure       int q div v        H(div): each q of a cell is seen by some v of it
field, potential     int grad q . v     H(curl): so is each grad q

Raviart and Thomas' elements of order k suit discontinuous pressures of degree k, Brezzi, Douglas
and Marini's of order 1 constant ones, Nedelec's first ones potentials of degree 1. An equation of
the pressure with a term in p of its own (compressible, or stabilised) is left in peace; so are
other elements that were given.
"""

import warnings
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from pddlvm.fem import MixedSpace, Space
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["warn_of_unstable_pairs"]

_SEEN_BY = {"gradient": (0, 1), "divergence": (0, 1), "curl": (1, 0)}
"""By what the velocity has: of p, and of the velocity, the order of the derivative in b."""
_FITS = {
    "gradient": "Take {u!r} one degree higher (P2-P1, Taylor and Hood), or add a stabilisation",
    "divergence": (
        "Take one that fits: ElementTriRT0 with ElementTriP0, ElementTriRT2 with ElementTriP1DG, "
        "ElementTriBDM1 with ElementTriP0, and the like on other cells"
    ),
    "curl": "Take one whose gradients {u!r} has: ElementTriN1 or ElementTetN1 with degree 1",
}


def warn_of_unstable_pairs(name: str, form: WeakForm, operators: Discretisation) -> None:
    """Warn if a pressure of the problem `name` is too rich for its velocity.

    Args:
        name: of the problem.
        form: its form.
        operators: its discretisation, float64 on the CPU.
    """
    space = form.space
    if not isinstance(space, MixedSpace):
        return
    suspects = [
        (p, u)
        for p, u in permutations(space.field_names, 2)
        if _is_too_rich(space.field(p)[1], space.field(u)[1])
    ]
    if not suspects:
        return
    z = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
    tangents = operators.tangents(torch.ones(1, form.n_dofs, dtype=torch.float64), z)
    for p, u in suspects:
        blocks = [_blocks(t[0], form, p, u) for t in tangents]
        if any(bool(own.any()) for own, _ in blocks):
            continue
        if any(bool(coupling.any()) for _, coupling in blocks):
            what = _what(space.field(u)[1])
            rich = "has the degree of {u!r} or a higher one, and is tied to its divergence alone"
            if what != "gradient":
                rich = "has functions in a cell that {u!r} does not see"
            warnings.warn(
                f"field {p!r} of problem {name!r} {rich.format(u=u)}: the pair is not inf-sup "
                f"stable, and the field may oscillate from node to node. {_FITS[what].format(u=u)}",
                stacklevel=4,
            )


def _what(space: Space) -> str:
    return space.part.derived[0][0]


def _is_too_rich(p: Space, u: Space) -> bool:
    if p.n_components != 1 or _what(p) != "gradient" or u.n_components != u.dim or u.dim == 1:
        return False
    if _what(u) == "gradient":
        return p.is_lagrange and u.is_lagrange and p.degree >= u.degree
    # In one cell, by a rule that is exact for the product of the two.
    degree = p.degree + u.degree
    regions = [space.with_quadrature(degree).interior() for space in (p, u)]
    seen, seeing = (
        region.local[0][:, region.columns()[order]].reshape(-1, region.shape[3])
        for region, order in zip(regions, _SEEN_BY[_what(u)], strict=True)
    )
    weights = np.repeat(regions[0].weights[0], len(seen) // regions[0].shape[1])[:, None]
    rank = np.linalg.matrix_rank(seen.T @ (weights * seeing))
    return bool(rank < np.linalg.matrix_rank(seen.T @ (weights * seen)))


def _blocks(tangents: Tensor, form: WeakForm, p: str, u: str) -> tuple[Tensor, Tensor]:
    """Of one term: what the rows of p read of p, and of that of u which should see it."""
    assert isinstance(form.space, MixedSpace)
    region, names = form.terms[0].region, form.space.field_names
    own, other = (region.columns(names.index(name)) for name in (p, u))
    of_p, of_u = _SEEN_BY[_what(form.space.field(u)[1])]
    every = slice(own[0].start, own[-1].stop)
    return tangents[:, every, every], tangents[:, own[of_p], other[of_u]]
