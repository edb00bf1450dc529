"""A problem as torch modules of one dtype: residual, tangents and boundary values, batched.

r(u, z) = sum_regions B^T (w * sum_terms flux(B u, z, x)),   rows of the free dofs
u_D(z) at the Dirichlet dofs
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap

from pddlvm.basics.errors import ProblemError
from pddlvm.basics.owned import own_fields
from pddlvm.fem import FunctionSpace, Points
from pddlvm.linalg.operators import SparseOperator
from pddlvm.parameters.fields import Field, Fields
from pddlvm.physics import TermEvaluator

if TYPE_CHECKING:
    from pddlvm.problem import Problem

__all__ = ["Dirichlet", "Discretisation"]


@dataclass(frozen=True)
class Dirichlet:
    """u = value on a named boundary (None: on all of it).

    Attributes:
        boundary: name of the boundary.
        value: a number, or value(x, **fields) at one point: a number, or (c,) for a vector u.
        component: the only component of a vector u that is prescribed; None: all of them.
    """

    boundary: str | None
    value: float | Callable[..., Any] = 0.0
    component: int | None = None

    def __post_init__(self) -> None:
        own_fields(self)


class Discretisation(nn.Module):
    """The terms and boundary values of a problem as torch modules of one dtype.

    Below, u is (batch, n_dofs), z is (batch, d), and r is (batch, n_free).
    """

    free: Tensor
    terms: list[TermEvaluator]
    boundary: "list[BoundaryValues]"
    # Both are ModuleLists, declared by what they hold.

    def __init__(self, problem: "Problem", dtype: torch.dtype) -> None:
        super().__init__()
        self.prior = problem.prior
        self.n_dofs = problem.n_dofs
        self.register_buffer("free", torch.from_numpy(problem.free_dofs))
        # Terms of one region share its operator, and in the residual its strains and its adjoint.
        operators = {
            id(term.region): SparseOperator(term.region.matrix, dtype) for term in problem.terms
        }
        terms = [
            TermEvaluator(
                term,
                operators[id(term.region)],
                torch.from_numpy(term.region.weights.ravel()).to(dtype),
                term.region.points,
                problem.fields,
            )
            for term in problem.terms
        ]
        boundary = [
            BoundaryValues(d, problem.space, problem.fields, dtype) for d in problem.dirichlet
        ]
        self.terms = cast(list[TermEvaluator], nn.ModuleList(terms))
        self.boundary = cast(list[BoundaryValues], nn.ModuleList(boundary))

    @property
    def _groups(self) -> list[list[TermEvaluator]]:
        """Terms by region."""
        groups: dict[int, list[TermEvaluator]] = {}
        for term in self.terms:
            groups.setdefault(id(term.operator), []).append(term)
        return list(groups.values())

    def lift(self, z: Tensor) -> Tensor:
        """Dirichlet values, zero at the free degrees of freedom, (batch, n_dofs)."""
        u = torch.zeros(len(z), self.n_dofs, dtype=z.dtype, device=z.device)
        blocks = self.prior.split(z)
        for boundary in self.boundary:
            # Later conditions win where two boundaries meet.
            u = u.index_copy(1, boundary.dofs, boundary(blocks, len(z)))
        return u

    def energy(self, u: Tensor, z: Tensor) -> Tensor:
        """Pi(u, z), (batch,)."""
        blocks = self.prior.split(z)
        return torch.stack([term.energy(u, blocks) for term in self.terms]).sum(0)

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """r(u, z), (batch, n_free)."""
        blocks = self.prior.split(z)
        full = torch.zeros_like(u)
        for terms in self._groups:
            e = terms[0].strains(u)
            fluxes = reduce(torch.add, [term.fluxes_of(e, blocks) for term in terms])
            full = full + terms[0].operator.adjoint(fluxes.flatten(-2))
        return full[:, self.free]

    def tangents(self, u: Tensor, z: Tensor) -> list[Tensor]:
        """Pointwise tangents of each term, (batch, n_points, s, s) each."""
        blocks = self.prior.split(z)
        return [term.tangents(u, blocks) for term in self.terms]

    def apply_tangents(self, tangents: list[Tensor], v: Tensor) -> Tensor:
        """dr/du v for v of the free degrees of freedom, (batch, n_free) -> (batch, n_free)."""
        u = torch.zeros(len(v), self.n_dofs, dtype=v.dtype, device=v.device)
        u = u.index_copy(1, self.free, v)
        total = torch.zeros_like(u)
        for term, tangent in zip(self.terms, tangents, strict=True):
            de = torch.einsum("bpst,bpt->bps", tangent, term.strains(u))
            total = total + term.operator.adjoint(de.flatten(-2))
        return total[:, self.free]


class BoundaryValues(nn.Module):
    """Dirichlet values at the degrees of freedom of one boundary."""

    dofs: Tensor
    x: Tensor
    component: Tensor

    def __init__(
        self, condition: Dirichlet, space: FunctionSpace, fields: Fields, dtype: torch.dtype
    ) -> None:
        super().__init__()
        dofs = space.dofs_on(condition.boundary, condition.component)
        x = space.dof_points[dofs]
        self.value = condition.value
        self.n_components = space.n_components
        self.register_buffer("dofs", torch.from_numpy(dofs))
        self.register_buffer("x", torch.from_numpy(x).to(dtype))
        self.register_buffer("component", torch.from_numpy(space.dof_components[dofs]))
        self.numbers = {k: float(v) for k, v in fields.items() if not isinstance(v, Field)}
        names = _arguments(condition.value)
        unknown = [n for n in names if n not in fields]
        if unknown:
            raise ProblemError(
                f"a Dirichlet value reads fields {unknown} that the problem does not have; it has "
                f"{sorted(fields)}"
            )
        self.numbers = {n: self.numbers[n] for n in names if n in self.numbers}
        points = Points(x, space.cells_of_dofs(dofs))
        random = {n: fields[n] for n in names if isinstance(fields[n], Field)}
        self.fields = nn.ModuleDict(
            {n: f.at(points, dtype) for n, f in random.items() if isinstance(f, Field)}
        )

    def forward(self, z: Mapping[str, Tensor], batch: int) -> Tensor:
        """Values, (batch, n_boundary_dofs)."""
        if not callable(self.value):
            return self.x.new_full((batch, len(self.dofs)), float(self.value))
        function = self.value

        def at_dof(x: Tensor, component: Tensor, values: dict[str, Tensor]) -> Tensor:
            value = function(x, **values, **self.numbers)
            value = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1)
            return value.expand(self.n_components).gather(0, component[None])[0]

        values = {k: field(z[k]).expand(batch, -1) for k, field in self.fields.items()}
        if not values:
            one: Tensor = vmap(lambda x, c: at_dof(x, c, {}))(self.x, self.component)
            return one.expand(batch, -1)
        result: Tensor = vmap(vmap(at_dof), in_dims=(None, None, 0))(self.x, self.component, values)
        return result


def _arguments(value: float | Callable[..., Any]) -> tuple[str, ...]:
    """Names of the fields that a boundary value reads: its arguments after x."""
    return tuple(inspect.signature(value).parameters)[1:] if callable(value) else ()
