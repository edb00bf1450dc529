"""Trajectories in a spatial basis: batched marches of n equations, float64 on the CPU.

    u_k = lift(z, t_k) + V c_k,   V^T X V = 1 on the free degrees of freedom,   c (h + N, n)

    R_k = sum_j Ta_kj (M_V c_j + M_L b_j)
        + sum_j Tb_kj (K(z, t_j) c_j + K_L(z, t_j) b_j + g(z, t_j))

with K = sum_q theta_q K_q (see `pddlvm.trajectory.parts`). The columns of V are in the order of
their weight in trajectories, so that the first m of them are a basis too.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.linalg.derivatives import linearise
from pddlvm.trajectory.fields import norm_matrix
from pddlvm.trajectory.newton import Equations, march
from pddlvm.trajectory.parts import Coefficients
from pddlvm.trajectory.pointwise import PointTerms
from pddlvm.transient.problem import TransientProblem

__all__ = ["Drive", "ReducedSteps"]

_CHUNK = 64
"""Trajectories that are marched at once."""
_N_DRAWS, _ROUND_OFF = 8, 1e-11


@dataclass(frozen=True)
class Drive:
    """What drives trajectories of a batch, at each of the times that the problem reads: S of them.

    S is h + N where fields read the time, else 1.

    Attributes:
        theta: (batch, S, Q).
        phi: (batch, S, P).
        b: (batch, S, R).
        history: c of the history states, (batch, h, n).
        z: parameters, (batch, d).
        rows: z of the steady problem, (batch, S, d).
    """

    theta: Tensor
    phi: Tensor
    b: Tensor
    history: Tensor
    z: Tensor
    rows: Tensor


class ReducedSteps:
    """The reduced steps of a problem.

    Args:
        problem: in time.
        coefficients: theta, phi and b.
        v: V, (n_free, n).
        k: V^T K_q (V, L), (Q, n, n + R).
        g: V^T g_p, (P, n).
        mass_of_lift: V^T M L, (n, R).
        lifts: L, (R, n_dofs).
        sizes: of the fields, (n_fields,), which X is made of.
        pointwise: terms that are not linear in u, in (V, L), tested by V; None: there are none.
    """

    def __init__(
        self,
        problem: TransientProblem,
        coefficients: Coefficients,
        v: Tensor,
        k: Tensor,
        g: Tensor,
        mass_of_lift: Tensor,
        lifts: Tensor,
        sizes: Tensor,
        pointwise: PointTerms | None = None,
    ) -> None:
        self.problem, self.coefficients = problem, coefficients
        self.v, self.k, self.g, self.pointwise = v, k, g, pointwise
        self.mass_of_lift, self.lifts, self.sizes = mass_of_lift, lifts, sizes
        scheme = problem.scheme
        self.ta, self.tb = (torch.from_numpy(t.toarray()) for t in (scheme.ta, scheme.tb))
        self.weights = torch.from_numpy(scheme.weights)
        self.h = scheme.n_history

    @property
    def n(self) -> int:
        """Number of equations."""
        return self.v.shape[1]

    def first(self, m: int) -> "ReducedSteps":
        """The same in the first m shapes."""
        n = self.n
        columns = [*range(m), *range(n, self.k.shape[2])]
        return ReducedSteps(
            self.problem,
            self.coefficients,
            self.v[:, :m].contiguous(),
            self.k[:, :m][:, :, columns].contiguous(),
            self.g[:, :m].contiguous(),
            self.mass_of_lift[:m].contiguous(),
            self.lifts,
            self.sizes,
            self.pointwise and self.pointwise.columns(columns, [*range(m)]),
        )

    def drive(self, z: Tensor) -> Drive:
        """What drives the trajectories of parameters z, (batch, d)."""
        rows = self._rows(z)
        return Drive(*self.coefficients(rows), self.history(z), z, rows)

    def drive_with_slopes(self, z: Tensor) -> tuple[Drive, Drive]:
        """The same, and its derivatives by z, with an axis of d numbers behind the others."""
        rows = self._rows(z)
        values, slopes = self.coefficients.with_slopes(rows)
        theta, phi, b = (x[..., : z.shape[1]] for x in slopes)
        history, of_history = self._history_with_slopes(z)
        return Drive(*values, history, z, rows), Drive(theta, phi, b, of_history, z, rows)

    def _rows(self, z: Tensor) -> Tensor:
        """z of the steady problem at the S times, (batch, S, d)."""
        rows = self.problem.state_rows(z)
        return rows if self.problem.reads_time else rows[:, :1]

    def _history_with_slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._affine_history
        if parts is not None:
            slope = parts[1:].permute(1, 2, 0).expand(len(z), -1, -1, -1)
            return self.history(z), slope
        found = [linearise(lambda at: self._history(at).flatten(1), x) for x in z.split(_CHUNK)]
        value, slope = (torch.cat(x) for x in zip(*found, strict=True))
        shape = (self.h, self.n)
        return value.unflatten(1, shape), slope.unflatten(1, shape)

    def history(self, z: Tensor) -> Tensor:
        """c of the history states, (batch, h, n)."""
        parts = self._affine_history
        if parts is not None:
            return torch.einsum("bw,whn->bhn", _with_one(z), parts)
        return torch.cat([self._history(part) for part in z.split(_CHUNK)])

    def march(self, drive: Drive) -> Tensor:
        """c of the steps, (batch, N, n).

        Raises:
            ConvergenceError: Newton's method did not find a step of a nonlinear problem.
        """
        method = self._march if self.pointwise is None else self._march_nonlinear
        parts = [method(_slice(drive, i)) for i in range(0, len(drive.theta), _CHUNK)]
        return torch.cat(parts) if parts else drive.history.new_zeros(0, len(self.ta), self.n)

    def residual(self, drive: Drive, c: Tensor) -> Tensor:
        """R of c (batch, N, n), (batch, N, n)."""
        states = torch.cat([drive.history, c], dim=1)
        total = torch.einsum("kj,bjn->bkn", self.ta, states) @ self.mass.T
        total = total + self._mass_of_lift(drive)
        flux = self._loads(drive).expand(-1, states.shape[1], -1)
        for i, (theta, own) in enumerate(zip(drive.theta, states, strict=True)):
            theta = theta if self._stiffness_moves else theta[:1]
            k = torch.einsum("sq,qij->sij", theta, self.k[..., : self.n])
            moved = own @ k[0].T if len(k) == 1 else torch.einsum("sij,sj->si", k, own)
            if self.pointwise is not None:
                moved = moved + self._of_points(_slice(drive, i, 1), states[i : i + 1])[0]
            total[i] += self.tb @ (flux[i] + moved)
        return total

    def boundary(self, drive: Drive) -> Tensor:
        """b at the steps, (batch, N, R, ...)."""
        states = self.h + len(self.ta)
        return drive.b.expand(-1, states, *drive.b.shape[2:])[:, self.h :]

    def size(self, c: Tensor) -> Tensor:
        """|c| = |u - lift| in the norm w x X, (batch,)."""
        return torch.einsum("k,bkn,bkn->b", self.weights, c, c).sqrt()

    def size_on_mesh(self, u: Tensor) -> Tensor:
        """|u| in the norm w x X of what is zero on the boundary, (batch, N, n_free) -> (batch,)."""
        of_norm = (self._norm @ u.reshape(-1, u.shape[-1]).numpy().T).T
        squares = (u * torch.from_numpy(of_norm).reshape(u.shape)).sum(-1)
        return (squares @ self.weights).clamp(min=0).sqrt()

    def _march(self, drive: Drive) -> Tensor:
        scheme = self.problem.scheme
        n_steps, mass = len(self.ta), self.mass
        moves = self._stiffness_moves
        flux = self._loads(drive).expand(-1, self.h + n_steps, -1)
        known = torch.einsum("kj,bjn->bkn", self.tb, flux) + self._mass_of_lift(drive)
        u = torch.cat([drive.history, torch.zeros_like(known)], dim=1)
        of_u = torch.zeros_like(u)
        solvers: dict[tuple[float, float], Tensor] = {}
        k = self._stiffness(drive.theta[:, 0])
        for j in range(self.h):
            if bool(self.tb[:, j].any()):
                at = self._stiffness(drive.theta[:, j]) if moves else k
                of_u[:, j] = torch.einsum("bij,bj->bi", at, u[:, j])
        for step, pair in enumerate(map(tuple, scheme.diagonals.tolist())):
            j = self.h + step
            past_a, past_b = self.ta[step, :j], self.tb[step, :j]
            seen_a, seen_b = past_a.nonzero()[:, 0], past_b.nonzero()[:, 0]
            past = torch.einsum("j,bjn->bn", past_a[seen_a], u[:, seen_a])
            b = known[:, step] + past @ mass.T
            if len(seen_b):
                b = b + torch.einsum("j,bjn->bn", past_b[seen_b], of_u[:, seen_b])
            if moves:
                k = self._stiffness(drive.theta[:, j])
                u[:, j] = -torch.linalg.solve(pair[0] * mass + pair[1] * k, b)
            else:
                if pair not in solvers:
                    solvers = {pair: torch.linalg.inv(pair[0] * mass + pair[1] * k)}
                u[:, j] = -torch.einsum("bij,bj->bi", solvers[pair], b)
            if bool(self.tb[step + 1 :, j].any()):
                of_u[:, j] = torch.einsum("bij,bj->bi", k, u[:, j])
        return u[:, self.h :]

    def _march_nonlinear(self, drive: Drive) -> Tensor:
        assert self.pointwise is not None
        moves, pointwise, n = drive.theta.shape[1] > 1, self.pointwise, self.n
        loads, theta = self._loads(drive), drive.theta

        def at(j: int, x: Tensor, which: Tensor) -> Tensor:
            return x[which, j if moves else 0]

        def augmented(j: int, which: Tensor, c: Tensor) -> Tensor:
            return torch.cat([c, at(j, drive.b, which)], dim=1)

        def residual(j: int, which: Tensor, c: Tensor) -> Tensor:
            found = pointwise.residual(augmented(j, which, c), at(j, drive.rows, which))
            found = found + at(j, loads, which)
            if theta.shape[2]:
                k = self._stiffness(at(j, theta, which))
                found = found + torch.einsum("bij,bj->bi", k, c)
            return found

        def tangent(j: int, which: Tensor, c: Tensor) -> Tensor:
            own = pointwise.tangent(augmented(j, which, c), at(j, drive.rows, which), n)
            return own + self._stiffness(at(j, theta, which)) if theta.shape[2] else own

        known = self._mass_of_lift(drive)
        equations = Equations(
            self.problem.scheme, self.mass, residual, tangent, known, drive.history, drive.z
        )
        return march(equations)

    def _of_points(self, drive: Drive, states: Tensor) -> Tensor:
        """What the nonlinear terms add to r of all states, (batch, h + N, n)."""
        assert self.pointwise is not None
        b, rows = (x.expand(-1, states.shape[1], -1) for x in (drive.b, drive.rows))
        a = torch.cat([states, b], dim=2)
        return self.pointwise.residual(a.flatten(0, 1), rows.flatten(0, 1)).view_as(states)

    def _stiffness(self, theta: Tensor) -> Tensor:
        """K, (batch, n, n), of theta (batch, Q)."""
        k = self._k_own
        return (theta @ k.flatten(1)).unflatten(1, k.shape[1:])

    @cached_property
    def _stiffness_moves(self) -> bool:
        """Does K read the time, and not loads and Dirichlet values alone?"""
        moves, entries = self.problem.moving_terms.moves, self.coefficients.entries
        reads = any(moves[i] and len(tangent) for i, (tangent, _) in entries.items())
        return self.problem.reads_time and reads

    @cached_property
    def _k_own(self) -> Tensor:
        return self.k[..., : self.n].contiguous()

    def _loads(self, drive: Drive) -> Tensor:
        """g + K_L b, (batch, S, n)."""
        total = drive.phi @ self.g
        if drive.b.shape[2]:
            of_lift = self.k[..., self.n :]
            total = total + torch.einsum("bsq,bsr,qnr->bsn", drive.theta, drive.b, of_lift)
        return total

    def _mass_of_lift(self, drive: Drive) -> Tensor:
        """sum_j Ta_kj M_L b_j, (batch, N, n)."""
        b = drive.b.expand(-1, self.ta.shape[1], -1)
        return torch.einsum("kj,bjr,nr->bkn", self.ta, b, self.mass_of_lift)

    def _history(self, z: Tensor) -> Tensor:
        free = torch.from_numpy(self.problem.steady.free_dofs)
        return self.problem.history_of(z)[..., free] @ self.norm_v

    def at_dofs(self, dofs: Tensor) -> Tensor:
        """Rows of V at any degrees of freedom, zero on the boundary, (n_dofs, n)."""
        return self._padded[self._place[dofs]]

    @cached_property
    def _padded(self) -> Tensor:
        return torch.cat([self.v, self.v.new_zeros(1, self.n)])

    @cached_property
    def _place(self) -> Tensor:
        free = torch.from_numpy(self.problem.steady.free_dofs)
        place = torch.full((self.problem.n_dofs,), -1)
        place[free] = torch.arange(len(free))
        return place

    @cached_property
    def norm_v(self) -> Tensor:
        """X V on the free degrees of freedom, (n_free, n)."""
        return torch.from_numpy(self._norm @ self.v.numpy())

    @cached_property
    def _norm(self) -> sp.csr_matrix:
        free = self.problem.steady.free_dofs
        return sp.csr_matrix(norm_matrix(self.problem, self.sizes)[free][:, free])

    @cached_property
    def mass(self) -> Tensor:
        """M_V = V^T M V, (n, n)."""
        if len(self.sizes) == 1:
            return torch.eye(self.n, dtype=torch.float64)
        free, v = self.problem.steady.free_dofs, self.v.numpy()
        return torch.from_numpy(v.T @ (self.problem.mass[free][:, free] @ v))

    @cached_property
    def _affine_history(self) -> Tensor | None:
        """Parts of the history states by (1, z), (1 + d, h, n); None where they are no such sum."""
        d = self.problem.n_parameters
        z = self.problem.prior.sample((1 + d + _N_DRAWS,), seed=0)
        w, c = _with_one(z), self._history(z)
        parts = np.linalg.lstsq(w[: 1 + d].numpy(), c[: 1 + d].flatten(1).numpy(), rcond=None)[0]
        found = torch.from_numpy(parts)
        left = (w @ found - c.flatten(1)).norm()
        return found.unflatten(1, c.shape[1:]) if left <= _ROUND_OFF * c.norm() else None


def _with_one(z: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(z[:, :1]), z], dim=1)


def _slice(drive: Drive, first: int, n: int = _CHUNK) -> Drive:
    parts = (getattr(drive, one.name)[first : first + n] for one in fields(drive))
    return Drive(*parts)
