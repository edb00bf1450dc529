"""Refinement of a prediction to the finite element solution, without factorising K(u, z).

Newton's method; each step by conjugate gradients (GMRES where K is not symmetric) with the
two-level preconditioner

    P r = K0^{-1} r + V ((V^T K V)^{-1} - I) V^T r

the reference operator, corrected in the reduced basis. All samples of a batch iterate together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from pddlvm.problem import Discretisation
from pddlvm.reduced import ReducedModel
from pddlvm.representation import Reference

__all__ = ["Refined", "refine"]

_MAX_NEWTON = 20


@dataclass(frozen=True)
class Refined:
    """Result of a refinement.

    Attributes:
        u: solutions, (batch, n_dofs), float64.
        iterations: Krylov iterations of each sample, (batch,).
        residual_norm: |r| / |u| in the norms of K0^{-1} and K0, (batch,).
    """

    u: Tensor
    iterations: Tensor
    residual_norm: Tensor


def refine(
    reduced: ReducedModel,
    reference: Reference,
    u: Tensor,
    z: Tensor,
    *,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> Refined:
    """Refine u until |r| <= tolerance |u| (in the norms of `Refined`), or iterations run out.

    Args:
        reduced: supplies V and V^T K V; float64 on the CPU.
        reference: supplies K0.
        u: start with the right boundary values, (batch, n_dofs), float64.
        z: parameters, (batch, d), float64.
        tolerance: on the relative residual.
        max_iterations: Krylov iterations in all.
    """
    chunk = reduced.representation.problem.solver.chunk
    parts = [
        _refine(reduced, reference, u[i : i + chunk], z[i : i + chunk], tolerance, max_iterations)
        for i in range(0, len(u), chunk)
    ]
    return Refined(
        torch.cat([p.u for p in parts]),
        torch.cat([p.iterations for p in parts]),
        torch.cat([p.residual_norm for p in parts]),
    )


def _refine(
    reduced: ReducedModel,
    reference: Reference,
    u: Tensor,
    z: Tensor,
    tolerance: float,
    max_iterations: int,
) -> Refined:
    problem = reduced.representation.problem
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    free = operators.free
    v = reduced.representation.vectors[free]
    iterations = torch.zeros(len(u), dtype=torch.int64)
    norm = torch.zeros(len(u), dtype=torch.float64)
    for _ in range(_MAX_NEWTON):
        r = operators.residual(u, z)
        w = reference.solve(r)
        error = (r * w).sum(-1).clamp(min=0).sqrt()
        # From a start at zero the first estimate of the error is the size of the solution.
        size = torch.maximum(_energy_norm(reference, u[:, free]), error)
        norm = error / size
        if (norm <= tolerance).all() or int(iterations.max()) >= max_iterations:
            break
        stiffness = reduced.stiffness(reduced.representation.project(u), z)
        system = _System(operators, reference, operators.tangents(u, z), v, stiffness)
        budget = max_iterations - int(iterations.max())
        solve = _conjugate_gradients if problem.has_potential else _gmres
        step, used = solve(system, -r, 0.5 * tolerance * size, budget)
        u = u.index_add(1, free, step)
        iterations = iterations + used
    return Refined(u, iterations, norm)


@dataclass(frozen=True)
class _System:
    """K and its preconditioner for a batch; vectors are (batch, n_free)."""

    operators: Discretisation
    reference: Reference
    tangents: list[Tensor]
    v: Tensor
    stiffness: Tensor

    def apply(self, p: Tensor) -> Tensor:
        return self.operators.apply_tangents(self.tangents, p)

    def precondition(self, r: Tensor) -> Tensor:
        coarse = r @ self.v
        corrected = torch.linalg.solve(self.stiffness, coarse[..., None])[..., 0] - coarse
        return self.reference.solve(r) + corrected @ self.v.T

    def sample(self, i: int) -> "_System":
        return _System(
            self.operators,
            self.reference,
            [t[i : i + 1] for t in self.tangents],
            self.v,
            self.stiffness[i : i + 1],
        )


def _energy_norm(reference: Reference, u: Tensor) -> Tensor:
    k0u = torch.from_numpy((reference.matrix @ u.numpy().T).T)
    return (u * k0u).sum(-1).clamp(min=0).sqrt().clamp(min=1e-300)


def _conjugate_gradients(
    system: _System, b: Tensor, target: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Preconditioned conjugate gradients; stops a sample when sqrt(r . P r) <= target."""
    x, r = torch.zeros_like(b), b
    p = w = system.precondition(r)
    rho = (r * w).sum(-1)
    used = torch.zeros(len(b), dtype=torch.int64)
    for _ in range(max_iterations):
        active = rho.clamp(min=0).sqrt() > target
        if not active.any():
            break
        q = system.apply(p)
        alpha = torch.where(active, rho / (p * q).sum(-1).clamp(min=1e-300), 0.0)[:, None]
        x, r = x + alpha * p, r - alpha * q
        w = system.precondition(r)
        rho_new = (r * w).sum(-1)
        p = w + torch.where(active, rho_new / rho.clamp(min=1e-300), 0.0)[:, None] * p
        rho = torch.where(active, rho_new, rho)
        used = used + active
    return x, used


def _gmres(
    system: _System, b: Tensor, target: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """SciPy's GMRES, sample by sample."""
    steps, used = torch.zeros_like(b), torch.zeros(len(b), dtype=torch.int64)
    n = b.shape[1]
    for i in range(len(b)):
        one, counter = system.sample(i), [0]

        def matvec(x: np.ndarray, one: _System = one) -> np.ndarray:
            return one.apply(torch.from_numpy(np.asarray(x))[None])[0].numpy()

        def precondition(x: np.ndarray, one: _System = one) -> np.ndarray:
            return one.precondition(torch.from_numpy(np.asarray(x))[None])[0].numpy()

        def count(_: float, counter: list[int] = counter) -> None:
            counter[0] += 1

        size = float(np.sqrt(max(float(b[i] @ one.precondition(b[i : i + 1])[0]), 1e-300)))
        step, _ = gmres(
            LinearOperator((n, n), matvec=matvec, dtype=np.float64),
            b[i].numpy(),
            rtol=min(0.5, float(target[i]) / size),
            restart=min(n, 50),
            maxiter=max_iterations,
            M=LinearOperator((n, n), matvec=precondition, dtype=np.float64),
            callback=count,
            callback_type="pr_norm",
        )
        steps[i], used[i] = torch.from_numpy(step), counter[0]
    return steps, used
