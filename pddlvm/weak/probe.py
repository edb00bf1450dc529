"""What the functions and fields of a problem give at random parameters and states: its mark."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.summary import summarise
from pddlvm.parameters.fields import FieldAtPoints
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm

__all__ = ["probe_of"]

_N_PROBES, _PROBE_SEED = 2, 20225


def probe_of(
    form: WeakForm, operators: Discretisation, at_centroids: Mapping[str, FieldAtPoints]
) -> Tensor:
    """Of the prior, boundary values, fields and the residual of each term, to a row each.

    The states are none, where loads are not hidden by stiffness, a rough and a smooth one.
    """
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    z = form.prior.sample((_N_PROBES,), generator=generator)
    low, high = (f(form.space.dof_points, axis=0) for f in (np.min, np.max))
    s = (form.space.dof_points - low) / np.where(high > low, high - low, 1.0)
    smooth = torch.from_numpy(np.sin(1.0 + 2.0 * s @ (1.0 + np.arange(s.shape[1]))))
    rough = torch.arange(form.n_dofs, dtype=torch.float64).cos()
    blocks = form.prior.split(z)
    rows = [z, operators.lift(z)]
    rows += [field(blocks[k]) for k, field in at_centroids.items()]
    for term in operators.terms:
        rows += [term.x[None], term.weights[None]]
        rows += [
            term.residual(u.expand(_N_PROBES, -1), blocks)
            for u in (torch.zeros_like(rough), rough, smooth)
        ]
    return torch.cat([summarise(row) for row in rows])
