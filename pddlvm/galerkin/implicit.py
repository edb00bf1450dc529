"""Derivatives of corrected answers by z: values that were iterated for, with a graph.

    W^T r(c, z) = 0:          dc/dz = -(W^T K V)^+ d(W^T r)/dz
    rho = |r|_X' / |u|_X:     d rho / rho = X^{-1} r . dr / |r|^2  -  X u . du / |u|^2

The first is that of the solution in the basis: after few steps from far it is not that of the
steps. Derivatives of these derivatives are refused.
"""

import torch
from torch import Tensor

from pddlvm.galerkin.refinement import Tangent
from pddlvm.linalg.derivatives import with_slope
from pddlvm.reduced.reference import Reference
from pddlvm.reduced.residual import ReducedModel

__all__ = ["certificate", "solved"]


def solved(exact: ReducedModel, c: Tensor, z: Tensor) -> Tensor:
    """Coefficients c (batch, n_modes) of solutions in the basis, differentiable in z (batch, d).

    Args:
        exact: the reduced model in float64 on the CPU, as c and z are.
        c: without a graph.
        z: with one.
    """
    representation = exact.representation
    operators = representation.problem.discretisation(torch.float64, torch.device("cpu"))
    with torch.no_grad():
        k = Tangent(exact.tangent(c, z), exact.n_modes)
    r = representation.test(operators.residual(representation.expand(c, z), z))
    step = k.solve(r[..., None])[..., 0]
    return with_slope(c, -step)


def certificate(
    exact: ReducedModel, reference: Reference, value: Tensor, mean: Tensor, z: Tensor
) -> Tensor:
    """rho of a mean (batch, n_dofs), of which the value (batch,) is known, differentiable."""
    problem = exact.representation.problem
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    r = operators.balanced(operators.residual(mean, z))
    u, tiny = mean.detach(), torch.finfo(torch.float64).tiny
    dual, primal = reference.solve(r), torch.from_numpy((reference.whole @ u.numpy().T).T)
    of_r = (r * dual).sum(-1) / (r.detach() * dual).sum(-1).clamp(min=tiny)
    of_u = (mean * primal).sum(-1) / (u * primal).sum(-1).clamp(min=tiny)
    return with_slope(value, value * (of_r - of_u))
