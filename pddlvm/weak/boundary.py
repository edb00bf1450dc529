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

from pddlvm.basics.checks import argument_names, check_flag
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.owned import own_fields
from pddlvm.fem import FunctionSpace, Points, Space
from pddlvm.fem.mixed import field_of
from pddlvm.fem.supported import supported
from pddlvm.fem.traces import Trace, trace_of
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
        slopes: of a plate or a beam, hold its slopes at zero too: clamped. False: u alone, simply
            supported.

    Of elements of H(div) the value is the flux u . n through the boundary, outwards, of those of
    H(curl) in the plane u . t, along it; or a vector (dim,), whose part in that direction counts.
    """

    boundary: Where | None
    value: float | Callable[..., Any] = 0.0
    component: int | None = None
    field: str = "u"
    slopes: bool = True

    def __post_init__(self) -> None:
        check_flag(slopes=self.slopes)
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
        return within.start + supported(own, self.boundary, self.component, slopes=self.slopes)

    def trace_of(self, space: FunctionSpace) -> Trace | None:
        """How fluxes and circulations follow from the value, where it is one of these."""
        return trace_of(field_of(space, self.field)[1], self.boundary)


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

    def trace_of(self, space: FunctionSpace) -> Trace | None:
        """How these follow from the value, where they are no values of u at points."""


class BoundaryValues(nn.Module):
    """Prescribed values at their degrees of freedom; `what` they are is for messages."""

    dofs: Tensor
    x: Tensor
    part: Tensor
    is_value: Tensor
    fit: Tensor | None

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
        inside = dofs - within.start
        trace = condition.trace_of(space)
        if trace is None:
            _check_can_be_given(own, inside, condition.value, what)
            points = Points(own.dof_points[inside], own.cells_of_dofs(inside))
            part, fit = torch.from_numpy(own.dof_components[inside]), None
        else:
            points = trace.points
            part, fit = (torch.from_numpy(a).to(dtype) for a in (trace.direction, trace.fit))
            inside = trace.dofs.ravel()
        self.value = condition.value
        self.n_components = own.n_components
        self.register_buffer("dofs", torch.from_numpy(inside + within.start))
        self.register_buffer("x", torch.from_numpy(points.x).to(dtype))
        self.register_buffer("part", part)
        self.register_buffer("fit", fit)
        self.register_buffer("is_value", torch.from_numpy(own.is_value[inside]))
        self.numbers = {k: float(v) for k, v in fields.items() if not isinstance(v, Field)}
        names = condition.field_names
        unknown = [n for n in names if n not in fields]
        if unknown:
            raise ProblemError(
                f"the {what} reads fields {unknown} that the problem does not have; it has "
                f"{sorted(fields)}"
            )
        self.numbers = {n: self.numbers[n] for n in names if n in self.numbers}
        random = {n: fields[n] for n in names if isinstance(fields[n], Field)}
        self.fields = nn.ModuleDict(
            {n: f.at(points, dtype) for n, f in random.items() if isinstance(f, Field)}
        )

    def forward(self, z: Mapping[str, Tensor], batch: int) -> Tensor:
        """Values, (batch, n_boundary_dofs)."""
        found = self._at_points(z, batch)
        if self.fit is not None:
            at_facets = found.reshape(batch, len(self.fit), -1)
            return torch.einsum("fkq,bfq->bfk", self.fit, at_facets).flatten(1)
        # Slopes of a constant are zero.
        return torch.where(self.is_value, found, 0.0)

    def _at_points(self, z: Mapping[str, Tensor], batch: int) -> Tensor:
        """What is given at each point, (batch, n_points)."""
        if not callable(self.value):
            return self.x.new_full((batch, len(self.x)), float(self.value))
        function = self.value

        def at_point(x: Tensor, part: Tensor, values: dict[str, Tensor]) -> Tensor:
            value = function(x, **values, **self.numbers)
            value = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1)
            if self.fit is None:
                return value.expand(self.n_components).gather(0, part[None])[0]
            return value[0] if len(value) == 1 else value @ part

        values = {k: field(z[k]).expand(batch, -1) for k, field in self.fields.items()}
        if not values:
            one: Tensor = vmap(lambda x, c: at_point(x, c, {}))(self.x, self.part)
            return one.expand(batch, -1)
        result: Tensor = vmap(vmap(at_point), in_dims=(None, None, 0))(self.x, self.part, values)
        return result


def _check_can_be_given(
    space: FunctionSpace, dofs: NDArray[np.int64], value: Any, what: str
) -> None:
    """Raise a ProblemError where values of u do not say what degrees of freedom are."""
    if space.is_value[dofs].all() or not isinstance(space, Space):
        return
    if space.part.derived[0][0] != "gradient":
        if callable(value) or value != 0:
            raise ProblemError(
                f"the {what} must be the number 0 here: degrees of freedom are fluxes through "
                "facets or along edges. Another one is possible on boundaries, for elements of "
                "H(div) and for those of H(curl) in the plane; else subtract a function that has "
                "it from the solution"
            )
    elif callable(value):
        raise ProblemError(
            f"the {what} is a function of x, and some degrees of freedom are slopes or bubbles, "
            "which it does not say: give a number, leave slopes free with slopes=False, or "
            "subtract a function that has these values from the solution"
        )
