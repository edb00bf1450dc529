"""Constraints that make a solution unique which the equations know up to a constant.

    r(u, z) + C lambda = 0,    C^T u = 0,        C_i = int phi_i

Newton's matrix becomes [[K, C], [C^T, 0]]. With the constants N, K N = 0 and N^T K = 0, the
multiplier is the imbalance of the loads over the volume:

    lambda = -N^T r / N^T C,      zero where they balance, N^T f = 0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import check_all, is_integer
from pddlvm.basics.errors import ProblemError
from pddlvm.fem import FunctionSpace, Space
from pddlvm.fem.mixed import field_of
from pddlvm.fem.regions import constants

__all__ = ["Constraints", "MeanValue", "constraints_of"]

Array = NDArray[np.float64]

_IMBALANCE = 5e-2
"""Of loads, above which it is no error of the quadrature: four cells a side leave 1 %."""


@dataclass(frozen=True)
class MeanValue:
    """int u = 0: for a solution that is known up to a constant.

    That is one whose boundary has fluxes only, or a pressure of a flow that has its velocity
    prescribed all around. The loads must balance: sources and fluxes sum to zero, or what flows in
    flows out. What the quadrature leaves of their sum, below 5 % of their sizes, is spread evenly.

    Attributes:
        field: of a `fem.MixedSpace`, the one whose mean is zero.
        component: of a vector.
    """

    field: str = "u"
    component: int | None = None


@dataclass(frozen=True)
class Constraints:
    """C and N of some mean values.

    Attributes:
        given: the constraints.
        border: C, (n_dofs, k).
        constants: N, a component of a field that is one, (n_dofs, k).
    """

    given: tuple[MeanValue, ...]
    border: Array
    constants: Array

    @property
    def volumes(self) -> Array:
        """N^T C, (k,): that of the mesh, for each."""
        return np.asarray((self.border * self.constants).sum(axis=0))

    @property
    def means(self) -> Array:
        """From u to its mean values, (k, n_dofs)."""
        return np.asarray((self.border / self.volumes).T)

    def check_balance(self, loads: Tensor, free: Tensor, sample: str) -> None:
        """Raise a ProblemError if the loads of a sample do not balance.

        Args:
            loads: residual at the lifting of the boundary values, (n_free,): N^T r is that of any
                u, because of N^T K = 0.
            free: its degrees of freedom.
            sample: which it is, for the message.
        """
        constants = torch.from_numpy(self.constants)[free]
        net, sizes = loads @ constants, loads.abs() @ constants
        for i, one in enumerate(self.given):
            if abs(net[i]) > _IMBALANCE * sizes[i]:
                raise ProblemError(
                    f"the loads of {sample} do not balance: those on {_name(one)} sum to "
                    f"{-float(net[i]):.4g} (their sizes to {float(sizes[i]):.4g}). Known up to a "
                    "constant, a solution exists only where they sum to zero: sources and fluxes "
                    "through the boundary, or for a pressure what flows in and out"
                )


def constraints_of(name: str, space: FunctionSpace, given: Any) -> Constraints | None:
    """The constraints of the problem `name`, or None, or a ProblemError."""
    found: Sequence[MeanValue] = check_all(given, MeanValue, "constraints", '[MeanValue("p")]')
    if not found:
        return None
    if len(set(found)) < len(found):
        raise ProblemError(f"a constraint of problem {name!r} is given twice; give it once")
    border, constants = zip(*(_columns(one, space) for one in found), strict=True)
    return Constraints(tuple(found), np.column_stack(border), np.column_stack(constants))


def _columns(one: MeanValue, space: FunctionSpace) -> tuple[Array, Array]:
    """C and N of one constraint, (n_dofs,) each."""
    dofs, own = field_of(space, one.field)
    if not isinstance(own, Space):
        raise ProblemError(f"a {type(own).__name__} has no mean value that could be constrained")
    c = own.n_components
    component = 0 if c == 1 and one.component is None else one.component
    if not (is_integer(component) and 0 <= int(component or 0) < c):
        raise ProblemError(
            f"MeanValue of {one.field!r}, which has {c} components, needs a component between 0 "
            f"and {c - 1}, got {one.component!r}"
        )
    region = own.interior()
    values = region.matrix[component :: region.shape[2]]
    border, constant = np.zeros(space.n_dofs), np.zeros(space.n_dofs)
    border[dofs] = values.T @ region.weights.ravel()
    constant[dofs] = constants(own)[:, component]
    return border, constant


def _name(one: MeanValue) -> str:
    return repr(one.field) + ("" if one.component is None else f"[{one.component}]")
