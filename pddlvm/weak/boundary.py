"""Dirichlet conditions, and their values at the degrees of freedom of a boundary.

u = u_D(x; fields)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap

from pddlvm.basics.checks import argument_names
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.owned import own_fields
from pddlvm.fem import FunctionSpace, Points
from pddlvm.fem.mixed import field_of
from pddlvm.fem.where import Where
from pddlvm.parameters.fields import Field, Fields

__all__ = ["BoundaryValues", "Dirichlet", "Prescribed"]


@dataclass(frozen=True)
class Dirichlet:
    """u = value on a part of the boundary (None: on all of it).

    Attributes:
        boundary: its name or number in the mesh; or a function that is true where it is, of the
            middle x (dim,) of a facet, `lambda x: x[0] < 1e-9`; or `fem.Facets` or `fem.Nodes`; or
            a `fem.Subdomain`, inside of which u is prescribed everywhere.
        value: a number, or value(x, **fields) at one point: a number, or (c,) for a vector u.
        component: the only component of a vector u that is prescribed; None: all of them.
        field: of a `fem.MixedSpace`, the one that is prescribed.
    """

    boundary: Where | None
    value: float | Callable[..., Any] = 0.0
    component: int | None = None
    field: str = "u"

    def __post_init__(self) -> None:
        own_fields(self)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields that the value reads: its arguments after x."""
        return argument_names(self.value, "lambda x: ...")[1:] if callable(self.value) else ()

    def dofs_of(self, space: FunctionSpace) -> NDArray[np.int64]:
        """Degrees of freedom that are prescribed.

        Raises:
            MeshError, ProblemError: no such part of the boundary, field or component.
        """
        within, own = field_of(space, self.field)
        return within.start + own.dofs_on(self.boundary, self.component)


class Prescribed(Protocol):
    """Values of a field of the solution at some of its nodes: of a boundary, or of all."""

    @property
    def value(self) -> float | Callable[..., Any]:
        """A number, or a function of one point x and of fields."""

    @property
    def field(self) -> str:
        """Of a `fem.MixedSpace`, the one that is prescribed."""

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the parameter fields that the value reads."""

    def dofs_of(self, space: FunctionSpace) -> NDArray[np.int64]:
        """Degrees of freedom that are prescribed."""


class BoundaryValues(nn.Module):
    """Prescribed values at their degrees of freedom; `what` they are is for messages."""

    dofs: Tensor
    x: Tensor
    component: Tensor

    def __init__(
        self,
        condition: Prescribed,
        space: FunctionSpace,
        fields: Fields,
        dtype: torch.dtype,
        what: str = "Dirichlet value",
    ) -> None:
        super().__init__()
        dofs = condition.dofs_of(space)
        within, own = field_of(space, condition.field)
        x = own.dof_points[dofs - within.start]
        self.value = condition.value
        self.n_components = own.n_components
        self.register_buffer("dofs", torch.from_numpy(dofs))
        self.register_buffer("x", torch.from_numpy(x).to(dtype))
        self.register_buffer("component", torch.from_numpy(own.dof_components[dofs - within.start]))
        self.numbers = {k: float(v) for k, v in fields.items() if not isinstance(v, Field)}
        names = condition.field_names
        unknown = [n for n in names if n not in fields]
        if unknown:
            raise ProblemError(
                f"the {what} reads fields {unknown} that the problem does not have; it has "
                f"{sorted(fields)}"
            )
        self.numbers = {n: self.numbers[n] for n in names if n in self.numbers}
        points = Points(x, own.cells_of_dofs(dofs - within.start))
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
