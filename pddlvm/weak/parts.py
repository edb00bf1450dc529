"""Parts of a problem that nothing connects, and that nothing holds.

The parts are those of the graph in which the degrees of freedom of a cell are neighbours. A part is
loose if a shift or a turn of it, v, leaves what is fixed where it is, and the tangent does not
resist it: K v = 0.
"""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from pddlvm.fem.regions import turns
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["loose_parts"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_ZERO = 1e-10


def loose_parts(form: WeakForm, discretisation: Discretisation) -> list[Index]:
    """Degrees of freedom of each loose part."""
    n = form.n_dofs
    label = _labels(form)
    is_fixed = np.ones(n, dtype=bool)
    is_fixed[form.free_dofs] = False
    suspects = np.unique(label)
    if form.space.n_components == 1:
        suspects = np.setdiff1d(suspects, label[is_fixed])
    if not suspects.size:
        return []
    z = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
    tangents = discretisation.tangents(torch.ones(1, n, dtype=torch.float64), z)

    def forces(v: Array) -> Array:
        free = torch.from_numpy(v[form.free_dofs].T.copy())
        return np.stack([discretisation.apply_tangents(tangents, u[None])[0].numpy() for u in free])

    rough = np.cos(np.arange(n))[:, None]
    loose = []
    for part in suspects:
        inside = label == part
        motions = _motions(form, inside)
        # Those that leave what is fixed where it is.
        _, sizes, mixed = np.linalg.svd(motions[inside & is_fixed], full_matrices=True)
        rank = int((sizes > _ZERO * np.sqrt(n)).sum())
        left = motions @ mixed[rank:].T
        if not left.shape[1]:
            continue
        force = np.linalg.svd(forces(left), compute_uv=False)
        if force[-1] <= _ZERO * np.linalg.norm(forces(rough * inside[:, None])):
            loose.append(np.flatnonzero(inside))
    return loose


def _motions(form: WeakForm, inside: NDArray[np.bool_]) -> Array:
    """Shifts of a part, and turns about its middle where u may be a displacement, (n_dofs, k)."""
    space, component = form.space, form.space.dof_components
    c = space.n_components
    shifts = np.eye(c)[component] * inside[:, None]
    if c == space.dim > 1:
        x = space.dof_points - space.dof_points[inside].mean(axis=0)
        x = x / max(float(np.abs(x[inside]).max()), np.finfo(float).tiny)
        return np.column_stack([shifts, *turns(shifts, x)])
    return shifts


def _labels(form: WeakForm) -> Index:
    """Number of the part that each degree of freedom belongs to."""
    regions = {id(term.region): term.region for term in form.terms}.values()
    first = np.concatenate([np.repeat(r.dofs[:, 0], r.dofs.shape[1]) for r in regions])
    other = np.concatenate([r.dofs.ravel() for r in regions])
    graph = sp.coo_matrix((np.ones(len(first)), (first, other)), (form.n_dofs, form.n_dofs))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
