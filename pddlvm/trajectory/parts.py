"""The linear terms of a problem in time as a sum of few operators, with coefficients at (z, t).

    K(z, t) = sum_q theta_q(z, t) K_q,   g(z, t) = sum_p phi_p(z, t) g_p,   u_D = sum_r b_r L_r

by empirical interpolation over draws of the prior of the steady problem, to which t is one more
parameter (`pddlvm.weak.affine_term`): theta, phi and b are values at a few points. Terms that are
not linear in u are no such sums (`pddlvm.trajectory.pointwise`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pddlvm.basics.errors import ProblemError
from pddlvm.linalg.derivatives import linearise
from pddlvm.linalg.empirical_interpolation import Interpolation, find_interpolation
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.assembly import Assembler
from pddlvm.weak.projection import AtPoints
from pddlvm.weak.terms import TermEvaluator

__all__ = ["Coefficients", "Parts", "find_parts"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Triple = tuple[Tensor, Tensor, Tensor]

_N_DRAWS, _CHUNK = (160, 480), 16
"""Of z and t, few first: twice the rank and more."""
_AT_ONCE = 2**20
"""Numbers of Dirichlet values."""
_SPREAD = 1.2
"""Of draws, in deviations of the prior."""
_TOLERANCE = 1e-6
_BOUNDARY_TOLERANCE = 1e-9


class Coefficients(nn.Module):
    """theta, phi and b, float64 on the CPU.

    Args:
        problem: in time.
        entries: number of a linear term -> the magic entries of its tangents and of its loads.
        boundary: magic degrees of freedom.
    """

    terms: list[AffineTerm]

    def __init__(
        self, problem: TransientProblem, entries: dict[int, tuple[Index, Index]], boundary: Index
    ) -> None:
        super().__init__()
        steady = problem.steady
        self._moving = problem.moving_terms
        self._prior, self._n_dofs = steady.prior, steady.n_dofs
        self.entries, self.boundary = entries, boundary
        found = [_affine(self._moving.operators.terms[i], *pair) for i, pair in entries.items()]
        self.terms = cast(list[AffineTerm], nn.ModuleList(found))

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """theta (n, S, Q), phi (n, S, P), and b (n, S, R).

        Args:
            z: of the steady problem, at S times, (n, S, d). What does not read the time is
                evaluated at the first.
        """

        def both(term: AffineTerm, rows: Tensor) -> Tensor:
            blocks, like = self._prior.split(rows), rows[:, :1]
            return torch.cat([term.theta(like, blocks), term.phi(like, blocks)], dim=1)

        return (*self._of_terms(z, both), self._prescribed(z))

    def with_slopes(self, z: Tensor) -> tuple[Triple, Triple]:
        """The same, and their derivatives by z, with an axis of its d numbers behind the others."""
        d = z.shape[2]

        def both(term: AffineTerm, rows: Tensor) -> Tensor:
            """(n, rank, 1 + d): the value stands before its derivatives."""
            value, slopes = term.coefficients(len(rows), self._prior.split(rows))
            found = torch.cat([value[..., None], value.new_zeros(*value.shape, d)], dim=2)
            for name, slope in slopes.items():
                found[..., 1:][..., self._prior.slices[name]] = slope
            return found

        theta, phi = self._of_terms(z, both, 1 + d)
        flat = z.flatten(0, 1)
        if len(self.boundary):
            pair = linearise(lambda at: self._prescribed(at[None])[0], flat)
        else:
            pair = flat.new_zeros(len(flat), 0), flat.new_zeros(len(flat), 0, d)
        b, of_b = (x.unflatten(0, z.shape[:2]) for x in pair)
        return (theta[..., 0], phi[..., 0], b), (theta[..., 1:], phi[..., 1:], of_b)

    def _of_terms(
        self, z: Tensor, both: Callable[[AffineTerm, Tensor], Tensor], *columns: int
    ) -> tuple[Tensor, Tensor]:
        """theta and phi of all terms, (n, S, Q, *columns) and (n, S, P, *columns).

        Args:
            z: (n, S, d).
            both: of a term and rows of z (n, d), those of that term, (n, rank, *columns).
            columns: of each coefficient.
        """
        nothing = z.new_zeros(*z.shape[:2], 0, *columns)
        theta, phi = [nothing], [nothing]
        for i, term in zip(self.entries, self.terms, strict=True):
            rows = z if self._moving.moves[i] else z[:, :1]
            found = both(term, rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
            found = found.expand(-1, z.shape[1], *found.shape[2:])
            rank = len(term.tangent_entry)
            theta.append(found[:, :, :rank])
            phi.append(found[:, :, rank:])
        return torch.cat(theta, dim=2), torch.cat(phi, dim=2)

    def _prescribed(self, z: Tensor) -> Tensor:
        """b, (n, S, R)."""
        if not len(self.boundary):
            return z.new_zeros(*z.shape[:2], 0)
        parts = z.flatten(0, 1).split(max(_CHUNK, _AT_ONCE // self._n_dofs))
        b = [self._moving.operators.lift(part)[:, self.boundary] for part in parts]
        return torch.cat(b).unflatten(0, z.shape[:2])


@dataclass(frozen=True)
class Parts:
    """The operators, on all degrees of freedom.

    Attributes:
        coefficients: of them.
        matrices: K_q.
        loads: g_p, (P, n_dofs).
        lifts: L_r, (R, n_dofs).
        nonlinear: numbers of the terms that are not linear in u, which are in none of these.
    """

    coefficients: Coefficients
    matrices: list[sp.csr_matrix]
    loads: Array
    lifts: Array
    nonlinear: tuple[int, ...]


def find_parts(problem: TransientProblem) -> Parts:
    """Those of a problem.

    Raises:
        ProblemError: it takes too many parts.
    """
    nonlinear = () if problem.is_linear else problem.moving_terms.nonlinear
    steady = problem.steady
    operators = steady.discretisation(torch.float64, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    xi = _SPREAD * steady.prior.sample_standard((_N_DRAWS[-1],), generator=generator).double()
    z = steady.prior.unstandardise(steady.prior.clamp_standard(xi))
    assembler = Assembler(steady.form.terms, np.arange(problem.n_dofs), problem.n_dofs)
    nothing = [torch.zeros(t.weights.numel(), t.s, t.s).double() for t in operators.terms]
    entries: dict[int, tuple[Index, Index]] = {}
    matrices, loads = [], []
    for i, term in enumerate(operators.terms):
        if i in nonlinear:
            continue
        tangent = _interpolate(problem, term, z, is_tangent=True)
        load = _interpolate(problem, term, z, is_tangent=False)
        entries[i] = (tangent.index, load.index)
        for one in tangent.cardinal.T:
            own = torch.from_numpy(one.reshape(-1, term.s, term.s)) * term.weights[:, None, None]
            matrices.append(sp.csr_matrix(assembler([*nothing[:i], own, *nothing[i + 1 :]])))
        fluxes = torch.from_numpy(load.cardinal.T.copy()).unflatten(1, (-1, term.s))
        weighted = (term.weights[:, None] * fluxes).flatten(1)
        loads.append(term.operator.adjoint(weighted).numpy())
    lifts = torch.cat([operators.lift(part) for part in z.split(_CHUNK)]).numpy()
    boundary = find_interpolation(lifts, _N_DRAWS[-1] // 2, tolerance=_BOUNDARY_TOLERANCE)
    if boundary is None:
        raise _too_many(problem)
    coefficients = Coefficients(problem, entries, boundary.index)
    nothing_else = np.zeros((0, problem.n_dofs))
    g = np.concatenate([nothing_else, *loads])
    return Parts(coefficients, matrices, g, boundary.cardinal.T.copy(), nonlinear)


def _interpolate(
    problem: TransientProblem, term: TermEvaluator, z: Tensor, *, is_tangent: bool
) -> Interpolation:
    """Of the tangents of a term, or of its fluxes at u = 0, without their weights."""
    for n_draws in _N_DRAWS:
        values, used, size = _values(problem, term, z[:n_draws], is_tangent=is_tangent)
        weights = np.ones(len(used))
        if len(problem.fields_of_u) > 1:
            # Entries have units of their own: each is to be right relative to its largest value.
            entry = used % (term.s**2 if is_tangent else term.s)
            largest = np.zeros(entry.max(initial=0) + 1)
            np.maximum.at(largest, entry, np.abs(values).max(axis=0, initial=0.0))
            weights = 1 / largest[entry]
        found = find_interpolation(values * weights, n_draws // 2, tolerance=_TOLERANCE)
        if found is not None:
            cardinal = np.zeros((size, len(found.index)))
            cardinal[used] = found.cardinal * (weights[found.index] / weights[:, None])
            return Interpolation(used[found.index].astype(np.int64), cardinal)
    raise _too_many(problem)


def _values(
    problem: TransientProblem, term: TermEvaluator, z: Tensor, *, is_tangent: bool
) -> tuple[Array, Index, int]:
    """Values of draws, (n, n_used), which of the entries they are, and of how many."""
    parts: list[Array] = []
    used, size = np.zeros(0, dtype=np.int64), 0
    for part in z.split(_CHUNK):
        e = part.new_zeros(len(part), term.weights.numel(), term.s)
        function = term.tangents_of if is_tangent else term.fluxes_of
        values = function(e, problem.steady.prior.split(part)).flatten(2)
        flat = (values / term.weights[:, None]).flatten(1).numpy()
        if not parts:
            # Most entries of a tangent are zero.
            used = np.flatnonzero(flat.any(0))
            size = flat.shape[1]
        parts.append(flat[:, used])
    return np.concatenate(parts), used, size


def _too_many(problem: TransientProblem) -> ProblemError:
    return ProblemError(
        f"problem {problem.name!r} takes more than {_N_DRAWS[-1] // 2} operators: its coefficients "
        "vary too freely with z and t; give fields fewer terms, or a longer correlation length"
    )


def _affine(term: TermEvaluator, tangent: Index, load: Index) -> AffineTerm:
    """A term for its coefficients alone."""
    n, s = term.weights.numel(), term.s
    pair = (
        Interpolation(tangent, np.zeros((n * s * s, len(tangent)))),
        Interpolation(load, np.zeros((n * s, len(load)))),
    )
    return AffineTerm(term, *pair, AtPoints(np.zeros((n, s, 1))), torch.float64)
