"""Linear problems in a basis as sums of few operators, to be evaluated at many z.

    V^T K(z) V  =  sum_q theta_q(z) K_q,      theta_q(z) = D(x_q; z) at magic points

by empirical interpolation of D over the points of a cubature (`pddlvm.weak.affine_term`). A log-
normal field takes some two hundred K_q: too many for a training, which draws each z once and would
keep them on its device, but their sum costs a tenth of what the strains at all points do.
"""

import numpy as np
import torch
from torch import Tensor

from pddlvm.linalg.empirical_interpolation import Interpolation, find_interpolation
from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["interpolated"]

_N_DRAWS = (128, 512)
"""Of z, few first: twice the rank and more."""
_N_CHECKS = 32
_MAX_RANK = 300
_TOLERANCE, _WRONG = 1e-8, 1e-3
"""Parts of D that may be left: of principal components, squared, and anywhere of a fresh draw."""
_LINEAR = 1e-8


def interpolated(model: ReducedModel, c: Tensor, xi: Tensor) -> ReducedModel:
    """The model with such sums in the place of cubatures; the model itself where one is none.

    Args:
        model: float64 on the CPU.
        c: coefficients of some solutions, (n, n_modes).
        xi: their standard parameters, (n, d).
    """
    found: list[TermEvaluator | AffineTerm] = []
    for term in model.terms:
        if isinstance(term, TermEvaluator):
            few = _affine(model, term, c, model.prior.unstandardise(xi))
            if few is None:
                return model
            found.append(few)
        else:
            found.append(term)
    return ReducedModel(model.representation, found)


def _affine(model: ReducedModel, term: TermEvaluator, c: Tensor, z: Tensor) -> AffineTerm | None:
    """The term as such a sum, if it is one."""
    operator, blocks, a = term.operator, model.prior.split(z), model.augment(c, z)
    assert isinstance(operator, ScaledOperator)
    tangents = term.tangents(a, blocks)
    limit = _LINEAR * float(tangents.abs().max())
    if not torch.allclose(tangents, term.tangents(-2 * a, blocks), rtol=0, atol=limit):
        return None
    for n in _N_DRAWS:
        tangent, load = (_interpolation(values) for values in _snapshots(model, term, n))
        if tangent is not None and load is not None:
            columns = operator.columns
            # The mean boundary values stand in the offset of the operator.
            columns[:, model.n_modes] += operator.offset
            columns = columns.unflatten(0, (-1, term.s))
            return AffineTerm(term, tangent, load, columns.numpy(), torch.float64)
    return None


def _snapshots(model: ReducedModel, term: TermEvaluator, n: int) -> tuple[Tensor, Tensor]:
    """Tangents and loads of draws, (n, n_entries) each."""
    generator = torch.Generator().manual_seed(0)
    xi = model.prior.sample_standard((n + _N_CHECKS,), generator=generator)
    blocks = model.prior.split(model.prior.unstandardise(xi))
    zero = xi.new_zeros(len(xi), model.n_modes + model.representation.n_lifts)
    e = xi.new_zeros(len(xi), len(term.weights), term.s)
    tangents = term.tangents(zero, blocks) / term.weights[:, None, None]
    return tangents.flatten(1), (term.fluxes_of(e, blocks) / term.weights[:, None]).flatten(1)


def _interpolation(values: Tensor) -> Interpolation | None:
    """One that is right on fresh draws too, of any size."""
    size = values.abs().amax(1, keepdim=True)
    relative = (values / torch.where(size > 0, size, 1.0)).numpy()
    draws, fresh = np.split(relative, [len(relative) - _N_CHECKS])
    found = find_interpolation(draws, _MAX_RANK, tolerance=_TOLERANCE)
    if found is None or len(found.index) > len(draws) / 2:
        return None
    left = np.abs(fresh[:, found.index] @ found.cardinal.T - fresh)
    return found if (left <= _WRONG).all() else None
