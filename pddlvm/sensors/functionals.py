"""Functions of solutions that are often asked for, for `Quantity`.

boundary_flux   int_part f1 . n, of r . v = int f0 . v + f1 : grad v
compliance      -r(0, z) . u,  the work of the loads
maximum         max_i u_i
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import ProblemError
from pddlvm.fem.where import Where
from pddlvm.linalg.operators import SparseOperator
from pddlvm.parameters.problem import ParametricProblem

__all__ = ["boundary_flux", "compliance", "maximum"]


def boundary_flux(
    problem: ParametricProblem, where: Where, field: str = "u"
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of u and z: what flows in where u is held, or the force that holds it there.

    Of a diffusion int k du/dn over that part, n outward; of an elastic body the sum of the
    reactions, a number for each component. By the residual (the consistent flux), far more
    accurate than the gradient at the boundary.

    Args:
        problem: of finite elements, steady.
        where: a part of the boundary with Dirichlet values, see `Space.boundary`.
        field: of a solution that has several, the one that is held.

    Raises:
        InputError: u is held nowhere on it, or another problem.
    """
    check_kind(ParametricProblem, problem=problem)
    return partial(_flux, problem, SparseOperator(problem.held_on(where, field), torch.float64))


def compliance(problem: ParametricProblem) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of u and z: the work f(z) . u of the loads, f = -r(0, z).

    Args:
        problem: of finite elements, steady.

    Raises:
        InputError: another problem.
    """
    check_kind(ParametricProblem, problem=problem)
    problem.forces(torch.zeros(1, problem.n_dofs).double(), problem.prior.sample((1,), seed=0))
    return partial(_work, problem)


def maximum(problem: ParametricProblem, field: str = "u") -> Callable[[Tensor], Tensor]:
    """A function of u: the largest of its degrees of freedom, at all times of a trajectory.

    Args:
        problem: any.
        field: of a solution that has several, the one that is looked at.

    Raises:
        ProblemError: there is no such field.
    """
    check_kind(ParametricProblem, problem=problem)
    if field not in problem.fields_of_u:
        raise ProblemError(f"there is no field {field!r}; there are {list(problem.fields_of_u)}")
    return partial(_maximum, problem.fields_of_u[field])


def _flux(problem: ParametricProblem, rows: SparseOperator, u: Tensor, z: Tensor) -> Tensor:
    found: Tensor = rows.to(u.device)(problem.forces(u, z).double())
    return found.to(u)


def _work(problem: ParametricProblem, u: Tensor, z: Tensor) -> Tensor:
    return -(problem.forces(torch.zeros_like(u), z) * u).sum(-1, keepdim=True)


def _maximum(dofs: slice, u: Tensor) -> Tensor:
    return u[..., dofs].flatten(1).amax(-1, keepdim=True)
