"""Refinement of a prediction to the finite element solution, without factorising K(u, z).

Newton's method; each step by conjugate gradients (GMRES where K is not symmetric) with the
two-level preconditioner

    P r = K0^{-1} r + V ((V^T K V)^{-1} - I) V^T r

the reference operator, corrected in the reduced basis. Where K is not symmetric, K0 gives way to
the nearest of a few reference operators, and the correction is multiplicative:

    P r = w + V (V^T K V)^{-1} V^T (r - K w),    w = K(z_k)^{-1} r

All samples of a batch iterate together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.discretisation import Discretisation
from pddlvm.reduced import ReducedModel
from pddlvm.representation import Reference

__all__ = ["Refined", "correct", "refine"]

_MAX_NEWTON = 20
_MAX_GMRES = 60


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


def correct(
    exact: ReducedModel, reduced: ReducedModel, c: Tensor, z: Tensor, n_steps: int
) -> Tensor:
    """Newton steps on coefficients c (batch, n_modes), within the reduced basis.

    Far from the prior a stiffness may be singular, or overflow: the result is not finite then.

    The residual decides the accuracy: it is the full one in float64, of `exact`. The stiffness may
    be rounded, of `reduced`.
    """
    representation = exact.representation
    operators = representation.problem.discretisation(torch.float64, torch.device("cpu"))
    vectors = representation.vectors[operators.free]
    z64, fine = z.detach().double().cpu(), c.double().cpu()
    for _ in range(n_steps):
        r = operators.residual(representation.expand(fine, z64), z64) @ vectors
        k = reduced.stiffness(fine.to(c), z.to(c)).double().cpu()
        fine = fine - torch.linalg.solve_ex(k, r[..., None]).result[..., 0]
    return fine.to(c.device)


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
        for i in range(0, max(1, len(u)), chunk)
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
        tangents, xi = operators.tangents(u, z), problem.prior.standardise(z)
        system = _System(operators, reference, tangents, xi, v, stiffness)
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
    xi: Tensor
    v: Tensor
    stiffness: Tensor

    def apply(self, p: Tensor) -> Tensor:
        return self.operators.apply_tangents(self.tangents, p)

    def precondition(self, r: Tensor) -> Tensor:
        """P r for K that is symmetric or nearly so."""
        coarse = r @ self.v
        return self.reference.solve(r) + (self._coarse_solve(coarse) - coarse) @ self.v.T

    def precondition_skew(self, r: Tensor) -> Tensor:
        """P r for K that is not symmetric."""
        w = self.reference.solve_near(r, self.xi)
        return w + self._coarse_solve((r - self.apply(w)) @ self.v) @ self.v.T

    def _coarse_solve(self, b: Tensor) -> Tensor:
        return torch.linalg.solve(self.stiffness, b[..., None])[..., 0]


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
    """GMRES with the preconditioner on the right; stops when |b - K x| in K0^{-1} <= target.

    The norm of the residual that GMRES minimises is the Euclidean one of R^{-1} r, K0 = R^T R, so
    it is measured by inner products with K0^{-1}.
    """
    reference = system.reference
    whitened = reference.solve(b)
    beta = (b * whitened).sum(-1).clamp(min=1e-300).sqrt()
    q, dual = [b / beta[:, None]], [whitened / beta[:, None]]
    directions: list[Tensor] = []
    n_max = min(max_iterations, _MAX_GMRES, b.shape[1])
    hessenberg = b.new_zeros(len(b), n_max + 1, n_max)
    first = torch.zeros(len(b), n_max + 1, dtype=b.dtype)
    first[:, 0] = beta
    used = torch.zeros(len(b), dtype=torch.int64)
    y = b.new_zeros(len(b), 0)
    active = beta > target
    for k in range(n_max):
        if not active.any():
            break
        directions.append(system.precondition_skew(q[k]))
        w = system.apply(directions[k])
        for i in range(k + 1):
            h = (w * dual[i]).sum(-1)
            hessenberg[:, i, k] = h
            w = w - h[:, None] * q[i]
        whitened = reference.solve(w)
        size = (w * whitened).sum(-1).clamp(min=0).sqrt()
        hessenberg[:, k + 1, k] = size
        safe = size.clamp(min=1e-300)[:, None]
        q.append(w / safe)
        dual.append(whitened / safe)
        used = used + active
        part, rhs = hessenberg[:, : k + 2, : k + 1], first[:, : k + 2, None]
        y = torch.linalg.lstsq(part, rhs, driver="gelsd").solution[..., 0]
        misfit = (part @ y[..., None] - rhs)[..., 0].norm(dim=-1)
        active = misfit > target
    if not directions:
        return torch.zeros_like(b), used
    return torch.einsum("bk,kbn->bn", y, torch.stack(directions)), used
