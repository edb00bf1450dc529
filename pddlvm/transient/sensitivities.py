"""Reference trajectories and their derivatives by z: a march of the derivative, or one backwards.

    R(u(z), z) = 0,    J = dR/du                              see `pddlvm.transient.tangent`
    adjoint:    slope . du/dz  =  d/dz [slope . u_D(z) + lambda . R(u, z)],    J^T lambda = -slope
    forward:    du  =  du_D - J^{-1} dR

u is held but for what z prescribes, u_D: the history and the boundary values. With the rows of the
scheme

    lambda . R = sum_j (Ta^T lambda)_j . M u_j + (Tb^T lambda)_j . r(u_j, z, t_j)
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.parameters.sensitivities import Sensitivities
from pddlvm.transient.schemes import Scheme
from pddlvm.transient.tangent import Tangent
from pddlvm.transient.terms import MovingTerms
from pddlvm.weak.problem import Problem

__all__ = ["MarchSensitivities"]

Array = NDArray[np.float64]
Known = Callable[[Tensor], tuple[Tensor, Tensor]]


class MarchSensitivities(Sensitivities):
    """Those of a problem in time; solutions are (batch, N, n_dofs).

    Args:
        problem: the steady one.
        scheme: of the steps.
        mass: M, on all degrees of freedom.
        terms: of the steady problem.
        solve: z (batch, d) -> trajectories.
        known: z (batch, d) -> z of the steady problem at all states (batch, h + N, d'), and what
            is prescribed of these, zero elsewhere (batch, h + N, n_dofs); differentiable.
    """

    def __init__(
        self,
        problem: Problem,
        scheme: Scheme,
        mass: sp.csr_matrix,
        terms: MovingTerms,
        solve: Callable[[Tensor], Tensor],
        known: Known,
    ) -> None:
        self._problem, self._scheme, self._terms = problem, scheme, terms
        self._mass, self._mass_rows = mass, sp.csr_matrix(mass[problem.free_dofs])
        self._solve, self._known = solve, known
        self._free = torch.from_numpy(problem.free_dofs)
        self._asked = torch.from_numpy(scheme.asked)

    def solve(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._solve(z)

    def adjoint(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:  # noqa: D102
        u = self._solve(z)
        return u, partial(self._pull_back, u, z.detach())

    def change(  # noqa: D102
        self, z: Tensor, start: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor]:
        n, h = len(start), self._scheme.n_history
        u = self._solve(z)
        rows, known = self._known(torch.cat([end, start]))
        states = known + self._inside(u[0])
        r = torch.zeros(*states.shape[:2], len(self._free), dtype=torch.float64)
        for own, at, z_at in zip(r, states, rows, strict=True):
            own[self._asked] = self._terms.residuals(at[self._asked], z_at[self._asked])
        # States last: the matrices of the scheme, and of space, act on the axes before.
        moved = (known[:n] - known[n:]).permute(1, 2, 0).numpy()
        of_r = (r[:n] - r[n:]).permute(1, 2, 0).numpy()
        of_m = np.stack([self._mass_rows @ one for one in moved])
        change = _times(self._scheme.ta, of_m) + _times(self._scheme.tb, of_r)
        inside = self._tangent(z[0], u[0]).forwards(-change)
        found = torch.from_numpy(moved[h:]).clone()
        found[:, self._free] += torch.from_numpy(inside)
        return u, found.permute(2, 0, 1).contiguous()

    def _pull_back(self, u: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        each = zip(u, z, slope.detach(), strict=True)
        return torch.stack([self._gradient(*one) for one in each])

    def _gradient(self, u: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        """That of one sample, (d,)."""
        scheme, h = self._scheme, self._scheme.n_history
        right = -slope[:, self._free].numpy()[..., None]
        adjoint = self._tangent(z, u).backwards(right)[..., 0]
        of_m, of_r = scheme.ta.T @ adjoint, torch.from_numpy(scheme.tb.T @ adjoint)
        with torch.enable_grad():
            moved = z.clone().requires_grad_()
            rows, known = (x[0] for x in self._known(moved[None]))
            states = known.detach() + self._inside(u)
            by_states = torch.from_numpy((self._mass_rows.T @ of_m.T).T.copy())
            by_states[h:] += slope
            by_rows = torch.zeros_like(rows)
            for part in self._parts():
                at = [x[part].detach().requires_grad_() for x in (states, rows)]
                r = self._terms.operators.residual(*at)
                of_u, of_z = torch.autograd.grad(r, at, of_r[part], materialize_grads=True)
                by_states[part] += of_u
                by_rows[part] += of_z
            total = (known * by_states).sum() + (rows * by_rows).sum()
            (gradient,) = torch.autograd.grad(total, moved, materialize_grads=True)
        return gradient

    def _tangent(self, z: Tensor, u: Tensor) -> Tangent:
        with torch.no_grad():
            rows, known = (x[0] for x in self._known(z[None]))
        states = known + self._inside(u)
        return Tangent(self._problem, self._scheme, self._mass, self._terms, states, rows)

    def _inside(self, u: Tensor) -> Tensor:
        """u (N, n_dofs) at the free degrees of freedom of the steps, zero elsewhere."""
        h = self._scheme.n_history
        found = torch.zeros(h + len(u), u.shape[1], dtype=u.dtype)
        found[h:, self._free] = u[:, self._free]
        return found

    def _parts(self) -> tuple[Tensor, ...]:
        """Numbers of the states whose r is read, a few at once."""
        return self._asked.split(self._problem.solver.chunk)


def _times(rows: sp.csr_matrix, states: Array) -> Array:
    """Rows of the scheme on the first axis of states, (h + N, ...) -> (N, ...)."""
    found: Array = (rows @ states.reshape(len(states), -1)).reshape(-1, *states.shape[1:])
    return found
