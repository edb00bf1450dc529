"""Points of space, or of space and time, that integrate nonlinear terms of trajectories.

    f(u, z)_i = sum_{j, p} tests_ji . (B_p^T flux(B_p u_j, x_p; z, t_j))   ~   a sum over few (j, p)

with nonnegative weights, found for the states of a few draws (`pddlvm.linalg.nonnegative`). Of
each draw a few random combinations of the tests are rows. The steps in a spatial basis take few
points p, each of them at all times, the equations of space and time few pairs of a state and a
point: how many depends on neither the mesh nor the number of steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.linalg.nonnegative import few_weights
from pddlvm.trajectory.pointwise import AtPoints, PointTerm, PointTerms, rows_at
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.terms import TermEvaluator

__all__ = ["States", "choose_pairs", "choose_points", "terms_in_space"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_MOST_ROWS, _LEAST_PROJECTIONS = 1280, 4
_ROUGH, _FINE = (3e-4, 3000), (1e-5, 16000)
_PAIRS = (5e-5, 20000)
"""What may be left of the terms in the states that points are chosen by, and of how many places:
steps that explore, those of a model, and equations of space and time."""
_N_TIMES, _MOST = 12, 1000
"""Times of a trajectory that are looked at for steps, and points at most."""
_ROUND_OFF = 1e-10


@dataclass(frozen=True)
class States:
    """Trajectories of some draws on the mesh, history among them.

    Attributes:
        u: (n, h + N, n_dofs).
        rows: z of the steady problem, (n, h + N, d).
    """

    u: Tensor
    rows: Tensor


def terms_in_space(
    problem: TransientProblem, chosen: Sequence[AtPoints], v: Array, lifts: Array
) -> PointTerms:
    """Terms at points in (V, L), tested by V.

    Args:
        problem: in time.
        chosen: points and weights.
        v: V on all degrees of freedom, (n_dofs, n).
        lifts: L, (R, n_dofs).
    """
    columns, found = np.hstack([v, lifts.T]), []
    for at in chosen:
        term = problem.steady.terms[at.number]
        trial = rows_at(term, at.points, columns)
        weights = torch.from_numpy(at.weights * term.region.weights.ravel()[at.points])
        tests = weights[:, None, None] * trial[..., : v.shape[1]]
        found.append(PointTerm(at, trial, tests))
    return PointTerms(problem, tuple(found))


def choose_points(
    problem: TransientProblem,
    numbers: Sequence[int],
    tests: Array,
    states: States,
    rng: np.random.Generator,
    *,
    is_final: bool,
) -> list[AtPoints]:
    """Points and weights for steps in a spatial basis.

    Args:
        problem: in time.
        numbers: of the nonlinear terms.
        tests: combinations of V that make a flux comparable to an error, (n_dofs, n).
        states: to integrate well.
        rng: of candidates and projections.
        is_final: choose them for a model, and not for a round of its making.
    """
    n, n_states = states.u.shape[:2]
    times = np.unique(np.linspace(problem.scheme.n_history, n_states - 1, _N_TIMES).astype(int))
    u, rows = (x[:, times].flatten(0, 1) for x in (states.u, states.rows))
    n_projections = max(_LEAST_PROJECTIONS, _MOST_ROWS // len(u))
    directions = rng.standard_normal((len(u), tests.shape[1], n_projections))
    evaluators, blocks = problem.moving_terms.operators.terms, problem.steady.prior.split(rows)
    sizes = np.array([evaluators[i].weights.numel() for i in numbers])
    tolerance, n_most = _FINE if is_final else _ROUGH
    candidates = _candidates(sizes, n_most, rng)
    target, parts = np.zeros((len(u), n_projections)), []
    for i, points in zip(numbers, candidates, strict=True):
        flux = evaluators[i].fluxes(u, blocks)
        whole = evaluators[i].operator.adjoint(flux.flatten(1)).numpy() @ tests
        target += np.einsum("kn,knr->kr", whole, directions)
        own = rows_at(problem.steady.terms[i], points, tests).numpy()
        each = np.stack(
            [
                np.einsum("ps,psn->np", f, own).T @ direction
                for f, direction in zip(flux[:, points].numpy(), directions, strict=True)
            ]
        )
        parts.append(each.transpose(0, 2, 1).reshape(-1, len(points)))
    # Each draw counts alike, and its times as much as they matter.
    scale = np.sqrt(np.square(target).reshape(n, -1).sum(1)) + _ROUND_OFF * np.linalg.norm(target)
    scale = np.repeat(scale, len(times) * n_projections)
    index, weights = few_weights(
        np.concatenate(parts, axis=1) / scale[:, None], target.ravel() / scale, tolerance, _MOST
    )
    return _split(numbers, candidates, index, weights)


def choose_pairs(
    problem: TransientProblem,
    numbers: Sequence[int],
    v: Array,
    tests: Tensor,
    states: States,
    rng: np.random.Generator,
) -> list[tuple[AtPoints, Index]]:
    """Pairs of a point and the number of a state, and weights, for equations of space and time.

    Args:
        problem: in time.
        numbers: of the nonlinear terms.
        v: V on all degrees of freedom, (n_dofs, m).
        tests: of each state, in V, (h + N, m, p).
        states: to integrate well, in the basis.
        rng: of candidates and projections.
    """
    n, asked = len(states.u), problem.scheme.asked
    n_projections = max(_LEAST_PROJECTIONS, _MOST_ROWS // n)
    directions = torch.from_numpy(rng.standard_normal((n, tests.shape[2], n_projections)))
    evaluators = problem.moving_terms.operators.terms
    sizes = np.array([evaluators[i].weights.numel() for i in numbers])
    candidates = _candidates(sizes * len(asked), _PAIRS[1], rng)
    places = [(own // size, own % size) for own, size in zip(candidates, sizes, strict=True)]
    target, parts = torch.zeros(n, n_projections, dtype=torch.float64), []
    of_v, own_tests = torch.from_numpy(v), tests[asked]
    for i, (state, points) in zip(numbers, places, strict=True):
        own = rows_at(problem.steady.terms[i], points, v)
        own = torch.einsum("cm...,cmp->c...p", own.mT, own_tests[state])
        part = torch.zeros(n, n_projections, len(points), dtype=torch.float64)
        for k in range(n):
            flux = _fluxes(problem, evaluators[i], states.u[k, asked], states.rows[k, asked])
            whole = evaluators[i].operator.adjoint(flux.flatten(1)) @ of_v
            target[k] += torch.einsum("jm,jmp->p", whole, own_tests) @ directions[k]
            each = torch.einsum("cs,csp->cp", flux[state, points], own)
            part[k] = directions[k].T @ each.T
        parts.append(part.flatten(0, 1).numpy())
    scale = target.norm(dim=1).clamp(min=_ROUND_OFF * float(target.norm())).numpy()
    scale = np.repeat(scale, n_projections)
    index, weights = few_weights(
        np.concatenate(parts, axis=1) / scale[:, None],
        target.flatten().numpy() / scale,
        _PAIRS[0],
        _MOST,
    )
    chosen = _split(numbers, candidates, index, weights)
    found, times = [], problem.scheme.all_times
    for at, size in zip(chosen, sizes, strict=True):
        state = asked[at.points // size]
        found.append((AtPoints(at.number, at.points % size, at.weights, times[state]), state))
    return found


def _fluxes(problem: TransientProblem, term: TermEvaluator, u: Tensor, rows: Tensor) -> Tensor:
    """w * flux at all points of many states, (n, n_points, s)."""
    chunk, split = problem.steady.solver.chunk, problem.steady.prior.split
    parts = zip(u.split(chunk), rows.split(chunk), strict=True)
    return torch.cat([term.fluxes(own, split(z)) for own, z in parts])


def _candidates(sizes: Index, n_most: int, rng: np.random.Generator) -> list[Index]:
    """Of each term some places, all if they are few."""
    share = min(1.0, n_most / sizes.sum())
    return [
        np.sort(rng.choice(size, max(1, round(share * size)), replace=False)).astype(np.int64)
        for size in sizes.tolist()
    ]


def _split(
    numbers: Sequence[int], candidates: list[Index], index: Index, weights: Array
) -> list[AtPoints]:
    """What was chosen of each term."""
    ends = np.cumsum([0, *map(len, candidates)])
    found = []
    for i, own, first, last in zip(numbers, candidates, ends[:-1], ends[1:], strict=True):
        inside = (index >= first) & (index < last)
        order = np.argsort(index[inside])
        place = own[index[inside][order] - first]
        found.append(AtPoints(i, place, weights[inside][order]))
    return found
