"""Stress resultants of shells, and von Mises stress at both faces.

    N = dpsi/de,   M = dpsi/dk (force and moment per length),   sigma+- = N / t +- 6 M / t^2

in the frame of each triangle; + is the outer face, where the normal points to.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.checks import check_kind, check_no_gradient
from pddlvm.basics.errors import ProblemError
from pddlvm.parameters.fields import Field
from pddlvm.weak.problem import Problem

__all__ = ["ShellStresses", "shell_stresses"]


@dataclass(frozen=True)
class ShellStresses:
    """Means over each triangle.

    Attributes:
        membrane: N11, N22, N12, (..., n_triangles, 3).
        bending: M11, M22, M12, (..., n_triangles, 3).
        von_mises_outer, von_mises_inner: at the two faces, (..., n_triangles).
    """

    membrane: Tensor
    bending: Tensor
    von_mises_outer: Tensor
    von_mises_inner: Tensor


def shell_stresses(problem: Problem, u: Tensor, z: Tensor) -> ShellStresses:
    """Stresses of a solution of a shell problem; no gradients of u are needed.

    Args:
        problem: with energies on `membrane()` and `bending()` of a `fem.ShellSpace`, and a field
            or number `thickness`.
        u: solutions, (..., n_dofs).
        z: parameters, (..., d).

    Raises:
        ProblemError: the problem is not such a shell.
        InputError, SupportError: u or z is not of the problem.
    """
    check_kind(Problem, problem=problem)
    names = [term.region.name for term in problem.terms]
    if not {"membrane", "bending"} <= set(names) or "thickness" not in problem.fields:
        raise ProblemError(
            f"stresses need terms on `membrane()` and `bending()` of a shell and a field "
            f"`thickness`; problem {problem.name!r} has terms on {names}"
        )
    u = problem.check_solution(check_no_gradient(u, "u"))
    z = problem.prior.check(check_no_gradient(z, "z"))
    batch = u.shape[:-1]
    flat_u = u.detach().double().cpu().reshape(-1, problem.n_dofs)
    flat_z = z.detach().double().cpu().expand(*batch, -1).reshape(-1, problem.n_parameters)
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    blocks = problem.prior.split(flat_z)

    def resultant(name: str) -> Tensor:
        evaluator = operators.terms[names.index(name)]
        n_cells, n_quadrature = evaluator.term.region.shape[:2]
        fluxes = evaluator.fluxes(flat_u, blocks).unflatten(1, (n_cells, n_quadrature))
        weights = evaluator.weights.reshape(n_cells, n_quadrature)
        # The membrane has its constant strain at the first point; the others only stabilise.
        n = 1 if name == "membrane" else n_quadrature
        mean = fluxes[:, :, :n].sum(2) / weights[:, :n].sum(1)[:, None]
        return mean.to(u).reshape(*batch, n_cells, 3)

    thickness = problem.fields["thickness"]
    if isinstance(thickness, Field):
        t = problem.field_values(z, "thickness").to(u)[..., None]
    else:
        t = torch.as_tensor(thickness).to(u)
    n, m = resultant("membrane"), resultant("bending")
    return ShellStresses(n, m, von_mises(n / t + 6 * m / t**2), von_mises(n / t - 6 * m / t**2))


def von_mises(stress: Tensor) -> Tensor:
    """Equivalent stress of plane stress (s11, s22, s12), (..., 3) -> (...,)."""
    s11, s22, s12 = stress.unbind(-1)
    return (s11**2 - s11 * s22 + s22**2 + 3 * s12**2).sqrt()
