"""The spatial basis V, by reference marches of the residual.

    V = initial shapes;  then, by rounds:   c = march in V of fresh draws,   e = -A0^{-1} R(V c),
    V = (V, leading principal components in space of e / |u|),    until |e| / |u| is small

In the end V is rotated to the principal components of reduced trajectories of fresh draws, all of
it kept: its first columns are the basis of a model, the rest tell how far the model is off.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.progress import ProgressBar
from pddlvm.trajectory.parts import Parts
from pddlvm.trajectory.reference import ReferenceMarch
from pddlvm.trajectory.steps import ReducedSteps
from pddlvm.transient.problem import TransientProblem
from pddlvm.transient.terms import MovingTerms

__all__ = ["Shapes", "find_shapes", "full_error"]

Array = NDArray[np.float64]

_BLOCK, _N_NEW, _N_POD = 4, 12, 256
_INDEPENDENT = 1e-10
"""Squared size, relative to the largest, below which a shape says nothing new."""


@dataclass(frozen=True)
class Shapes:
    """What was found.

    Attributes:
        steps: reduced to all shapes, in their order.
        k0: V^T K0 V, (n, n).
        tails: relative size of trajectories outside of the first k shapes, (n + 1,).
        errors: mean |e| / |u| of each round.
    """

    steps: ReducedSteps
    k0: Tensor
    tails: Array
    errors: tuple[float, ...]


def find_shapes(
    parts: Parts,
    reference: ReferenceMarch,
    n_most: int,
    tolerance: float,
    seed: int,
    bar: ProgressBar,
    start: Array | None = None,
) -> Shapes:
    """At most about `n_most` shapes, fewer if |e| / |u| falls below the tolerance.

    Args:
        parts: of the problem.
        reference: its reference march.
        n_most: shapes, at most a few more.
        tolerance: of |e| / |u|.
        seed: of the draws.
        bar: which says how far it is.
        start: shapes to begin with, (n_free, n).
    """
    problem = reference.problem
    generator = torch.Generator().manual_seed(seed)
    mass, free = reference.mass, problem.steady.free_dofs
    z = problem.prior.sample((_N_NEW,), generator=generator)
    v = np.zeros((len(free), 0)) if start is None else start
    v = _orthonormal(mass, v, problem.history(z)[..., free].flatten(0, 1).numpy().T)
    errors: list[float] = []
    while True:
        z = problem.prior.sample((_BLOCK,), generator=generator)
        steps = _reduced(problem, parts, mass, v)
        c = steps.march(steps.drive(z))
        u, e = full_error(steps, reference, z, c)
        size, off = (_size(problem, mass, x) for x in (u, e))
        # Without a shape there is no size yet, and with some no error that is larger.
        size = np.maximum(size, off)
        errors.append(float((off / size).mean()))
        bar.say(f"{v.shape[1]} shapes: estimated error {errors[-1]:.1e}")
        if v.shape[1] >= n_most or (off <= tolerance * size).all():
            break
        w = np.sqrt(problem.scheme.weights)[None, :, None] / size[:, None, None]
        v = _orthonormal(mass, v, _principal(mass, (e * w).reshape(-1, len(free)), _N_NEW))
    z = problem.prior.sample((_N_POD,), generator=generator)
    c = steps.march(steps.drive(z))
    relative = c / steps.size(c)[:, None, None].clamp(min=1e-300)
    gram = torch.einsum("k,bki,bkj->ij", steps.weights, relative, relative)
    values, vectors = np.linalg.eigh(gram.numpy())
    values = values[::-1].clip(min=0)
    left = np.append(np.cumsum(values[::-1])[::-1], 0.0)
    tails = np.sqrt(left / values.sum())
    v = v @ vectors[:, ::-1]
    k0 = torch.from_numpy(v.T @ (reference.stiffness @ v))
    return Shapes(_reduced(problem, parts, mass, v), k0, tails, tuple(errors))


def full_error(
    steps: ReducedSteps, reference: ReferenceMarch, z: Tensor, c: Tensor
) -> tuple[Array, Array]:
    """Trajectories on the free degrees of freedom, and e = -A0^{-1} R, (batch, N, n_free) each."""
    problem = steps.problem
    inside = c.numpy() @ steps.v.numpy().T
    residuals = np.stack([_residual(problem, *pair) for pair in zip(z, inside, strict=True)])
    e = reference.solve(np.ascontiguousarray(residuals.transpose(1, 2, 0)))
    return inside, -e.transpose(2, 0, 1)


def _residual(problem: TransientProblem, z: Tensor, inside: Array) -> Array:
    """R of one trajectory, (N, n_free)."""
    scheme, free = problem.scheme, problem.steady.free_dofs
    h = scheme.n_history
    operators = problem.steady.discretisation(torch.float64, torch.device("cpu"))
    rows = problem.state_rows(z[None])[0]
    states = operators.lift(rows if problem.reads_time else rows[:1]).expand(len(rows), -1).clone()
    states[:h] = problem.history(z)
    states[h:, free] = torch.from_numpy(inside)
    moving: MovingTerms = problem.moving_terms
    tangents = moving.stiffness(rows[torch.from_numpy(scheme.asked)])
    if tangents is None:
        found: Array = problem.residual(states[h:], z).numpy()
        return found
    u = states.numpy()
    mass, k = (sp.csr_matrix(m[free]) for m in (problem.mass, moving.assemble(tangents)))
    if problem.reads_time:
        g = moving.loads(rows[None])[0].numpy()
    else:
        g = np.broadcast_to(moving.loads(rows[None, :1])[0].numpy(), (len(rows), len(free)))
    total = scheme.ta @ (mass @ u.T).T + scheme.tb @ ((k @ u.T).T + g)
    return np.asarray(total)


def _reduced(
    problem: TransientProblem, parts: Parts, mass: sp.csr_matrix, v: Array
) -> ReducedSteps:
    free, lifts = problem.steady.free_dofs, parts.lifts
    whole = np.zeros((problem.n_dofs, v.shape[1]))
    whole[free] = v
    columns = np.hstack([whole, lifts.T])
    k = np.stack([v.T @ (matrix[free] @ columns) for matrix in parts.matrices])
    return ReducedSteps(
        problem,
        parts.coefficients,
        torch.from_numpy(np.ascontiguousarray(v)),
        torch.from_numpy(k),
        torch.from_numpy(parts.loads[:, free] @ v),
        torch.from_numpy(v.T @ (problem.mass[free] @ lifts.T)),
        torch.from_numpy(lifts),
    )


def _size(problem: TransientProblem, mass: sp.csr_matrix, u: Array) -> Array:
    """In the norm w x M, (batch,)."""
    flat = u.reshape(-1, u.shape[-1])
    squares = np.einsum("ij,ij->i", flat, (mass @ flat.T).T).reshape(u.shape[:2])
    return np.sqrt(squares @ problem.scheme.weights)


def _principal(mass: sp.csr_matrix, x: Array, n: int) -> Array:
    """Leading principal components of rows (n_rows, n_free), (n_free, at most n)."""
    values, vectors = np.linalg.eigh(x @ (mass @ x.T))
    values, vectors = values[::-1][:n], vectors[:, ::-1][:, :n]
    kept = values > _INDEPENDENT * values[0]
    found: Array = x.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return found


def _orthonormal(mass: sp.csr_matrix, v: Array, x: Array) -> Array:
    """(V, X) with X orthonormal to V and in itself; what says nothing new is dropped."""
    for _ in range(2):
        x = x - v @ (v.T @ (mass @ x))
        values, vectors = np.linalg.eigh(x.T @ (mass @ x))
        kept = values > _INDEPENDENT * max(values.max(initial=0.0), np.finfo(float).tiny)
        x = x @ (vectors[:, kept] / np.sqrt(values[kept]))
    return np.hstack([v, x])
