"""Standard deviations of values at the nodes of a mesh.

Where degrees of freedom are values these have their own. Fluxes, circulations and slopes make
values at nodes together, with signs: there it is that of draws.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.fem import FunctionSpace

__all__ = ["std_at_nodes"]

_N_DRAWS, _SEED = 400, 0


def std_at_nodes(
    space: FunctionSpace, dofs: slice, std: Tensor, sample: Callable[..., Tensor]
) -> NDArray[np.float64]:
    """Of one field, (n_nodes, n_components).

    Args:
        space: of the field.
        dofs: where it is.
        std: of all degrees of freedom, (n_dofs,).
        sample: makes draws, (n, n_dofs); asked for 400 where values at nodes need them.
    """
    if space.is_value.all():
        return space.at_nodes(std.detach().double().cpu().numpy()[dofs])
    draws = sample((_N_DRAWS,), seed=_SEED).detach().double().cpu().numpy()
    return np.asarray(np.stack([space.at_nodes(u[dofs]) for u in draws]).std(axis=0))
