"""Reduced matrices of a linear problem for many z.

    K(z) = sum_x sum_k  D(x; z)_{own_k}  B(x)^T F_k B(x)

D has few entries that stand for all (`pddlvm.reduced.slots`): what is multiplied by them is made
once for all z, where a product B^T D B for each z takes most of a set-up.
"""

import torch
from torch import Tensor

from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.linear_terms import LinearTerm
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["stiffness_of_many"]

_CHUNK = 64
"""Draws whose entries are evaluated at once."""
_MOST = 2**23
"""Numbers of B^T F B at some points that are in memory at once."""


def stiffness_of_many(model: ReducedModel, z: Tensor) -> Tensor:
    """K of parameters z (n, d), (n, n_modes, n_modes).

    Args:
        model: of a linear problem, float64 on the CPU, tested by its basis.
        z: parameters.
    """
    m, rest = model.n_modes, []
    total = z.new_zeros(len(z), m, m)
    for term in model.terms:
        found = None if isinstance(term, AffineTerm) else _together(term, model, z)
        if found is None:
            rest.append(term)
        else:
            total += found
    if rest:
        total += model.tangent_of(rest, z.new_zeros(len(z), m), z)[..., :m]
    return total


def _together(term: TermEvaluator, model: ReducedModel, z: Tensor) -> Tensor | None:
    """None where too many entries are needed."""
    linear, s, m = LinearTerm(term, model.prior), term.s, model.n_modes
    if len(linear.factors) > s:
        return None
    parts = [linear.own(part) for part in z.split(_CHUNK)]
    own = [part for part in parts if part is not None]
    if len(own) < len(parts):
        return None
    assert isinstance(term.operator, ScaledOperator)
    columns = term.operator.columns[:, :m].unflatten(0, (-1, s))
    total = z.new_zeros(len(z), m * m)
    n_points = max(1, _MOST // m**2)
    for d, b in zip(torch.cat(own).split(n_points, dim=1), columns.split(n_points), strict=True):
        for k, factor in enumerate(linear.factors):
            total.addmm_(d[..., k], (b.mT @ (factor @ b)).flatten(1))
    return total.unflatten(-1, (m, m))
