"""Derivatives by z of the solutions of the p x p equations.

    rho(a, z) = 0:      da/dz = -(d rho/da)^{-1} d rho/dz

Derivatives of these derivatives are refused.
"""

import torch
from torch import Tensor

from pddlvm.linalg.derivatives import only_once
from pddlvm.trajectory.modes import Modes

__all__ = ["solved"]


def solved(modes: Modes, z: Tensor) -> Tensor:
    """a with rho(a, z) = 0, (batch, p), differentiable in z (batch, d).

    Raises:
        ConvergenceError: Newton's method did not find it.
    """
    with torch.no_grad():
        a = modes.solve(z)
        tangent = modes.tangent(a, z)
    step = torch.linalg.solve(tangent, modes.residual(a, z))
    return only_once(a - (step - step.detach()))
