"""Errors of many approximate solutions: Newton steps by GMRES, with the factors at a few of them.

    P^{-1} J(u; z) e  =  -P^{-1} r(u; z),      P = J(u_k; z_k),   z_k the nearest of a few draws

A factorisation costs n^3 on n nodes, an iteration n^2, and a draw needs some five.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.linalg.farthest_points import farthest_points
from pddlvm.linalg.krylov import gmres
from pddlvm.strong.jets import Jet, rows_of
from pddlvm.strong.newton import SpaceTimeNewton

__all__ = ["nearby_error"]

_CHUNK = 128
_BUDGET = 40
_MISSED = 2.0
"""Times the tolerance: what is farther off did not converge."""

Solve = Callable[[Tensor], Tensor]


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
    xi = xi.double().cpu()
    middle = int(xi.norm(dim=1).argmin())
    centres = torch.from_numpy(farthest_points(xi.numpy(), min(n_centres, len(xi)), middle))
    solves = [newton.factorise(rows_of(jet, k), z[k]) for k in centres.split(1)]
    nearest = torch.cdist(xi, xi[centres]).argmin(dim=1)
    found = []
    for rows in torch.arange(len(z)).split(_CHUNK):
        at, part = rows_of(jet, rows), z[rows]
        system = _System(newton, newton.tangent(at, part), solves, nearest[rows], unit)
        found.append(_of_chunk(system, at, part, tolerance))
    return torch.cat(found)


def _of_chunk(system: "_System", jet: Jet, z: Tensor, tolerance: float) -> Tensor:
    newton, budget = system.newton, torch.full((len(z),), _BUDGET)
    e = torch.zeros(len(z), newton.n_values, dtype=torch.float64)
    is_found = torch.ones(len(z), dtype=torch.bool)
    for _ in range(2):
        b = system.solve(newton.rows(newton.correct(jet, e, z), z))
        target = tolerance * b.norm(dim=1)
        change, _ = gmres(system, b, target, budget)
        is_found &= (b - system.apply(change)).norm(dim=1) <= _MISSED * target
        e = e + system.unit * change
    astray = (~is_found).nonzero()[:, 0]
    e[astray] = newton.error(rows_of(jet, astray), z[astray])
    return e


@dataclass(frozen=True)
class _System:
    """P^{-1} J for a batch; vectors are errors at the nodes over their unit, (batch, n_values)."""

    newton: SpaceTimeNewton
    tangent: Callable[[Tensor], Tensor]
    solves: list[Solve]
    nearest: Tensor
    unit: Tensor | float

    def solve(self, rows: Tensor) -> Tensor:
        """-P^{-1} of rows, the residual at the free nodes."""
        e = rows.new_zeros(len(rows), self.newton.n_values)
        for k in self.nearest.unique().tolist():
            own = self.nearest == k
            e[own] = self.solves[k](rows[own])
        return e / self.unit

    def apply(self, p: Tensor) -> Tensor:
        return -self.solve(self.tangent(self.unit * p))

    def precondition_skew(self, r: Tensor) -> Tensor:
        return r

    def riesz(self, r: Tensor) -> Tensor:
        return r
