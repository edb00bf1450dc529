"""Parts of a problem that nothing connects, and that nothing holds.

The parts are those of the graph in which the degrees of freedom of a cell are neighbours. A part is
loose if a shift or a turn of it, v, leaves what is fixed where it is, and the tangent does not
resist it: K v = 0. Of several fields, v may move some of them only, a pressure for one; what has a
mean value that is constrained does not shift.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from pddlvm.fem.mixed import fields_of
from pddlvm.fem.regions import FunctionSpace, turns
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["LoosePart", "forces_at_rest", "loose_parts", "parts_of"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ZERO = 1e-10
_SHARE = 0.1
"""Of a motion, above which a field takes part in it."""


@dataclass(frozen=True)
class LoosePart:
    """What moves freely.

    Attributes:
        dofs: degrees of freedom of the part.
        fields: numbers of the fields that move, in the order of the space.
    """

    dofs: Index
    fields: tuple[int, ...]


def loose_parts(form: WeakForm, operators: Discretisation) -> list[LoosePart]:
    """The loose parts of a form."""
    n = form.n_dofs
    label = parts_of(form)
    is_fixed = np.ones(n, dtype=bool)
    is_fixed[form.free_dofs] = False
    suspects = np.unique(label)
    if form.space.n_components == 1 and form.space.near_nullspace.shape[1] == 1:
        suspects = np.setdiff1d(suspects, label[is_fixed])
    if not suspects.size:
        return []
    forces = forces_at_rest(form, operators)
    rough = np.cos(np.arange(n))[:, None]
    loose = []
    for part in suspects:
        inside = label == part
        left, sizes = [], []
        for dofs, space in fields_of(form.space):
            own = np.zeros(n, dtype=bool)
            own[dofs] = inside[dofs]
            motions = np.zeros((n, 0))
            if own.any():
                sizes.append(float(np.linalg.norm(forces(rough * own[:, None]))))
                motions = _motions(form, space, dofs, own, is_fixed)
            else:
                sizes.append(0.0)
            left.append(motions)
        # Fields have units of their own: each motion is scaled as if it were of the stiffest one.
        stiffest = max(sizes)
        scaled = [m * (stiffest / s if s else 1.0) for m, s in zip(left, sizes, strict=True)]
        together = np.hstack(scaled)
        if not together.shape[1]:
            continue
        mixed, force, _ = np.linalg.svd(forces(together), full_matrices=False)
        is_zero = force <= _ZERO * stiffest
        if is_zero.any():
            owner = np.repeat(np.arange(len(left)), [m.shape[1] for m in left])
            moved = np.abs(mixed[:, is_zero]).max(axis=1) > _SHARE
            loose.append(LoosePart(np.flatnonzero(inside), tuple(np.unique(owner[moved]).tolist())))
    return loose


def forces_at_rest(
    form: WeakForm, operators: Discretisation, *, transposed: bool = False
) -> Callable[[Array], Array]:
    """v (n_dofs, k) -> K v (k, n_free) at u = 1, and at the centre of the prior; or K^T v."""
    z = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
    tangents = operators.tangents(torch.ones(1, form.n_dofs, dtype=torch.float64), z)
    if transposed:
        tangents = [t.mT for t in tangents]

    def forces(v: Array) -> Array:
        free = torch.from_numpy(v[form.free_dofs].T.copy())
        return np.stack([operators.apply_tangents(tangents, u[None])[0].numpy() for u in free])

    return forces


def _motions(
    form: WeakForm, space: FunctionSpace, dofs: slice, inside: Mask, is_fixed: Mask
) -> Array:
    """Shifts and turns of a part of a field that leave what is fixed where it is, (n_dofs, k)."""
    own = _rigid(space, inside[dofs])
    motions = np.zeros((form.n_dofs, own.shape[1]))
    motions[dofs] = own
    held = motions[inside & is_fixed]
    if form.constraints is not None:
        held = np.vstack([held, form.constraints.means @ motions])
    _, sizes, mixed = np.linalg.svd(held, full_matrices=True)
    rank = int((sizes > _ZERO * np.sqrt(form.n_dofs)).sum())
    return np.asarray(motions @ mixed[rank:].T)


def _rigid(space: FunctionSpace, inside: Mask) -> Array:
    """Shifts of a part, and turns about its middle where u may be a displacement, (n_dofs, k).

    Of a plate its tilts.
    """
    if not space.is_value.all():
        return np.asarray(space.near_nullspace * inside[:, None])
    component, c = space.dof_components, space.n_components
    shifts = np.eye(c)[component] * inside[:, None]
    if c == space.dim > 1:
        x = space.dof_points - space.dof_points[inside].mean(axis=0)
        x = x / max(float(np.abs(x[inside]).max()), np.finfo(float).tiny)
        return np.column_stack([shifts, *turns(shifts, x)])
    return shifts


def parts_of(form: WeakForm) -> Index:
    """Number of the part that each degree of freedom belongs to."""
    regions = {id(term.region): term.region for term in form.terms}.values()
    first = np.concatenate([np.repeat(r.dofs[:, 0], r.dofs.shape[1]) for r in regions])
    other = np.concatenate([r.dofs.ravel() for r in regions])
    graph = sp.coo_matrix((np.ones(len(first)), (first, other)), (form.n_dofs, form.n_dofs))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
