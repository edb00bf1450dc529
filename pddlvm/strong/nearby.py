"""Errors of many approximate solutions: Newton steps by GMRES, with the factors at a few of them.

    P^{-1} J(u; z) e  =  -P^{-1} r(u; z),      P = J(u_k; z_k),   z_k the nearest of a few draws

A factorisation costs n^3 on n nodes, an iteration n^2, and a draw needs some five. In three
dimensions each draw has a P of its own, see `pddlvm.strong.separable`.
"""

import torch
from torch import Tensor

from pddlvm.linalg.farthest_points import farthest_points
from pddlvm.strong.jets import Jet, rows_of
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.preconditioned import Preconditioned, Solve

__all__ = ["nearby_error"]

_CHUNK, _MOST_VALUES = 128, 2**18
"""Samples at a time, and their values at nodes."""
_BUDGET = 40


def nearby_error(
    newton: SpaceTimeNewton,
    jet: Jet,
    z: Tensor,
    xi: Tensor,
    *,
    n_centres: int,
    tolerance: float = 1e-3,
    unit: Tensor | float = 1.0,
) -> Tensor:
    """About what `newton.error` gives, two steps of Newton's method, (n_samples, n_values).

    Args:
        newton: on the nodes.
        jet: u and its derivatives along x at the nodes, (n_samples, n_nodes) each.
        z: (n_samples, d), float64.
        xi: the same in standard coordinates, which say what is near.
        n_centres: factorisations.
        tolerance: part of each step that may be left; its square is left of the error.
        unit: in which parts are measured, of all values or of each, (n_values,).
    """
    chunk = max(1, min(_CHUNK, _MOST_VALUES // newton.n_values))
    inverses = _Nearest(newton, jet, z, xi, n_centres) if not newton.is_separable else None
    found = []
    for rows in torch.arange(len(z)).split(chunk):
        at, part = rows_of(jet, rows), z[rows]
        inverse = newton.separable(at, part) if inverses is None else inverses.of(rows)
        system = Preconditioned(newton.tangent(at, part), inverse, unit)
        found.append(_of_chunk(newton, system, at, part, tolerance))
    return torch.cat(found)


def _of_chunk(
    newton: SpaceTimeNewton, system: Preconditioned, jet: Jet, z: Tensor, tolerance: float
) -> Tensor:
    e = torch.zeros(len(z), newton.n_values, dtype=torch.float64)
    is_found = torch.ones(len(z), dtype=torch.bool)
    for _ in range(2):
        rows = newton.rows(newton.correct(jet, e, z), z)
        change, converged = system.error(rows, tolerance, _BUDGET)
        is_found &= converged
        e = e + change
    astray = (~is_found).nonzero()[:, 0]
    e[astray] = newton.error(rows_of(jet, astray), z[astray])
    return e


class _Nearest:
    """The factors at the nearest of a few draws."""

    def __init__(
        self, newton: SpaceTimeNewton, jet: Jet, z: Tensor, xi: Tensor, n_centres: int
    ) -> None:
        xi = xi.double().cpu()
        middle = int(xi.norm(dim=1).argmin())
        centres = torch.from_numpy(farthest_points(xi.numpy(), min(n_centres, len(xi)), middle))
        self._solves = [newton.factorise(rows_of(jet, k), z[k]) for k in centres.split(1)]
        self._nearest = torch.cdist(xi, xi[centres]).argmin(dim=1)
        self._n_values = newton.n_values

    def of(self, samples: Tensor) -> Solve:
        """-P^-1 of some samples."""
        nearest = self._nearest[samples]

        def solve(rows: Tensor) -> Tensor:
            e = rows.new_zeros(len(rows), self._n_values)
            for k in nearest.unique().tolist():
                own = nearest == k
                e[own] = self._solves[k](rows[own])
            return e

        return solve
