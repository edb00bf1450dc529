"""Functions at points whose arguments say what they read: `heat(u_t, u_x, u_xx, u, gamma, kappa)`.

`u` is the value, `u_x`, `u_xt` ... are derivatives, the names of coordinates and of fields stand
for themselves. All arguments are tensors that broadcast to (n_samples, n_points). Of several
unknowns u, v each has such names, and what there is for each of them is returned as a tuple.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.checks import argument_names, check_kind, check_real
from pddlvm.basics.errors import InputError, ProblemError
from pddlvm.fem import Points
from pddlvm.parameters.fields import Constant, Field
from pddlvm.strong.domain import Box, Face
from pddlvm.strong.jets import Index, Jet, parse_derivative
from pddlvm.strong.unknowns import Unknowns

__all__ = ["Condition", "FieldValues", "PointFunction", "Slopes"]

Slopes = list[list[Jet]]
"""Derivatives of each row of a function with respect to each unknown, u, u_x, ... that it reads."""

_TABLE = 8193
_ONE = Unknowns()


@dataclass(frozen=True)
class Condition:
    """A boundary or initial condition that holds up to a tolerance: rows of the residual.

    Attributes:
        face: where it holds, from `box.start(name)` or `box.end(name)`.
        function: its residual, of arguments by name like that of the PDE: `lambda u, x: u - x`.
        tolerance: standard deviation of its residual, > 0, in its units.
        field: of several unknowns, the one whose condition it is: on the face it takes the place of
            its equation.
    """

    face: Face
    function: Callable[..., Tensor]
    tolerance: float = 1e-3
    field: str = "u"

    def __post_init__(self) -> None:
        check_kind(Face, face=self.face)
        check_kind(str, field=self.field)
        if self.face.with_slope:
            raise InputError(
                f"with_slope at the {self.face} is for hard faces; a condition on a derivative is "
                "a Condition of its own, as lambda u_t: u_t"
            )
        if not callable(self.function):
            raise InputError(f"function must be a function, as lambda u: u, got {self.function!r}")
        check_real(0, **{"tolerance of a condition": self.tolerance})


class PointFunction:
    """A function with the derivatives, coordinates and fields that it reads.

    Args:
        function: elementwise torch function of arguments by name.
        box: names the coordinates.
        fields: names of the fields.
        unknowns: names of the unknowns.

    Raises:
        ProblemError: an argument is none of these.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        box: Box,
        fields: Iterable[str],
        unknowns: Unknowns = _ONE,
    ) -> None:
        if not callable(function):
            raise ProblemError(
                f"a problem in strong form is made of functions, got {type(function).__name__}: "
                f"write lambda {box.names[0]}: ..."
            )
        self.function = function
        self.unknowns = unknowns
        self.name = getattr(function, "__name__", "the function")
        self.derivatives: dict[str, tuple[int, Index]] = {}
        self.others: list[str] = []
        known = {*box.names, *fields}
        for name in argument_names(function, f"lambda {box.names[0]}: ..."):
            if name in known:
                self.others.append(name)
                continue
            found = [
                (a, index)
                for a, u in enumerate(unknowns.names)
                if (index := parse_derivative(name, box.names, u)) is not None
            ]
            if not found:
                u = unknowns.names[0]
                raise ProblemError(
                    f"{self.name!r} has an argument {name!r}, which is neither "
                    f"{' or '.join(unknowns.names)} or a derivative ({u}_{box.names[0]} ...), nor "
                    f"a coordinate ({', '.join(box.names)}), nor a field "
                    f"({', '.join(fields) or 'there are none'})"
                )
            self.derivatives[name] = found[0]

    def __call__(self, jet: Jet, values: Mapping[str, Tensor]) -> Tensor:
        """The function, (n_samples, n_points), or the stack of what it gives for each unknown.

        Args:
            jet: u and its derivatives, (n_samples, n_points) each, or their stacks.
            values: coordinates and fields by name, broadcastable to that.
        """
        parts = {index: self.unknowns.parts(u) for index, u in jet.items()}
        arguments = {name: parts[index][a] for name, (a, index) in self.derivatives.items()}
        result = self.function(**arguments, **{name: values[name] for name in self.others})
        return self.unknowns.stacked(result)

    def linearise(self, jet: Jet, values: Mapping[str, Tensor]) -> tuple[Tensor, Slopes]:
        """The function and its derivatives with respect to u, u_x, ..., at the jet."""
        wanted = sorted({index for _, index in self.derivatives.values()})
        with torch.enable_grad():
            at = {index: u.detach().requires_grad_() for index, u in jet.items()}
            r = self(at, values)
            rows = list(r) if r.ndim > 2 else [r]
            found = [
                torch.autograd.grad(
                    row.sum(),
                    [at[index] for index in wanted],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for row in rows
            ]
        read = set(self.derivatives.values())
        slopes = [
            [
                {
                    i: self.unknowns.parts(g)[a]
                    for i, g in zip(wanted, of_row, strict=True)
                    if (a, i) in read
                }
                for a in range(self.unknowns.n)
            ]
            for of_row in found
        ]
        return r.detach(), slopes


class FieldValues:
    """Values of all fields at points, for a batch of z.

    Args:
        fields: name -> field; one that is not `Constant` varies along one coordinate.
        along: name of such a field -> its coordinate.
        box: the domain.
    """

    def __init__(
        self, fields: Mapping[str, Field | float], along: Mapping[str, str], box: Box
    ) -> None:
        self._fields = fields
        self._box = box
        self._slices: dict[str, slice] = {}
        self._along: dict[str, str] = {}
        start = 0
        for name, field in fields.items():
            if not isinstance(field, Field):
                continue
            self._slices[name] = slice(start, start + field.size)
            start += field.size
            if isinstance(field, Constant):
                continue
            if along.get(name) not in box.names:
                raise ProblemError(
                    f"field {name!r} varies in space: say along which coordinate, "
                    f"along={{{name!r}: {box.names[0]!r}}}"
                )
            self._along[name] = along[name]

    def __call__(self, z: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fields by name, (n_samples, 1) where constant, else (n_samples, n_points).

        Args:
            z: (n_samples, d).
            x: coordinates by name, (n_points,) or (n_samples, n_points); may be empty, and then
                the fields that vary are left out.
        """
        found: dict[str, Tensor] = {}
        for name, field in self._fields.items():
            if not isinstance(field, Field):
                found[name] = torch.as_tensor(float(field), dtype=torch.float64).to(z)
                continue
            part = z[:, self._slices[name]]
            if name not in self._along:
                found[name] = field.link(field.shift + part)
            elif self._along[name] in x:
                shapes = self._interpolate(name, x[self._along[name]])
                found[name] = field.link(
                    field.shift + (shapes * field.coefficients(part)[:, None, :]).sum(-1)
                )
        return found

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """Shapes of the fields that vary, along their coordinates, (n_table, n_shapes) each."""
        found = {}
        for name, coordinate in self._along.items():
            field = self._fields[name]
            assert isinstance(field, Field)
            x = torch.linspace(*self._box.intervals[coordinate], _TABLE, dtype=torch.float64)
            found[name] = field.shapes(Points(x[:, None].numpy(), np.zeros(_TABLE, dtype=np.int64)))
        return found

    def _interpolate(self, name: str, x: Tensor) -> Tensor:
        """psi_i at x by cubic interpolation in a fine table, (..., n_shapes).

        Linear interpolation of a smooth field is off by 1e-6: more than a corrected solution is.
        """
        low, high = self._box.intervals[self._along[name]]
        table = self.tables[name].to(x)
        at = ((x - low) / (high - low)).clamp(0, 1) * (_TABLE - 1)
        left = at.floor().long().clamp(1, _TABLE - 3)
        s = at - left
        # Lagrange's polynomials of the points -1, 0, 1, 2.
        before, after = s * (s - 1) / 6, s * (s + 1) / 6
        inside = (s + 1) * (s - 2) / 2
        weights = (-before * (s - 2), inside * (s - 1), -inside * s, after * (s - 1))
        parts = (w[..., None] * table[left + k] for k, w in enumerate(weights, start=-1))
        return torch.stack(list(parts)).sum(0)
