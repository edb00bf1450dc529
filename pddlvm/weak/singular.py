"""Why a matrix is singular, or nearly so: from the vector x that it does not see.

    K x ~ 0,      by inverse iteration on K + delta, free of units, delta next to round-off

What x is tells: constant, of fields without an energy of their own, or a wave.
"""

import numpy as np
import scipy.sparse as sp

from pddlvm.fem.mixed import MixedSpace
from pddlvm.linalg.factorisation import Array, NotPositiveError, SingularMatrixError, rough, scaled
from pddlvm.weak.form import WeakForm

__all__ = ["why_singular"]

_SHIFT, _NEARLY = 1e-11, 1e-9
_SHARE = 1e-3
"""Of the largest entry, from which a field or a place takes part."""
_N_ITERATIONS = 3


def why_singular(form: WeakForm, matrix: sp.csc_matrix) -> str | None:
    """A reason, a clause; None if the matrix is regular.

    Args:
        form: whose free degrees of freedom it is on.
        matrix: K.
    """
    scale, a = scaled(matrix)
    x = _unseen(form, sp.csc_matrix(a), scale)
    if x is None:
        return None
    x = scale * x
    x = x / np.abs(x).max()
    if isinstance(form.space, MixedSpace):
        moved = _moved(form, x, matrix.diagonal())
        if moved is not None:
            return moved
    elif np.ptp(x) < _SHARE:
        return "there it is known up to a constant: what holds it vanishes"
    place = form.space.dof_points[form.free_dofs[int(np.abs(x).argmax())]]
    where = ", ".join(f"{v:.4g}" for v in place)
    return (
        f"without loads it has a solution too, largest at ({where}): a resonance, where no bounded "
        "solution exists, or a coefficient that is zero there. Narrow the prior, or add damping"
    )


def _unseen(form: WeakForm, a: sp.csc_matrix, scale: Array) -> Array | None:
    """x of size one with A x ~ 0, A = S K S, or None; none that a constraint excludes."""
    size = float(abs(a).max())
    shifted = sp.csc_matrix(a + _SHIFT * size * sp.identity(a.shape[0]))
    try:
        factors = form.solver.factorise(shifted, symmetric=False)
    except (SingularMatrixError, NotPositiveError, MemoryError):
        return None
    x = rough(a.shape[0])
    for _ in range(_N_ITERATIONS):
        x = factors.solve(x)
        if not np.isfinite(x).all():
            return None
        if form.constraints is not None:
            means = form.constraints.means[:, form.free_dofs] @ (scale * x)
            x = x - form.constraints.constants[form.free_dofs] @ means / scale
        x = x / np.linalg.norm(x)
    return x if np.linalg.norm(a @ x) <= _NEARLY * size else None


def _moved(form: WeakForm, x: Array, diagonal: Array) -> str | None:
    """The reason, if x is made of fields that have no energy of their own."""
    assert isinstance(form.space, MixedSpace)
    names = []
    for name in form.space.field_names:
        dofs, _ = form.space.field(name)
        own = (form.free_dofs >= dofs.start) & (form.free_dofs < dofs.stop)
        if np.abs(x[own]).max(initial=0.0) > _SHARE:
            names.append(name)
            if diagonal[own].any():
                return None
    return (
        f"field {' and '.join(map(repr, names))} has a mode that the other fields do not see. The "
        "spaces of a saddle point must fit: the velocity one degree higher than the pressure "
        "(P2-P1, not P1-P1)"
    )
