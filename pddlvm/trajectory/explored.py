"""Reduced steps in a basis that is being made, with points of nonlinear terms by what was seen.

The first states are the initial ones, held; then those of each round, u + e.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.trajectory.cubature import States, choose_points, terms_in_space
from pddlvm.trajectory.parts import Parts
from pddlvm.trajectory.pointwise import AtPoints
from pddlvm.trajectory.reference import ReferenceMarch, states_of
from pddlvm.trajectory.steps import ReducedSteps
from pddlvm.transient.problem import TransientProblem

__all__ = ["Explored"]

Array = NDArray[np.float64]


class Explored:
    """Points of the nonlinear terms, by the states that were seen last; nothing of linear ones.

    Args:
        reference: the reference march.
        parts: of the problem.
        seed: of the candidates.
    """

    def __init__(self, reference: ReferenceMarch, parts: Parts, seed: int) -> None:
        self._reference, self._parts = reference, parts
        self._problem, self._norm = reference.problem, reference.norm
        self._rng = np.random.default_rng(seed)
        self._seen: States | None = None
        self._chosen: list[AtPoints] = []

    @property
    def is_ready(self) -> bool:
        """Are there points, where terms need them?"""
        return not self._parts.nonlinear or bool(self._chosen)

    def reduced(self, v: Array, *, is_final: bool = False) -> ReducedSteps:
        """The steps in V, with points by what was seen since the last time."""
        if self._parts.nonlinear and self._seen is not None:
            tests = on_all_dofs(self._problem, v @ self._weights(v))
            self._chosen = choose_points(
                self._problem,
                self._parts.nonlinear,
                tests,
                self._seen,
                self._rng,
                is_final=is_final,
            )
            self._seen = None
        return _reduced(self._reference, self._parts, v, self._chosen)

    def march(self, steps: ReducedSteps, z: Tensor) -> Tensor:
        """c of draws; before any state was seen the initial ones, held."""
        if not self.is_ready:
            return steps.history(z)[:, -1:].expand(-1, self._problem.n_times, -1).contiguous()
        return steps.march(steps.drive(z))

    def see(self, z: Tensor, inside: Array) -> None:
        """States on the free degrees of freedom, (n, N, n_free), of draws."""
        if self._parts.nonlinear:
            pairs = zip(z, torch.from_numpy(inside), strict=True)
            u = torch.stack([states_of(self._problem, *pair) for pair in pairs])
            self._seen = States(u, self._problem.state_rows(z))

    def beyond(self, v: Array, e: Array) -> Array:
        """Errors without their part in V, of a nonlinear problem."""
        if not self._parts.nonlinear:
            return e
        flat = e.reshape(-1, e.shape[-1])
        return (flat - (flat @ (self._norm @ v)) @ v.T).reshape(e.shape)

    def finish(self, steps: ReducedSteps, z: Tensor) -> ReducedSteps:
        """The same steps with points that were chosen by more draws."""
        v = steps.v.numpy()
        self.see(z, self.march(steps, z).numpy() @ v.T)
        return self.reduced(v, is_final=True)

    def _weights(self, v: Array) -> Array:
        """(V^T (K0 + M / T) V)^{-1}: a flux is as large as the steady error that it makes."""
        stepping = self._problem.stepping
        k0 = v.T @ (self._reference.stiffness @ v)
        mass = v.T @ (self._reference.mass @ v)
        found: Array = np.linalg.inv(k0 + mass / (stepping.end - stepping.start)).T
        return found


def _reduced(
    reference: ReferenceMarch, parts: Parts, v: Array, chosen: list[AtPoints]
) -> ReducedSteps:
    problem = reference.problem
    free, lifts = problem.steady.free_dofs, parts.lifts
    whole = on_all_dofs(problem, v)
    columns = np.hstack([whole, lifts.T])
    k = np.zeros((len(parts.matrices), v.shape[1], columns.shape[1]))
    for own, matrix in zip(k, parts.matrices, strict=True):
        own[:] = v.T @ (matrix[free] @ columns)
    return ReducedSteps(
        problem,
        parts.coefficients,
        torch.from_numpy(np.ascontiguousarray(v)),
        torch.from_numpy(k),
        torch.from_numpy(parts.loads[:, free] @ v),
        torch.from_numpy(v.T @ (problem.mass[free] @ lifts.T)),
        torch.from_numpy(lifts),
        reference.sizes,
        terms_in_space(problem, chosen, whole, lifts) if chosen else None,
    )


def on_all_dofs(problem: TransientProblem, v: Array) -> Array:
    """On all degrees of freedom, (n_free, n) -> (n_dofs, n)."""
    whole = np.zeros((problem.n_dofs, v.shape[1]))
    whole[problem.steady.free_dofs] = v
    return whole
