"""Linear problems in a basis as sums of few operators, to be evaluated at many z.

    W^T K(z) V  =  sum_q theta_q(z) K_q,      theta_q(z) = D(x_q; z) at magic points

by empirical interpolation of D over all points of the mesh (`pddlvm.weak.affine_term`), or over
those of the cubature where they are too many. A log-normal field takes some two hundred K_q: too
many for a training, which draws each z once and would keep them on its device. At inference their
sum costs a tenth of what the strains at the points of a cubature do, and of a small mesh it is
right to five digits, derivatives included.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.linalg.empirical_interpolation import Interpolation, find_interpolation
from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.cubature import dense_columns
from pddlvm.reduced.residual import ReducedModel, stiffness_of
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.terms import TermEvaluator

__all__ = ["interpolated"]

Array = NDArray[np.float64]

_N_DRAWS = (128, 384, 768)
"""Of z, few first: twice the rank and more."""
_SPREAD = 1.5
"""Of draws, in deviations of the prior: data may lead into its tails."""
_N_CHECKS = 32
_MAX_RANK = 384
_TOLERANCE, _WRONG = 1e-9, 1e-3
"""Parts of D that may be left: of principal components, squared, and anywhere of a fresh draw."""
_N_TRIED, _LINEAR = 4, 1e-8
_MOST = 2**25
"""Numbers in the tangents of all draws: 256 MiB."""


def interpolated(model: ReducedModel) -> ReducedModel:
    """The model with such sums in the place of cubatures; the model itself where one is none.

    Args:
        model: float64 on the CPU.
    """
    generator = torch.Generator().manual_seed(0)
    z = model.prior.unstandardise(model.prior.sample_standard((_N_TRIED,), generator=generator))
    # Coefficients are of size one.
    c = torch.randn(_N_TRIED, model.n_modes, generator=generator, dtype=torch.float64)
    a, blocks = model.augment(c, z), model.prior.split(z)
    found: list[TermEvaluator | AffineTerm] = []
    for number, term in enumerate(model.terms):
        few = term
        if isinstance(term, TermEvaluator):
            affine = _affine(model, number) if _is_linear(term, a, blocks) else None
            if affine is None:
                return model
            few = affine
        found.append(few)
    return ReducedModel(model.representation, found)


def _is_linear(term: TermEvaluator, a: Tensor, blocks: dict[str, Tensor]) -> bool:
    """Is the stiffness the same whatever u is?"""
    here, there = stiffness_of(term, a, blocks), stiffness_of(term, -2 * a, blocks)
    return torch.allclose(here, there, rtol=0, atol=_LINEAR * float(here.abs().max()))


def _affine(model: ReducedModel, number: int) -> AffineTerm | None:
    """A term as such a sum, if it is one of few."""
    for n in _N_DRAWS:
        term, columns, energy, tests = _at_points(model, number, n + _N_CHECKS)
        generator = torch.Generator().manual_seed(0)
        xi = model.prior.sample_standard((n + _N_CHECKS,), generator=generator)
        xi[:n] = model.prior.clamp_standard(_SPREAD * xi[:n])
        blocks = model.prior.split(model.prior.unstandardise(xi))
        e = xi.new_zeros(len(xi), len(term.weights), term.s)
        tangents = term.tangents_of(e, blocks) / term.weights[:, None, None]
        loads = term.fluxes_of(e, blocks) / term.weights[:, None]
        # What multiplies u and grad u has different units: relative to the strains of the columns.
        size = torch.from_numpy(columns).square().mean((0, 2)).sqrt()
        size = torch.where(size > 0, size, 1.0).expand(len(term.weights), -1)
        tangent = _interpolation(tangents.flatten(1), (size[:, :, None] * size[:, None]).flatten())
        load = _interpolation(loads.flatten(1), size.flatten())
        if tangent is not None and load is not None:
            return AffineTerm(term, tangent, load, columns, torch.float64, energy, tests)
    return None


def _at_points(
    model: ReducedModel, number: int, n: int
) -> tuple[TermEvaluator, Array, float, Array | None]:
    """A term at points that n draws have room for, B (V, L), the unit of the weights, and B W."""
    representation, term = model.representation, model.terms[number]
    problem = representation.problem
    full = problem.discretisation(torch.float64, torch.device("cpu")).terms[number]
    if n * len(full.weights) * full.s**2 <= _MOST:
        columns = dense_columns(full.term, representation.basis.numpy())
        tests = None if representation.w is None else dense_columns(full.term, representation.w)
        return full, columns, representation.units.energy, tests
    assert isinstance(term, TermEvaluator)
    assert isinstance(term.operator, ScaledOperator)
    found = term.operator.columns
    # The mean boundary values stand in the offset of the operator.
    found[:, model.n_modes] += term.operator.offset
    tests = None
    if term.own_tests is not None:
        assert isinstance(term.own_tests, ScaledOperator)
        tests = term.own_tests.columns.unflatten(0, (-1, term.s)).numpy()
    return term, found.unflatten(0, (-1, term.s)).numpy(), 1.0, tests


def _interpolation(values: Tensor, unit: Tensor) -> Interpolation | None:
    """One that is right on fresh draws too, of any size; unit makes the values comparable, (n,)."""
    values = values * unit
    size = values.abs().amax(1, keepdim=True)
    relative = (values / torch.where(size > 0, size, 1.0)).numpy()
    draws, fresh = np.split(relative, [len(relative) - _N_CHECKS])
    found = find_interpolation(draws, _MAX_RANK, tolerance=_TOLERANCE)
    if found is None or len(found.index) > len(draws) / 2:
        return None
    left = np.abs(fresh[:, found.index] @ found.cardinal.T - fresh)
    if not (left <= _WRONG).all():
        return None
    units = unit.numpy()
    return replace(found, cardinal=found.cardinal * units[found.index] / units[:, None])
