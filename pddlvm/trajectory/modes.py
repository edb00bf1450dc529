"""Modes of space and time, and the p x p equations that are left of a whole trajectory.

    c = Phi a + history,   Phi (N, m, p),   sum_k w_k Phi_k^T Phi_k = 1,   a (p,)
    rho(a, z) = Phi^T X A0^{-1} R = Y^T R = G(z) a - g(z),    Y = A0^{-T} X Phi,   X = w x 1

Phi are the leading principal components of reduced trajectories, Y test functions that make rho an
error: rho = a - a* where A(z) = A0. Where theta reads the time, theta_q(z, t_j) of all j are
interpolated once more, over the pairs (q, j), so that G stays a sum of few matrices.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.linalg.empirical_interpolation import find_interpolation
from pddlvm.trajectory.steps import Drive, ReducedSteps

__all__ = ["Modes", "find_modes", "principal"]

_CHUNK = 256
_MAX_RANK, _TOLERANCE = 256, 1e-7
_ROUND_OFF, _INDEPENDENT = 1e-10, 1e-14


@dataclass(frozen=True)
class Modes:
    """The p x p equations, float64 on the CPU.

    Attributes:
        steps: in the m shapes.
        phi: Phi, (N, m, p).
        starts: orthonormal shapes of the history states, (h, m, n_starts).
        pairs: magic pairs (time of S, q) of theta, flat, (I,).
        g_mass: (p, p + n_starts); the columns are modes, then shapes of the history.
        g_stiffness: of each pair, (I, p, p + n_starts).
        of_phi: (S P, p).
        of_b: (S R, p).
        of_theta_b: (S Q R, p).
    """

    steps: ReducedSteps
    phi: Tensor
    starts: Tensor
    pairs: Tensor
    g_mass: Tensor
    g_stiffness: Tensor
    of_phi: Tensor
    of_b: Tensor
    of_theta_b: Tensor

    @property
    def n(self) -> int:
        """p."""
        return self.phi.shape[2]

    def project(self, c: Tensor) -> Tensor:
        """a of c (batch, N, m), (batch, p)."""
        return torch.einsum("kmp,k,bkm->bp", self.phi, self.steps.weights, c)

    def expand(self, a: Tensor) -> Tensor:
        """c of a (batch, p), (batch, N, m)."""
        return (a @ self.phi.flatten(0, 1).T).unflatten(1, self.phi.shape[:2])

    def operators(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G (batch, p, p) and g (batch, p) at parameters z (batch, d)."""
        whole, _, g = self.operators_of(self.steps.drive(z))
        return whole[..., : self.n], g

    def operators_of(self, drive: Drive) -> tuple[Tensor, Tensor, Tensor]:
        """(G, G_y) (batch, p, p + n_starts), coordinates y of the history, and g."""
        theta = drive.theta.flatten(1)[:, self.pairs]
        whole = self.g_mass + (theta @ self.g_stiffness.flatten(1)).unflatten(1, self.g_mass.shape)
        y = torch.einsum("bhm,hmi->bi", drive.history, self.starts)
        g = drive.phi.flatten(1) @ self.of_phi + torch.einsum("bpi,bi->bp", whole[..., self.n :], y)
        if drive.b.shape[2]:
            products = drive.theta[..., None] * drive.b[:, :, None]
            g = g + drive.b.flatten(1) @ self.of_b + products.flatten(1) @ self.of_theta_b
        return whole, y, -g

    def residual(self, a: Tensor, z: Tensor) -> Tensor:
        """rho, (batch, p)."""
        parts = []
        for own, at in zip(a.split(_CHUNK), z.split(_CHUNK), strict=True):
            matrix, right = self.operators(at)
            parts.append(torch.einsum("bij,bj->bi", matrix, own) - right)
        return torch.cat(parts)

    def solve(self, z: Tensor) -> Tensor:
        """a with rho(a, z) = 0, (batch, p)."""
        return torch.cat([torch.linalg.solve(*self.operators(part)) for part in z.split(_CHUNK)])


def principal(steps: ReducedSteps, c: Tensor, n_most: int) -> tuple[Tensor, Tensor]:
    """Principal components of trajectories c (batch, N, m), (N, m, n), and all tails."""
    w = steps.weights.sqrt()[:, None]
    x = (c * w).flatten(1)
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    kept = values[:n_most] > _INDEPENDENT * values[0]
    left = torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])
    rows = vectors[:, :n_most][:, kept].T @ x
    # The small ones are orthogonal to half of the digits only.
    phi = torch.linalg.qr(rows.T).Q.T
    shape = phi.unflatten(1, c.shape[1:]) / w
    return shape.permute(1, 2, 0).contiguous(), (left / values.sum()).sqrt()


def find_modes(steps: ReducedSteps, k0: Tensor, phi: Tensor, z: Tensor) -> Modes:
    """The equations of given modes.

    Args:
        steps: in m shapes.
        k0: V^T K0 V, (m, m).
        phi: (N, m, p).
        z: draws, which tell of the histories and of theta, (n, d).
    """
    drive = steps.drive(z)
    tests = _adjoint(steps, k0, phi * steps.weights[:, None, None])
    starts = _starts(drive)
    h, n, p, n_starts = steps.h, len(phi), phi.shape[2], starts.shape[2]
    states = phi.new_zeros(h + n, steps.n, p + n_starts)
    states[h:, :, :p], states[:h, :, p:] = phi, starts
    of_mass = torch.einsum("kj,kmp->jmp", steps.ta, tests)
    of_flux = torch.einsum("kj,kmp->jmp", steps.tb, tests)
    n_times, n_q = drive.theta.shape[1:]
    own, of_lift = steps.k[..., : steps.n], steps.k[..., steps.n :]
    if n_times == 1:
        pairs, cardinal = torch.arange(n_q), torch.eye(n_q, dtype=torch.float64)
    else:
        found = find_interpolation(
            drive.theta.flatten(1).numpy(), min(_MAX_RANK, len(z) // 2), tolerance=_TOLERANCE
        )
        if found is None:
            raise _too_many(steps)
        pairs, cardinal = torch.from_numpy(found.index), torch.from_numpy(found.cardinal)
    cardinal = cardinal.unflatten(0, (n_times, n_q))
    g_stiffness = phi.new_zeros(len(pairs), p, p + n_starts)
    for q in range(n_q):
        flux = own[q] @ states
        if n_times == 1:
            total = torch.einsum("jmp,jmc->pc", of_flux, flux)[None]
        else:
            total = of_flux.mT @ flux
        g_stiffness += torch.tensordot(cardinal[:, q].T, total, dims=1)

    def over_times(x: Tensor) -> Tensor:
        """(J, ..., p) -> (S ..., p)."""
        return (x.sum(0, keepdim=True) if n_times == 1 else x).flatten(0, -2).contiguous()

    return Modes(
        steps=steps,
        phi=phi,
        starts=starts,
        pairs=pairs,
        g_mass=torch.einsum("jmp,jmc->pc", of_mass, states),
        g_stiffness=g_stiffness,
        of_phi=over_times(torch.einsum("jmp,fm->jfp", of_flux, steps.g)),
        of_b=over_times(torch.einsum("jmp,mr->jrp", of_mass, steps.mass_of_lift)),
        of_theta_b=over_times(torch.einsum("jmp,qmr->jqrp", of_flux, of_lift)),
    )


def _starts(drive: Drive) -> Tensor:
    """Orthonormal shapes of the history states, (h, m, n_starts)."""
    flat = drive.history.flatten(1)
    _, sizes, shapes = torch.linalg.svd(flat, full_matrices=False)
    kept = shapes[sizes > _ROUND_OFF * sizes[0].clamp(min=np.finfo(float).tiny)]
    return kept.T.unflatten(0, drive.history.shape[1:])


def _adjoint(steps: ReducedSteps, k0: Tensor, x: Tensor) -> Tensor:
    """A0^{-T} x by a march backwards, x (N, m, p)."""
    h = steps.h
    ta, tb = steps.ta[:, h:], steps.tb[:, h:]
    y, eye = torch.zeros_like(x), torch.eye(len(k0), dtype=torch.float64)
    factors: dict[tuple[float, float], Tensor] = {}
    for j in range(len(x) - 1, -1, -1):
        pair = float(ta[j, j]), float(tb[j, j])
        if pair not in factors:
            factors[pair] = torch.linalg.inv((pair[0] * eye + pair[1] * k0).T)
        later_a = ta[j + 1 :, j].nonzero()[:, 0] + j + 1
        later_b = tb[j + 1 :, j].nonzero()[:, 0] + j + 1
        b = x[j] - torch.einsum("i,imp->mp", ta[later_a, j], y[later_a])
        b = b - k0.T @ torch.einsum("i,imp->mp", tb[later_b, j], y[later_b])
        y[j] = factors[pair] @ b
    return y


def _too_many(steps: ReducedSteps) -> ProblemError:
    return ProblemError(
        f"problem {steps.problem.name!r} takes more than {_MAX_RANK} operators of space and time: "
        "its coefficients vary too freely with z and t; give fields fewer terms"
    )
