"""Linear problems that are sums of few parts, with coefficients that cost nothing.

    D(x; z) = sum_j w_j(z) D_j(x),    load(x; z) = sum_j w_j(z) F_j(x),    u_D(z) = sum_j w_j(z) B_j
    w = (1, values that the fields take)

The values are the parameters themselves where a link is the identity, else those of the field at
the points, where it takes few: on parts of the mesh, or everywhere the same. The parts are found by
least squares over draws, and are right to round-off or not at all: unlike those by empirical
interpolation (`pddlvm.weak.affine_term`) they may stand in a rigorous bound, and their coefficients
take microseconds.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from pddlvm.links import identity
from pddlvm.parameters.fields import Field
from pddlvm.weak.coercivity import Region, pointwise
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["AffineParts", "Weights", "affine_parts"]

_MOST_WEIGHTS = 64
_N_MORE, _N_CHECKS = 8, 8
_N_SEEN = 1000
"""Points where it is seen that a field takes many values."""
_MEMORY = 2**26
"""Numbers in the tangents of all draws: 512 MiB."""
_ROUND_OFF = 1e-11
"""Relative error of the parts on fresh draws, at any point."""


class Weights:
    """w(z), (batch, d) -> (batch, n_weights).

    Args:
        fields: slice of z, shapes (n_values, n_shapes) and field of each block.
    """

    def __init__(self, fields: list[tuple[slice, Tensor, Field]]) -> None:
        self._fields = fields
        self.n = 1 + sum(len(shapes) for _, shapes, _ in fields)

    def __call__(self, z: Tensor) -> Tensor:  # noqa: D102
        parts = [torch.ones_like(z[:, :1])]
        for block, shapes, field in self._fields:
            parts.append(field.link(field.shift + field.coefficients(z[:, block]) @ shapes.T))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class AffineParts:
    """The parts of a problem, float64 on the CPU.

    Attributes:
        weights: w.
        regions: the terms that the parts belong to, by region.
        tangents: of each region the w D_j, (n_weights, n_points, s, s), with its quadrature.
        loads: of each region the w F_j, (n_weights, n_points, s).
        boundary: B_j, (n_weights, n_dofs).
        error: of the parts, relative.
    """

    weights: Weights
    regions: list[Region]
    tangents: list[Tensor]
    loads: list[Tensor]
    boundary: Tensor
    error: float


def affine_parts(
    form: WeakForm, operators: Discretisation, *, matrices_only: bool = False
) -> AffineParts | None:
    """Those of a linear form; None where it has none, or too many.

    Args:
        form: of the PDE.
        operators: its discretisation, float64 on the CPU.
        matrices_only: loads and boundary values may be anything, and are left out.
    """
    weights = _weights(form, operators)
    if weights is None:
        return None
    n = 2 * weights.n + _N_MORE
    groups: dict[int, Region] = {}
    for term in operators.terms:
        groups.setdefault(id(term.operator), []).append(term)
    regions = list(groups.values())
    size = sum(len(terms[0].weights) * terms[0].s ** 2 for terms in regions)
    if (n + _N_CHECKS) * size > _MEMORY:
        return None
    generator = torch.Generator().manual_seed(0)
    z = form.prior.sample((n + _N_CHECKS,), generator=generator)
    blocks = form.prior.split(z)
    split = _Split(weights(z), n)
    tangents, loads = [], []
    for terms in regions:
        tangents.append(split(pointwise(terms, len(z), blocks), 2))
        if matrices_only:
            continue
        e = torch.zeros(len(z), len(terms[0].weights), terms[0].s, dtype=torch.float64)
        fluxes = reduce(torch.add, [term.fluxes_of(e, blocks) for term in terms])
        loads.append(split(fluxes, 1))
    nothing = torch.zeros(0, dtype=torch.float64)
    boundary = nothing if matrices_only else split(operators.lift(z), 0)
    if not split.error <= _ROUND_OFF:
        return None
    return AffineParts(weights, regions, tangents, loads, boundary, split.error)


class _Split:
    """Least squares for the parts of values by draws, the last of which check them.

    Attributes:
        error: the largest so far, relative to the size of the values at the same point.
    """

    def __init__(self, w: Tensor, n: int) -> None:
        self._w, self._n = w, n
        self._inverse = torch.linalg.pinv(w[:n], rtol=1e-12)
        self.error = 0.0

    def __call__(self, values: Tensor, n_axes: int) -> Tensor:
        """Parts of (n_draws, ...), with so many axes of the values at a point."""
        parts = torch.tensordot(self._inverse, values[: self._n], dims=1)
        fresh = values[self._n :]
        left = (torch.tensordot(self._w[self._n :], parts, dims=1) - fresh).abs()
        size = fresh.abs()
        axes = (0, *range(values.ndim - n_axes, values.ndim))
        share = left.amax(axes) / size.amax(axes).clamp(min=torch.finfo(size.dtype).tiny)
        self.error = max(self.error, float(share.nan_to_num(nan=torch.inf).max()))
        return parts


def _weights(form: WeakForm, operators: Discretisation) -> Weights | None:
    """w of a form, unless its fields take too many values."""
    found = []
    for name in form.prior.blocks:
        field = form.fields[name]
        assert isinstance(field, Field)
        if field.link is identity:
            shapes = torch.eye(field.n_shapes, dtype=torch.float64)
        else:
            at = [term.shapes(name) for term in operators.terms if name in term.fields]
            values = torch.cat([*at, field.shapes(form.space.centroids)])
            few = values[:: max(1, len(values) // _N_SEEN)]
            if field.n_shapes > _MOST_WEIGHTS or len(few.unique(dim=0)) > _MOST_WEIGHTS:
                return None
            shapes = values.unique(dim=0)
        found.append((form.prior.slices[name], shapes, field))
    weights = Weights(found)
    return weights if weights.n <= _MOST_WEIGHTS else None
