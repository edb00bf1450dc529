"""What holds u on a part of the boundary: sums of r_i over degrees of freedom that are held there.

    sum_i r_i = r . v,      v = 1 on the part and 0 at all other nodes
    r . v = int_part f1 . n      of r . v = int f0 . v + f1 : grad v, at a solution

It is the consistent flux, as right as integrals of the solution are and not only as its gradient.
v reaches one cell far around the ends of the part.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.basics.errors import InputError
from pddlvm.fem import FunctionSpace
from pddlvm.fem.mixed import field_of
from pddlvm.fem.where import Where

__all__ = ["held_on"]


def held_on(
    space: FunctionSpace, fixed_dofs: NDArray[np.int64], where: Where, field: str
) -> sp.csr_matrix:
    """Rows of ones, a component of the field each, (n_components, n_dofs).

    Raises:
        MeshError, ProblemError: no such part of the boundary, or no such field.
        InputError: no degree of freedom of the field is held there.
    """
    dofs, own = field_of(space, field)
    found = own.dofs_on(where)
    found = found[np.isin(found + dofs.start, fixed_dofs)]
    if not len(found):
        raise InputError(
            f"the field {field!r} is held nowhere on {where!r}: what flows through there is in the "
            "data of the problem; take a part with Dirichlet values"
        )
    shape = own.n_components, space.n_dofs
    rows = own.dof_components[found]
    return sp.csr_matrix((np.ones(len(found)), (rows, found + dofs.start)), shape=shape)
