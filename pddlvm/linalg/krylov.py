"""Preconditioned Krylov methods for a batch of systems K x = b.

Each sample iterates until it is done, whatever the others need. Residuals are measured in the norm
of K0^{-1}, K0 symmetric positive and next to K. Those of SciPy know neither batches nor this norm.
"""

from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["GeneralSystem", "SymmetricSystem", "conjugate_gradients", "gmres"]

_MAX_GMRES = 60
_FEW = 0.7
"""Part of a batch that still iterates, with which the rest is left behind."""


class SymmetricSystem(Protocol):
    """K symmetric positive, and its preconditioner P, for a batch; vectors are (batch, n)."""

    def of(self, rows: Tensor) -> Self:
        """That of some samples."""

    def apply(self, p: Tensor) -> Tensor:
        """K p."""

    def precondition(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """P r, P symmetric, and |r| in the norm of K0^{-1}, (batch,)."""


class GeneralSystem(Protocol):
    """Any K, and its preconditioner P, for a batch; vectors are (batch, n)."""

    def apply(self, p: Tensor) -> Tensor:
        """K p."""

    def precondition_skew(self, r: Tensor) -> Tensor:
        """P r."""

    def riesz(self, r: Tensor) -> Tensor:
        """K0^{-1} r."""


def conjugate_gradients(
    system: SymmetricSystem, b: Tensor, target: Tensor, budget: Tensor
) -> tuple[Tensor, Tensor]:
    """Preconditioned conjugate gradients; stops a sample when |r| in K0^{-1} <= target."""
    x, used = torch.zeros_like(b), torch.zeros(len(b), dtype=torch.int64)
    rows, r = torch.arange(len(b)), b
    p, size = system.precondition(r)
    rho = (r * p).sum(-1)
    while (active := (size > target[rows]) & (used[rows] < budget[rows])).any():
        if active.double().mean() < _FEW:
            # Some samples need many times the iterations of most.
            system, rows, r, p = system.of(active), rows[active], r[active], p[active]
            rho, active = rho[active], active[active]
        q = system.apply(p)
        alpha = torch.where(active, rho / (p * q).sum(-1).clamp(min=1e-300), 0.0)[:, None]
        x, r = x.index_add(0, rows, alpha * p), r - alpha * q
        w, size = system.precondition(r)
        rho_new = (r * w).sum(-1)
        p = w + torch.where(active, rho_new / rho.clamp(min=1e-300), 0.0)[:, None] * p
        rho = torch.where(active, rho_new, rho)
        used = used.index_add(0, rows, active.long())
    return x, used


def gmres(
    system: GeneralSystem, b: Tensor, target: Tensor, budget: Tensor
) -> tuple[Tensor, Tensor]:
    """GMRES with the preconditioner on the right; stops when |b - K x| in K0^{-1} <= target.

    The norm of the residual that GMRES minimises is the Euclidean one of R^{-1} r, K0 = R^T R, so
    it is measured by inner products with K0^{-1}.
    """
    whitened = system.riesz(b)
    beta = (b * whitened).sum(-1).clamp(min=1e-300).sqrt()
    q, dual = [b / beta[:, None]], [whitened / beta[:, None]]
    directions: list[Tensor] = []
    n_max = min(int(budget.max()), _MAX_GMRES, b.shape[1])
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
        whitened = system.riesz(w)
        size = (w * whitened).sum(-1).clamp(min=0).sqrt()
        hessenberg[:, k + 1, k] = size
        safe = size.clamp(min=1e-300)[:, None]
        q.append(w / safe)
        dual.append(whitened / safe)
        used = used + active
        part, rhs = hessenberg[:, : k + 2, : k + 1], first[:, : k + 2, None]
        y = torch.linalg.lstsq(part, rhs, driver="gelsd").solution[..., 0]
        misfit = (part @ y[..., None] - rhs)[..., 0].norm(dim=-1)
        active = (misfit > target) & (used < budget)
    if not directions:
        return torch.zeros_like(b), used
    return torch.einsum("bk,kbn->bn", y, torch.stack(directions)), used
