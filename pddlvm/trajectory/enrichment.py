"""The spatial basis V, by reference marches of the residual.

    V = initial shapes;  then, by rounds:   c = march in V of fresh draws,   e = -A0^{-1} R(V c),
    V = (V, leading principal components in space of e / |u|),    until |e| / |u| is small

Nonlinear terms are integrated at few points, which each round chooses anew by the states u + e of
the one before; the first of these are the initial states, held, and their e. Then e is taken
without its part in V, in which the cubature errs.

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
from pddlvm.trajectory.explored import Explored
from pddlvm.trajectory.field_shapes import FieldShapes
from pddlvm.trajectory.parts import Parts
from pddlvm.trajectory.reference import ReferenceMarch, states_of
from pddlvm.trajectory.steps import ReducedSteps
from pddlvm.transient.problem import TransientProblem
from pddlvm.transient.terms import MovingTerms

__all__ = ["Shapes", "find_shapes", "full_error"]

Array = NDArray[np.float64]

_BLOCK, _N_SMALL, _N_NEW, _N_POD = 4, 6, 12, 256
"""Draws at a time, and blocks of them in a row whose errors are to be small: few draws tell little
of rare ones."""
_N_FINAL, _N_NONLINEAR = 24, 320
"""Draws of a nonlinear problem that the last points, and principal components, are found by."""
_INDEPENDENT, _NOISE = 1e-10, 1e-2
"""Squared size, relative to the largest, below which a shape says nothing new."""


@dataclass(frozen=True)
class Shapes:
    """What was found.

    Attributes:
        steps: reduced to all shapes, in their order.
        k0: V^T K0 V, (n, n).
        tails: relative size of trajectories outside of the first k shapes, (n + 1,).
        errors: mean |e| / |u| of each round.
        z, c: the draws of the principal components and their trajectories, (n_draws, N, n).
    """

    steps: ReducedSteps
    k0: Tensor
    tails: Array
    errors: tuple[float, ...]
    z: Tensor
    c: Tensor


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
    norm, free = reference.norm, problem.steady.free_dofs
    z = problem.prior.sample((_N_NEW,), generator=generator)
    fields = FieldShapes(reference)
    v = np.zeros((len(free), 0)) if start is None else start
    v = _orthonormal(norm, v, fields.each(problem.history(z)[..., free].flatten(0, 1).numpy().T))
    # Noise of a pressure would be a shape with nothing to test it.
    least = 0.0 if len(reference.sizes) == 1 else (_NOISE * tolerance) ** 2
    errors, n_small = list[float](), 0
    points = Explored(reference, parts, seed)
    while True:
        z = problem.prior.sample((_BLOCK,), generator=generator)
        steps = points.reduced(v)
        c = points.march(steps, z)
        u, e = full_error(steps, reference, z, c)
        points.see(z, u + e)
        e = points.beyond(v, e)
        size, off = (_size(problem, norm, x) for x in (u, e))
        # Without a shape there is no size yet, and with some no error that is larger.
        size = np.maximum(size, off)
        errors.append(float((off / size).mean()))
        bar.say(f"{v.shape[1]} shapes: estimated error {errors[-1]:.1e}")
        is_small = (off <= tolerance * size).all()
        n_small = n_small + 1 if is_small else 0
        if points.is_ready and (v.shape[1] >= n_most or n_small >= _N_SMALL):
            break
        if is_small and points.is_ready:
            continue
        w = np.sqrt(problem.scheme.weights)[None, :, None] / size[:, None, None]
        new = [
            _principal(norm, x, _N_NEW, least) for x in fields.parts((e * w).reshape(-1, len(free)))
        ]
        n_before, v = v.shape[1], _orthonormal(norm, v, fields.tested(np.hstack(new)))
        if v.shape[1] == n_before and points.is_ready:
            break
    if parts.nonlinear:
        steps = points.finish(steps, problem.prior.sample((_N_FINAL,), generator=generator))
    n_draws = _N_NONLINEAR if parts.nonlinear else _N_POD
    z = problem.prior.sample((n_draws,), generator=generator)
    bar.say("principal components")
    c = steps.march(steps.drive(z))
    relative = c / steps.size(c)[:, None, None].clamp(min=1e-300)
    gram = torch.einsum("k,bki,bkj->ij", steps.weights, relative, relative).numpy()
    rotated = fields.principal(v, gram)
    into = rotated.T @ (norm @ v)
    squares = np.einsum("ki,ij,kj->k", into, gram, into)
    left = np.append(np.cumsum(squares[::-1])[::-1], 0.0).clip(min=0)
    tails = np.sqrt(left / squares.sum())
    v, c = rotated, c @ torch.from_numpy(into.T.copy())
    k0 = torch.from_numpy(v.T @ (reference.stiffness @ v))
    return Shapes(points.reduced(v), k0, tails, tuple(errors), z, c)


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
    rows = problem.state_rows(z)
    states = states_of(problem, z, torch.from_numpy(inside))
    moving: MovingTerms = problem.moving_terms
    tangents = None
    if problem.is_linear:
        tangents = moving.stiffness(rows[torch.from_numpy(scheme.asked)])
    if tangents is None:
        found: Array = problem.residual(states[scheme.n_history :], z).numpy()
        return found
    u = states.numpy()
    mass, k = (sp.csr_matrix(m[free]) for m in (problem.mass, moving.assemble(tangents)))
    if problem.reads_time:
        g = moving.loads(rows[None])[0].numpy()
    else:
        g = np.broadcast_to(moving.loads(rows[None, :1])[0].numpy(), (len(rows), len(free)))
    total = scheme.ta @ (mass @ u.T).T + scheme.tb @ ((k @ u.T).T + g)
    return np.asarray(total)


def _size(problem: TransientProblem, norm: sp.csr_matrix, u: Array) -> Array:
    """In the norm w x M, (batch,)."""
    flat = u.reshape(-1, u.shape[-1])
    squares = np.einsum("ij,ij->i", flat, (norm @ flat.T).T).reshape(u.shape[:2])
    return np.sqrt(squares @ problem.scheme.weights)


def _principal(norm: sp.csr_matrix, x: Array, n: int, least: float) -> Array:
    """Leading principal components of rows (n_rows, n_free), (n_free, at most n).

    None whose square size is below the least.
    """
    values, vectors = np.linalg.eigh(x @ (norm @ x.T))
    values, vectors = values[::-1][:n], vectors[:, ::-1][:, :n]
    kept = values > max(_INDEPENDENT * values[0], least)
    found: Array = x.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return found


def _orthonormal(norm: sp.csr_matrix, v: Array, x: Array) -> Array:
    """(V, X) with X orthonormal to V and in itself; what says nothing new is dropped."""
    for _ in range(2):
        # Relative to what was given: what a whole space leaves of it is rounding.
        given = np.einsum("ik,ik->k", x, norm @ x).max(initial=0.0)
        x = x - v @ (v.T @ (norm @ x))
        values, vectors = np.linalg.eigh(x.T @ (norm @ x))
        kept = values > _INDEPENDENT * max(given, np.finfo(float).tiny)
        x = x @ (vectors[:, kept] / np.sqrt(values[kept]))
    return np.hstack([v, x])
