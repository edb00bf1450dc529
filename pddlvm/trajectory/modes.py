"""Modes of space and time, and the p x p equations that are left of a whole trajectory.

    c = Phi a + history,   Phi (N, m, p),   sum_k w_k Phi_k^T Phi_k = 1,   a (p,)
    rho(a, z) = Phi^T X A0^{-1} R = Y^T R = G(z) a - g(z),    Y = A0^{-T} X Phi,   X = w x 1

Phi are the leading principal components of reduced trajectories, Y test functions that make rho an
error: rho = a - a* where A(z) = A0. Where theta reads the time, theta_q(z, t_j) of all j are
interpolated once more, over the pairs (q, j), so that G stays a sum of few matrices.

Terms that are not linear in u add f(a, z), a sum over few pairs of a state and a point
(`pddlvm.trajectory.cubature`), and the equations are solved by Newton's method, which starts at a
polynomial of xi.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError, ProblemError
from pddlvm.linalg.empirical_interpolation import find_interpolation
from pddlvm.linalg.newton import newton
from pddlvm.trajectory.cubature import States, choose_pairs
from pddlvm.trajectory.newton import described
from pddlvm.trajectory.pointwise import PointTerm, PointTerms, rows_at
from pddlvm.trajectory.polynomials import Polynomial, fit_polynomial
from pddlvm.trajectory.reference import states_of
from pddlvm.trajectory.steps import Drive, ReducedSteps

__all__ = ["Equations", "Modes", "find_modes", "principal"]

_CHUNK, _N_CUBATURE, _FEW_PER_TERM = 256, 40, 4
_SOLVED, _UNSOLVED = 1e-9, 1e-6
"""Residuals relative to a that Newton's method leaves, and that it has failed with."""
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
        pointwise: f, of the columns (Phi, starts, b of all S); None of linear problems.
        start: of Newton's method, xi -> a; None of linear problems.
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
    pointwise: PointTerms | None
    start: Polynomial | None

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

    def equations(self, drive: Drive) -> "Equations":
        """rho of the parameters of a drive."""
        theta = drive.theta.flatten(1)[:, self.pairs]
        whole = self.g_mass + (theta @ self.g_stiffness.flatten(1)).unflatten(1, self.g_mass.shape)
        y = torch.einsum("bhm,hmi->bi", drive.history, self.starts)
        g, of_history = whole[..., : self.n], whole[..., self.n :]
        right = drive.phi.flatten(1) @ self.of_phi + torch.einsum("bpi,bi->bp", of_history, y)
        if drive.b.shape[2]:
            products = drive.theta[..., None] * drive.b[:, :, None]
            right = right + drive.b.flatten(1) @ self.of_b + products.flatten(1) @ self.of_theta_b
        known = torch.cat([y, drive.b.flatten(1)], dim=1)
        return Equations(g, of_history, -right, self.pointwise, known, drive.rows[:, 0])

    def residual(self, a: Tensor, z: Tensor) -> Tensor:
        """rho, (batch, p)."""
        pairs = zip(a.split(_CHUNK), z.split(_CHUNK), strict=True)
        return torch.cat([self.equations(self.steps.drive(at)).residual(own) for own, at in pairs])

    def tangent(self, a: Tensor, z: Tensor) -> Tensor:
        """drho/da, (batch, p, p); of linear problems G(z)."""
        return self.equations(self.steps.drive(z)).tangent(a)

    def solve(self, z: Tensor) -> Tensor:
        """a with rho(a, z) = 0, (batch, p).

        Raises:
            ConvergenceError: Newton's method did not find it.
        """
        parts = [self._solve(part, i * _CHUNK) for i, part in enumerate(z.split(_CHUNK))]
        return torch.cat(parts)

    def _solve(self, z: Tensor, first: int) -> Tensor:
        equations, prior = self.equations(self.steps.drive(z)), self.steps.problem.prior
        if self.start is None:
            return torch.linalg.solve(equations.g, equations.right)
        a = equations.solve(self.start(prior.standardise(z)))
        bad = equations.unsolved(a)
        if len(bad):
            # The march finds what is too far from the polynomial.
            again = equations.of_rows(bad)
            drive = self.steps.drive(z[bad])
            a[bad] = again.solve(self.project(self.steps.march(drive)))
            bad = bad[again.unsolved(a[bad])]
        if len(bad):
            i = int(bad[0])
            raise ConvergenceError(
                f"Newton's method did not solve the equations of space and time of sample "
                f"{first + i}, {described(z[i])}: march in the spatial basis, corrections=2, or "
                "take a smaller range of the prior"
            )
        return a


@dataclass(frozen=True)
class Equations:
    """rho of some parameters: its linear part, and what the terms at points read.

    Attributes:
        g, right: G (batch, p, p) and g (batch, p).
        of_history: G_y, (batch, p, n_starts).
        pointwise: f, or None.
        known: y of the starts, and b, (batch, n_known).
        rows: z of the steady problem, (batch, d).
    """

    g: Tensor
    of_history: Tensor
    right: Tensor
    pointwise: PointTerms | None
    known: Tensor
    rows: Tensor

    def of_rows(self, rows: Tensor) -> "Equations":
        """Those of some of the parameters."""
        return Equations(
            self.g[rows],
            self.of_history[rows],
            self.right[rows],
            self.pointwise,
            self.known[rows],
            self.rows[rows],
        )

    def residual(self, a: Tensor) -> Tensor:
        """rho, (batch, p)."""
        rho = torch.einsum("bij,bj->bi", self.g, a) - self.right
        if self.pointwise is not None:
            rho = rho + self.pointwise.residual(torch.cat([a, self.known], dim=1), self.rows)
        return rho

    def tangent(self, a: Tensor) -> Tensor:
        """drho/da, (batch, p, p)."""
        if self.pointwise is None:
            return self.g
        whole = torch.cat([a, self.known], dim=1)
        return self.g + self.pointwise.tangent(whole, self.rows, a.shape[1])

    def solve(self, start: Tensor) -> Tensor:
        """a by Newton's method, (batch, p)."""
        return newton(
            lambda rows, a: self.of_rows(rows).residual(a),
            lambda rows, a: self.of_rows(rows).tangent(a),
            start,
            _SOLVED,
            _SOLVED * start.norm(dim=1),
        )

    def unsolved(self, a: Tensor) -> Tensor:
        """Rows whose residual is more than what Newton's method leaves."""
        left, size = self.residual(a).norm(dim=1), a.norm(dim=1)
        return (~(left <= _UNSOLVED * size)).nonzero()[:, 0]


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


def find_modes(
    steps: ReducedSteps, k0: Tensor, phi: Tensor, z: Tensor, c: Tensor, seed: int
) -> Modes:
    """The equations of given modes.

    Args:
        steps: in m shapes.
        k0: V^T K0 V, (m, m).
        phi: (N, m, p).
        z: draws, which tell of the histories and of theta, (n, d).
        c: their trajectories, (n, N, m), which tell of nonlinear terms.
        seed: of the cubature.
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
    pointwise, start = None, None
    if steps.pointwise is not None:
        w = steps.weights
        a = torch.einsum("kmp,k,bkm->bp", phi, w, c)
        start = fit_polynomial(steps.problem.prior, z, a, _FEW_PER_TERM)
        inside = (a @ phi.flatten(0, 1).T).unflatten(1, phi.shape[:2])
        pointwise = _terms_at_pairs(steps, z, inside, of_flux, states, seed)
    own, of_lift = steps.k[..., : steps.n], steps.k[..., steps.n :]
    if n_times == 1 or n_q == 0:
        pairs, cardinal = torch.arange(n_times * n_q), torch.eye(n_times * n_q).double()
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
        g_mass=torch.einsum("jmp,jmc->pc", of_mass, steps.mass @ states),
        g_stiffness=g_stiffness,
        of_phi=over_times(torch.einsum("jmp,fm->jfp", of_flux, steps.g)),
        of_b=over_times(torch.einsum("jmp,mr->jrp", of_mass, steps.mass_of_lift)),
        of_theta_b=over_times(torch.einsum("jmp,qmr->jqrp", of_flux, of_lift)),
        pointwise=pointwise,
        start=start,
    )


def _terms_at_pairs(
    steps: ReducedSteps, z: Tensor, c: Tensor, of_flux: Tensor, states: Tensor, seed: int
) -> PointTerms:
    """The nonlinear terms, at pairs of a state and a point.

    Args:
        steps: in m shapes.
        z: draws.
        c: their trajectories, (n, N, m).
        of_flux: Tb^T Y, (h + N, m, p).
        states: shapes of all states, (h + N, m, p + n_starts).
        seed: of the candidates.
    """
    problem, free = steps.problem, steps.problem.steady.free_dofs
    v = np.zeros((problem.n_dofs, steps.n))
    v[free] = steps.v.numpy()
    n_few = min(_N_CUBATURE, len(z))
    pairs = zip(z[:n_few], c[:n_few] @ steps.v.T, strict=True)
    u = torch.stack([states_of(problem, *pair) for pair in pairs])
    seen = States(u, problem.state_rows(z[:n_few]))
    assert steps.pointwise is not None
    numbers = [one.at.number for one in steps.pointwise.terms]
    rng, found = np.random.default_rng(seed), []
    n_lifts, n_times = len(steps.lifts), len(states) if problem.reads_time else 1
    for at, state in choose_pairs(problem, numbers, v, of_flux, seen, rng):
        term = problem.steady.terms[at.number]
        own = rows_at(term, at.points, v)
        trial = torch.einsum("qsm,qmc->qsc", own, states[state])
        of_b = trial.new_zeros(*own.shape[:2], n_times, n_lifts)
        times = torch.from_numpy(state) if problem.reads_time else torch.zeros(len(state)).long()
        of_b[torch.arange(len(state)), :, times] = rows_at(term, at.points, steps.lifts.T.numpy())
        weights = torch.from_numpy(at.weights * term.region.weights.ravel()[at.points])
        tests = torch.einsum("qsm,qmp->qsp", own, of_flux[state]) * weights[:, None, None]
        found.append(PointTerm(at, torch.cat([trial, of_b.flatten(2)], dim=2), tests))
    return PointTerms(problem, tuple(found))


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
    y, mass = torch.zeros_like(x), steps.mass
    factors: dict[tuple[float, float], Tensor] = {}
    for j in range(len(x) - 1, -1, -1):
        pair = float(ta[j, j]), float(tb[j, j])
        if pair not in factors:
            factors[pair] = torch.linalg.inv((pair[0] * mass + pair[1] * k0).T)
        later_a = ta[j + 1 :, j].nonzero()[:, 0] + j + 1
        later_b = tb[j + 1 :, j].nonzero()[:, 0] + j + 1
        b = x[j] - mass.T @ torch.einsum("i,imp->mp", ta[later_a, j], y[later_a])
        b = b - k0.T @ torch.einsum("i,imp->mp", tb[later_b, j], y[later_b])
        y[j] = factors[pair] @ b
    return y


def _too_many(steps: ReducedSteps) -> ProblemError:
    return ProblemError(
        f"problem {steps.problem.name!r} takes more than {_MAX_RANK} operators of space and time: "
        "its coefficients vary too freely with z and t; give fields fewer terms"
    )
