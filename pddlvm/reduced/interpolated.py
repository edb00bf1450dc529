"""Linear problems in a basis as sums of few operators, to be evaluated at many z.

    W^T K(z) V  =  sum_q theta_q(z) K_q,      theta_q(z) = D(x_q; z) at magic points

by empirical interpolation of D over all points of the mesh (`pddlvm.weak.affine_term`), or over
those of the cubature where they are too many. Entries of D that are multiples of each other, as
those of a viscosity, count as one (`pddlvm.weak.slots`). A log-normal field takes some two
hundred K_q: too many for a training, which draws each z once and would keep them on its device. At
inference their sum costs a tenth of what the strains at the points of a cubature do, and of a small
mesh it is right to five digits, derivatives included.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.by_object import ByObject
from pddlvm.linalg.empirical_interpolation import Interpolation, find_interpolation
from pddlvm.linalg.operators import ScaledOperator
from pddlvm.parameters.space import ParameterSpace
from pddlvm.reduced.residual import ReducedModel, stiffness_of
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.projection import AtPoints, OnMesh
from pddlvm.weak.slots import Slots
from pddlvm.weak.terms import TermEvaluator

__all__ = ["Interpolated", "interpolated"]

_N_DRAWS = (128, 384, 768)
"""Of z, few first: twice the rank and more."""
_SPREAD = 1.5
"""Of draws, in deviations of the prior: data may lead into its tails."""
_N_CHECKS = 32
_MAX_RANK = 384
_TOLERANCE, _WRONG = 1e-9, 1e-3
"""Parts of D that may be left: of principal components, squared, and anywhere of a fresh draw."""
_N_TRIED, _LINEAR = 4, 1e-8
_MOST, _AT_ONCE = 2**25, 2**22
"""Numbers in the tangents of all draws: 256 MiB; and in those that are evaluated together."""
_N_PROBES, _N_COLUMNS = 4, 16


@dataclass(frozen=True)
class NoRoom:
    """There are too many points for all draws."""


Pair = tuple[Interpolation, Interpolation]
_ON_MESH: ByObject[TermEvaluator, Pair | NoRoom | None] = ByObject()
"""Interpolations at the points of the mesh, of tangents and fluxes: the same for all bases."""


@dataclass(frozen=True)
class Interpolated:
    """A model as sums of few operators, made when it is first asked for, once for all who do.

    Attributes:
        exact: the model, float64 on the CPU.
    """

    exact: ReducedModel

    @cached_property
    def model(self) -> ReducedModel:
        """See `interpolated`."""
        return interpolated(self.exact)


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
    representation, term = model.representation, model.terms[number]
    problem = representation.problem
    full = problem.discretisation(torch.float64, torch.device("cpu")).terms[number]
    columns = representation.basis
    if full not in _ON_MESH:
        few = columns[:, :: max(1, columns.shape[1] // _N_COLUMNS)]
        size = full.strains(few.T).square().mean((0, 1)).sqrt()
        _ON_MESH[full] = _found(full, model.prior, size, _MOST)
    found = _ON_MESH[full]
    if found is None:
        return None
    if isinstance(found, tuple):
        bases = OnMesh(full, columns.numpy(), representation.w)
        return AffineTerm(full, *found, bases, torch.float64, representation.units.energy)
    assert isinstance(term, TermEvaluator)
    at_points = _at_points(model, term)
    size = torch.from_numpy(at_points.columns).square().mean((0, 2)).sqrt()
    found = _found(term, model.prior, size, None)
    if not isinstance(found, tuple):
        return None
    return AffineTerm(term, *found, at_points, torch.float64)


def _at_points(model: ReducedModel, term: TermEvaluator) -> AtPoints:
    """The bases at the points of a cubature."""
    assert isinstance(term.operator, ScaledOperator)
    found = term.operator.columns
    # The mean boundary values stand in the offset of the operator.
    found[:, model.n_modes] += term.operator.offset
    tests = None
    if term.own_tests is not None:
        assert isinstance(term.own_tests, ScaledOperator)
        tests = term.own_tests.columns.unflatten(0, (-1, term.s)).numpy()
    return AtPoints(found.unflatten(0, (-1, term.s)).numpy(), tests)


def _found(
    term: TermEvaluator, prior: ParameterSpace, size: Tensor, most: int | None
) -> Pair | NoRoom | None:
    """Interpolations of the tangents and fluxes at u = 0; None where they are of many functions.

    Args:
        term: at its points.
        prior: of z.
        size: of the strains, (s,): what multiplies u and grad u has different units.
        most: numbers that there is room for; None: any.
    """
    size = torch.where(size > 0, size, 1.0)
    units = (size[:, None] * size).flatten(), size
    probe = _values(term, prior, _standard(prior, _N_PROBES, 0))
    slots = [Slots.of(values) for values in probe]
    for n in _N_DRAWS:
        room = (n + _N_CHECKS) * len(term.weights) * max(len(s.own) for s in slots)
        if most is not None and room > most:
            return NoRoom()
        families = _families(term, prior, slots, n)
        if families is None:
            return None
        found = [
            _interpolation(values.flatten(1), (s.sizes(unit)).repeat(len(term.weights)))
            for values, s, unit in zip(families, slots, units, strict=True)
        ]
        tangent, load = (
            None if own is None else s.spread(own) for own, s in zip(found, slots, strict=True)
        )
        if tangent is not None and load is not None:
            return tangent, load
    return None


def _families(
    term: TermEvaluator, prior: ParameterSpace, slots: list[Slots], n: int
) -> list[Tensor] | None:
    """Own entries of tangents and fluxes of n draws and of fresh ones, (n + n_checks, n_points, .).

    None where other entries are no combinations of these.
    """
    xi = _standard(prior, n + _N_CHECKS, n)
    at_once = max(1, _AT_ONCE // (len(term.weights) * term.s**2))
    parts: list[list[Tensor]] = [[], []]
    for some in xi.split(at_once):
        for values, own, part in zip(_values(term, prior, some), slots, parts, strict=True):
            if not own.holds(values):
                return None
            part.append(values[..., own.own])
    return [torch.cat(part) for part in parts]


def _standard(prior: ParameterSpace, n: int, n_wide: int) -> Tensor:
    """Draws, n_wide of them spread out."""
    generator = torch.Generator().manual_seed(0)
    xi = prior.sample_standard((n,), generator=generator)
    xi[:n_wide] = prior.clamp_standard(_SPREAD * xi[:n_wide])
    return xi


def _values(term: TermEvaluator, prior: ParameterSpace, xi: Tensor) -> tuple[Tensor, Tensor]:
    """Tangents and fluxes at u = 0, (n, n_points, s * s) and (n, n_points, s), without weights."""
    blocks = prior.split(prior.unstandardise(xi))
    e = xi.new_zeros(len(xi), len(term.weights), term.s)
    tangents = term.tangents_of(e, blocks) / term.weights[:, None, None]
    return tangents.flatten(2), term.fluxes_of(e, blocks) / term.weights[:, None]


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
