"""Reference trajectories: a march for linear problems, Newton's method in each step for others."""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg.factorisation import Factorisation, NotPositiveError, SingularMatrixError
from pddlvm.transient.marching import march
from pddlvm.transient.newton import NewtonStepper
from pddlvm.transient.schemes import Scheme
from pddlvm.transient.terms import MovingTerms
from pddlvm.weak.problem import Problem

__all__ = ["TransientSolver"]

Index = NDArray[np.int64]


class TransientSolver:
    """Steps of a steady problem in time, float64 on the CPU.

    Args:
        problem: the steady one.
        scheme: of the steps.
        mass: M, on all degrees of freedom.
        time: the name of the field of time, or None.
    """

    def __init__(
        self, problem: Problem, scheme: Scheme, mass: sp.csr_matrix, time: str | None
    ) -> None:
        self._problem, self._scheme, self._mass = problem, scheme, mass
        self._terms = MovingTerms(problem, time)
        self._newton = NewtonStepper(problem, scheme, mass)

    def solve(self, rows: Tensor, history: Tensor, first: int) -> Tensor:
        """All states but the history, (n, N, n_dofs).

        Args:
            rows: z of the steady problem at the times of all states, (n, h + N, d).
            history: (n, h, n_dofs).
            first: number of the first sample, for messages.

        Raises:
            ConvergenceError: a step of a sample was not found, or is not finite.
        """
        lifts = self._terms.operators.lift(rows.flatten(0, 1))
        u = torch.cat([history, lifts.unflatten(0, rows.shape[:2])[:, history.shape[1] :]], dim=1)
        left = self._march(u, rows, first) if self._problem.is_linear else list(range(len(u)))
        if left:
            states = u[left].transpose(0, 1).contiguous()
            numbers = first + np.array(left)
            self._newton.march(states.numpy(), rows[left].transpose(0, 1), numbers)
            u[left] = states.transpose(0, 1)
        bad = (~torch.isfinite(u).flatten(1).all(1)).nonzero().flatten().tolist()
        if bad:
            raise ConvergenceError(
                f"the solution of sample {first + bad[0]} (z = {rows[bad[0], 0].tolist()}) is not "
                "finite; check the physics at these parameters"
            )
        return u[:, history.shape[1] :]

    def _march(self, u: Tensor, rows: Tensor, first: int) -> list[int]:
        """Solve the samples whose K is the same at all times, and return the others."""
        asked = torch.from_numpy(self._scheme.asked)
        groups: list[tuple[list[Tensor], list[int]]] = []
        left = []
        for i, tangents in enumerate(self._terms.stiffness_of_each(rows[:, asked])):
            if tangents is None:
                left.append(i)
                continue
            same = [m for other, m in groups if all(map(torch.equal, other, tangents))]
            if same:
                same[0].append(i)
            else:
                groups.append((tangents, [i]))
        if not groups:
            return left
        loads = torch.zeros(*rows.shape[:2], self._problem.n_free, dtype=torch.float64)
        loads[:, asked] = self._terms.loads(rows[:, asked])
        for tangents, members in groups:
            states, g = (x[members].permute(1, 2, 0).contiguous().numpy() for x in (u, loads))
            operators = self._mass, self._terms.assemble(tangents)
            try:
                march(self._scheme, operators, self._factorise, states, g, self._problem.free_dofs)
            except (SingularMatrixError, NotPositiveError, ConvergenceError) as error:
                z = rows[members[0], 0].tolist()
                raise ConvergenceError(f"sample {first + members[0]} (z = {z}): {error}") from error
            u[members] = torch.from_numpy(states).permute(2, 0, 1)
        return left

    def _factorise(self, matrix: sp.csc_matrix) -> Factorisation:
        form = self._problem.form
        return form.factorise(matrix, symmetric=form.is_symmetric, many=True)
