"""Derivatives by z of the solutions of the p x p equations.

    rho(a, z) = 0:      da/dz = -(d rho/da)^{-1} d rho/dz

Derivatives of these derivatives are refused.
"""

import torch
from torch import Tensor

from pddlvm.linalg.derivatives import with_slope
from pddlvm.trajectory.modes import Modes

__all__ = ["solved"]


def solved(modes: Modes, z: Tensor) -> Tensor:
    """a with rho(a, z) = 0, (batch, p), differentiable in z (batch, d).

    Raises:
        ConvergenceError: Newton's method did not find it.
    """
    equations = modes.equations(modes.steps.drive(z))
    with torch.no_grad():
        a = modes.solve(z)
        tangent = equations.tangent(a)
    return with_slope(a, -torch.linalg.solve(tangent, equations.residual(a)))
