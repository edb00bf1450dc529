"""Are velocity and pressure of a saddle point a stable pair? A rule for elements, before any solve.

    inf_q sup_v int q div v / (|q| |grad v|) >= beta > 0,    beta of all meshes

A continuous pressure of the degree of the velocity (P1-P1, P2-P2) or above has no such beta: some
pressures are hardly seen. An equation of the pressure with a term in p of its own (compressible, or
stabilised) is left in peace; so are elements that are not Lagrange's.
"""

import warnings
from itertools import permutations

import torch
from torch import Tensor

from pddlvm.fem import MixedSpace, Space
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["warn_of_unstable_pairs"]


def warn_of_unstable_pairs(name: str, form: WeakForm, operators: Discretisation) -> None:
    """Warn if a pressure of the problem `name` is too rich for its velocity.

    Args:
        name: of the problem.
        form: its form.
        operators: its discretisation, float64 on the CPU.
    """
    if not isinstance(form.space, MixedSpace):
        return
    suspects = [
        (p, u)
        for p, u in permutations(form.space.field_names, 2)
        if _is_too_rich(form.space.field(p)[1], form.space.field(u)[1])
    ]
    if not suspects:
        return
    z = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
    tangents = operators.tangents(torch.ones(1, form.n_dofs, dtype=torch.float64), z)
    for p, u in suspects:
        blocks = [_blocks(t, form.space, p, u) for t in tangents]
        if any(bool(own.any()) for own, _ in blocks):
            continue
        if any(bool(coupling.any()) for _, coupling in blocks):
            warnings.warn(
                f"field {p!r} of problem {name!r} has the degree of {u!r} or a higher one, and is "
                "tied to its divergence alone: the pair is not inf-sup stable, and the field may "
                f"oscillate from node to node. Take {u!r} one degree higher (P2-P1, Taylor and "
                "Hood), or add a stabilisation",
                stacklevel=4,
            )


def _is_too_rich(p: Space, u: Space) -> bool:
    is_pair = p.n_components == 1 and u.n_components == u.dim > 1
    return is_pair and p.is_lagrange and u.is_lagrange and p.degree >= u.degree


def _blocks(tangents: Tensor, space: MixedSpace, p: str, u: str) -> tuple[Tensor, Tensor]:
    """Of one term: what the rows of p read of p, and of grad u, at all points."""
    places, start = {}, 0
    for name in space.field_names:
        own = space.field(name)[1]
        n_u, n_du = own.n_components, own.n_components * own.dim
        places[name] = slice(start, start + n_u + n_du), slice(start + n_u, start + n_u + n_du)
        start += n_u + n_du
    rows = tangents[0][:, places[p][0]]
    return rows[..., places[p][0]], rows[..., places[u][1]]
