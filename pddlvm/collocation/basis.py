"""The learnt functions F phi_j where they are needed: at nodes, on grids, at points.

A solution on a tensor grid is interpolated from the Chebyshev nodes, where the functions are known
once and for all: two small matrix products per query instead of a network at every grid point.
"""

from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from pddlvm.basics.checks import check_predictions
from pddlvm.basics.errors import InputError
from pddlvm.collocation.likelihood import Collocation
from pddlvm.collocation.trunk import Trunk
from pddlvm.strong import chebyshev
from pddlvm.strong.interpolation import interpolate
from pddlvm.strong.jets import Jet
from pddlvm.strong.points import Sobol
from pddlvm.strong.problem import CollocationProblem

__all__ = ["LearntBasis"]

_N_WATCHED = 256


class LearntBasis(nn.Module):
    """u = lift + U F sum_j c_j phi_j, phi the trunk.

    c and phi have no units and are of size one; U and the lift have, and u is float64.

    Args:
        problem: geometry, lift and factor.
        trunk: phi; of several unknowns it has a value for each, and c is that of all.
        nodes: reference coordinates of all nodes, (n_nodes,) each.
        unit: U, the size of u less its lift, () or (n_unknowns,), float64.
        seed: of the points at which the residual of a query is watched.
    """

    at_nodes: Tensor
    watched_points: Tensor
    unit: Tensor

    def __init__(
        self,
        problem: CollocationProblem,
        trunk: Trunk,
        nodes: tuple[Tensor, ...],
        unit: Tensor,
        seed: int,
    ) -> None:
        super().__init__()
        self.problem = problem
        self.trunk = trunk
        self.nodes = nodes
        like, q = trunk.layers[-1].weight, problem.unknowns.n
        self.register_buffer("at_nodes", like.new_zeros(q * len(nodes[0]), len(like) // q))
        self.register_buffer("unit", unit)
        points = Sobol().draw(_N_WATCHED, len(nodes), torch.Generator().manual_seed(seed))
        self.register_buffer("watched_points", points)

    def freeze(self) -> None:
        """Evaluate the functions at the nodes and at the watched points, after a training."""
        with torch.no_grad():
            found = self.at(torch.stack(self.nodes, dim=-1)).basis[()]
            self.at_nodes.copy_(found.flatten(0, -2))
        self.__dict__.pop("watched", None)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # What is cached does not move with the module.
        self.__dict__.pop("watched", None)
        return super()._apply(fn, recurse)

    @cached_property
    def watched(self) -> Collocation:
        """The functions at fixed points, for the residual of a query."""
        with torch.no_grad():
            return self.at(self.watched_points)

    def at(self, s: Tensor) -> Collocation:
        """The functions at points s (n_points, k) of the reference box."""
        return Collocation.at(self.problem, self.trunk, s, self.unit)

    def nodal(self, c: Tensor) -> Tensor:
        """u less its lift at the nodes, (batch, n_values), float64."""
        return self.unit_at_nodes * (c @ self.at_nodes.T).double()

    @property
    def unit_at_nodes(self) -> Tensor:
        """U of each value at the nodes, () or (n_values,)."""
        return self.problem.unknowns.beside_vectors(self.unit, len(self.nodes[0]))

    def norm(self, u: Tensor) -> Tensor:
        """Root mean square of u on the grid; of several unknowns each is relative to U."""
        unknowns = self.problem.unknowns
        if unknowns.n > 1:
            u = u / unknowns.beside_vectors(self.unit, len(self.problem.grid_points)).to(u)
        return u.square().mean(-1).sqrt()

    def on_grid(self, c: Tensor, z: Tensor) -> Tensor:
        """u on the grid, (batch, n_dofs)."""
        return self.field_of(self.nodal(c), z)

    def field_of(self, n: Tensor, z: Tensor, points: Tensor | None = None) -> Tensor:
        """u at points or, by default, on the grid, from `nodal` (batch, n_values)."""
        z = z.double()
        x = (self.problem.grid_points if points is None else points).to(z).unbind(-1)
        lift = self.problem.ansatz.lift(z, x)
        return interpolate(self.problem.form, n, z, points) + lift

    def at_points(self, c: Tensor, z: Tensor, points: Tensor) -> Tensor:
        """u at points (n_points, k), from the functions themselves, a vector (batch, n)."""
        ansatz, unknowns, z = self.problem.ansatz, self.problem.unknowns, z.double()
        x = points.to(z).unbind(-1)
        s = torch.stack(torch.broadcast_tensors(*ansatz.locate(x, z)), dim=-1).to(c)
        flat = s.reshape(-1, s.shape[-1]).unbind(-1)
        basis = ansatz.weighted(self.trunk({(): ansatz.features(flat)[()]}), flat)[()]
        # Of several unknowns beside an axis of samples, be there one or not.
        batch = s.shape[:-2] or ([1] if unknowns.n > 1 else [])
        basis = basis.reshape(*basis.shape[:-2], *batch, len(points), -1)
        n = unknowns.join((basis @ c[..., None])[..., 0].double())
        return unknowns.beside_vectors(self.unit, len(points)) * n + ansatz.lift(z, x)

    def check(self, mean: Tensor, xi: Tensor, dtype: torch.dtype) -> None:
        """Refuse predictions (batch, n) at xi that are not finite, or not in a dtype."""
        check_predictions(mean, xi)
        info, size = torch.finfo(dtype), float(mean.abs().max()) if mean.numel() else 0.0
        if size > info.max or float(self.unit.min()) < info.tiny:
            raise InputError(
                f"solutions of problem {self.problem.name!r} have a size of about "
                f"{float(self.unit.min()):.0e}, which leaves the range of {dtype}: ask in float64, "
                "model.forward(z.double()), or choose other units"
            )

    def watched_jet(self, c: Tensor, z: Tensor, nodal: Jet) -> tuple[Jet, dict[str, Tensor]]:
        """Jet of u and values at the watched points.

        Args:
            c: (batch, m).
            z: (batch, d).
            nodal: jet along x of u less its lift, at the nodes, stacks of (batch, n_nodes) each: it
                is then that of the polynomial there, whatever c is; or empty.
        """
        if not nodal:
            return self.watched.jet(self.problem, c, z)
        ansatz, s = self.problem.ansatz, self.watched.s
        matrices = self.problem.form.matrices(s, self.problem.nodes)
        x = ansatz.place(s, z).x
        lift, jet = ansatz.lift_jet(z, x), {}
        for i, n in nodal.items():
            found = chebyshev.at_points(n.reshape(-1, *self.problem.nodes), matrices)
            jet[i] = found.reshape(*n.shape[:-1], -1) + lift[i]
        return jet, ansatz.values(z, x)
