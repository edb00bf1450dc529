"""What a problem in time is asked before it is built: mistakes are named at once."""

import warnings

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.fem import MixedSpace
from pddlvm.linalg.factorisation import Definiteness, NotPositiveError, SingularMatrixError
from pddlvm.parameters.time import Time
from pddlvm.transient.schemes import Scheme
from pddlvm.transient.states import Given, StateAtStart
from pddlvm.transient.stepping import Stepping
from pddlvm.weak.problem import Problem

__all__ = ["check_constraints", "check_stable", "time_of", "velocity_of", "warn_of_violated"]

_SLACK = 1e-9
"""Of the interval, by which its ends may differ."""
_VIOLATED = 1e-6
"""Relative difference of an initial value to a Dirichlet value that is no rounding."""


def time_of(problem: Problem, stepping: Stepping) -> str | None:
    """Name of the field of time of a problem, or None; or a ProblemError."""
    times = {k: f.interval for k, f in problem.random_fields.items() if isinstance(f, Time)}
    if not times:
        return None
    fields = list(problem.random_fields)
    if list(times) != fields[-1:]:
        raise ProblemError(
            f"problem {problem.name!r} has the fields {fields}; one Time is enough, and it must be "
            "the last of them"
        )
    if len(fields) == 1:
        raise ProblemError(
            f"problem {problem.name!r} needs at least one uncertain parameter besides the time"
        )
    (start, end), slack = times[fields[-1]], _SLACK * (stepping.end - stepping.start)
    if abs(start - stepping.start) > slack or abs(end - stepping.end) > slack:
        raise ProblemError(
            f"the field {fields[-1]!r} of problem {problem.name!r} is the time between {start:g} "
            f"and {end:g}, and the steps go from {stepping.start:g} to {stepping.end:g}; make them "
            "equal"
        )
    return fields[-1]


def velocity_of(
    problem: Problem, stepping: Stepping, velocity: Given | None
) -> StateAtStart | None:
    """The velocity at the start, where the method of the steps needs one, or a ProblemError."""
    method, order = type(stepping.method).__name__, stepping.method.n_derivatives
    if order == 2 and velocity is None:
        raise ProblemError(
            f"{method} steps problem {problem.name!r} with the second derivative in time, which "
            "needs a velocity at the start too: velocity=0.0 where it is at rest"
        )
    if order == 1 and velocity is not None:
        raise ProblemError(
            f"problem {problem.name!r} has a velocity at the start, and {method} steps the first "
            "derivative in time; leave the velocity out, or take method=pddlvm.Newmark()"
        )
    return None if velocity is None else StateAtStart(problem, velocity, "the velocity")


def check_constraints(problem: Problem, mass: sp.csr_matrix) -> None:
    """Raise a ProblemError if a mean value is constrained of what has a derivative in time."""
    for one in problem.constraints:
        if mass[problem.fields_of_u[one.field]].nnz:
            raise ProblemError(
                f"{one} of problem {problem.name!r} is one too many: the field has a derivative in "
                "time, and its initial value says what its mean is. Leave it out; a steady problem "
                "with a pddlvm.Time among its fields may be without what holds it"
            )


def check_stable(problem: Problem, mass: sp.csr_matrix, scheme: Scheme) -> None:
    """Raise a ProblemError if a step of a linear, symmetric problem of one field is not positive.

    Ta_kk M + Tb_kk K0 at the centre of the prior: what grows as fast as steps go is a wrong sign.
    """
    if not (problem.is_linear and problem.form.is_symmetric):
        return
    if isinstance(problem.space, MixedSpace) or problem.constraints:
        return
    centre = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters).double())
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    rest = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
    stiffness = problem.solver.assemble_unconstrained(
        [part[0] for part in operators.tangents(rest, centre)]
    )
    free = problem.free_dofs
    of_m, of_k = min(map(tuple, scheme.diagonals.tolist()))
    matrix = (of_m * mass + of_k * stiffness).tocsr()[free][:, free].tocsc()
    try:
        found = problem.form.factorise(matrix, symmetric=True, many=True).definiteness()
    except NotPositiveError:
        found = Definiteness(1, False)
    except SingularMatrixError:
        found = Definiteness(0, True)
    if found.n_negative or found.is_singular:
        raise ProblemError(
            f"problem {problem.name!r} is not stable in time: at the centre of the prior some of "
            "its shapes grow faster than the steps can follow, without end as the mesh is refined. "
            "Has an energy, or a coefficient, the wrong sign (as -k in 1/2 k |grad u|^2)? If what "
            "grows is meant, as a reaction, take shorter steps"
        )


def warn_of_violated(problem: Problem, given: Tensor, prescribed: Tensor) -> None:
    """Warn if initial values, (n, n_dofs), are not the Dirichlet values where these hold."""
    fixed = torch.from_numpy(problem.fixed_dofs)
    difference = (given - prescribed)[:, fixed].abs()
    scale = torch.maximum(given.abs().max(), prescribed.abs().max())
    if not difference.numel() or difference.max() <= _VIOLATED * scale:
        return
    worst = int(fixed[int(difference.amax(0).argmax())])
    warnings.warn(
        f"the initial value of problem {problem.name!r} differs from its Dirichlet values by up to "
        f"{float(difference.max()):.3g}, at {problem.space.dof_points[worst].tolist()}: there the "
        "solution jumps at the start. Let the initial value agree with them; or, if the jump is "
        "meant, let it agree at the boundary alone, and take short first steps, "
        "Stepping.graded(...)",
        UserWarning,
        # Past the constructor and what it is wrapped in.
        stacklevel=4,
    )
