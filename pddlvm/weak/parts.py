"""Parts of a problem that nothing connects, and that nothing holds.

The parts are those of the graph in which the degrees of freedom of a cell are neighbours. A part is
loose if none of them is fixed and the tangent does not resist a shift, K 1 = 0 on the part.
"""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["loose_parts"]

Index = NDArray[np.int64]

_ZERO = 1e-10


def loose_parts(form: WeakForm, discretisation: Discretisation) -> list[Index]:
    """Degrees of freedom of each loose part."""
    n = form.n_dofs
    label = _labels(form)
    is_free = np.zeros(n, dtype=bool)
    is_free[form.free_dofs] = True
    held = np.unique(label[~is_free])
    suspects = np.setdiff1d(label, held)
    if not suspects.size:
        return []
    z = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
    tangents = discretisation.tangents(torch.ones(1, n, dtype=torch.float64), z)

    def size(v: NDArray[np.float64]) -> float:
        free = torch.from_numpy(v[form.free_dofs])[None]
        return float(discretisation.apply_tangents(tangents, free).abs().max())

    rough = np.cos(np.arange(n))
    loose = []
    for part in suspects:
        inside = label == part
        shifts = [inside & (form.space.dof_components == c) for c in range(form.space.n_components)]
        if min(size(1.0 * s) for s in shifts) <= _ZERO * size(rough * inside):
            loose.append(np.flatnonzero(inside))
    return loose


def _labels(form: WeakForm) -> Index:
    """Number of the part that each degree of freedom belongs to."""
    regions = {id(term.region): term.region for term in form.terms}.values()
    first = np.concatenate([np.repeat(r.dofs[:, 0], r.dofs.shape[1]) for r in regions])
    other = np.concatenate([r.dofs.ravel() for r in regions])
    graph = sp.coo_matrix((np.ones(len(first)), (first, other)), (form.n_dofs, form.n_dofs))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
