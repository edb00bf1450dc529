"""Functions at points whose arguments say what they read: `heat(u_t, u_x, u_xx, u, gamma, kappa)`.

`u` is the value, `u_x`, `u_xt` ... are derivatives, the names of coordinates and of fields stand
for themselves. All arguments are tensors that broadcast to (n_samples, n_points).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.checks import argument_names, check_kind, check_real
from pddlvm.basics.errors import InputError, ProblemError
from pddlvm.fem import Points
from pddlvm.parameters.fields import Constant, Field
from pddlvm.strong.domain import Box, Face
from pddlvm.strong.jets import Index, Jet, parse_derivative

__all__ = ["Condition", "FieldValues", "PointFunction"]

_TABLE = 8193


@dataclass(frozen=True)
class Condition:
    """A boundary or initial condition that holds up to a tolerance: rows of the residual.

    Attributes:
        face: where it holds, from `box.start(name)` or `box.end(name)`.
        function: its residual, of arguments by name like that of the PDE: `lambda u, x: u - x`.
        tolerance: standard deviation of its residual, > 0, in its units.
    """

    face: Face
    function: Callable[..., Tensor]
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_kind(Face, face=self.face)
        if not callable(self.function):
            raise InputError(f"function must be a function, as lambda u: u, got {self.function!r}")
        check_real(0, **{"tolerance of a condition": self.tolerance})


class PointFunction:
    """A function with the derivatives, coordinates and fields that it reads.

    Args:
        function: elementwise torch function of arguments by name.
        box: names the coordinates.
        fields: names of the fields.

    Raises:
        ProblemError: an argument is none of these.
    """

    def __init__(self, function: Callable[..., Tensor], box: Box, fields: Iterable[str]) -> None:
        if not callable(function):
            raise ProblemError(
                f"a problem in strong form is made of functions, got {type(function).__name__}: "
                f"write lambda {box.names[0]}: ..."
            )
        self.function = function
        self.name = getattr(function, "__name__", "the function")
        self.derivatives: dict[str, Index] = {}
        self.others: list[str] = []
        known = {*box.names, *fields}
        for name in argument_names(function, f"lambda {box.names[0]}: ..."):
            index = parse_derivative(name, box.names)
            if index is not None and name not in known:
                self.derivatives[name] = index
            elif name in known:
                self.others.append(name)
            else:
                raise ProblemError(
                    f"{self.name!r} has an argument {name!r}, which is neither u or a derivative "
                    f"(u_{box.names[0]} ...), nor a coordinate ({', '.join(box.names)}), nor a "
                    f"field ({', '.join(fields) or 'there are none'})"
                )

    def __call__(self, jet: Jet, values: Mapping[str, Tensor]) -> Tensor:
        """The function, (n_samples, n_points).

        Args:
            jet: u and its derivatives, (n_samples, n_points) each.
            values: coordinates and fields by name, broadcastable to that.
        """
        arguments = {name: jet[index] for name, index in self.derivatives.items()}
        result = self.function(**arguments, **{name: values[name] for name in self.others})
        return result

    def linearise(self, jet: Jet, values: Mapping[str, Tensor]) -> tuple[Tensor, Jet]:
        """The function and its derivatives with respect to u, u_x, ..., at the jet."""
        with torch.enable_grad():
            at = {index: u.detach().requires_grad_() for index, u in jet.items()}
            r = self(at, values)
            wanted = list(self.derivatives.values())
            found = torch.autograd.grad(
                r.sum(), [at[i] for i in wanted], allow_unused=True, materialize_grads=True
            )
        return r.detach(), dict(zip(wanted, found, strict=True))


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
                found[name] = torch.as_tensor(float(field)).to(z)
                continue
            part = z[:, self._slices[name]]
            if name not in self._along:
                found[name] = field.link(field.shift + part)
            elif self._along[name] in x:
                shapes = self._interpolate(name, x[self._along[name]])
                found[name] = field.link(field.shift + (shapes * part[:, None, :]).sum(-1))
        return found

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """Shapes of the fields that vary, along their coordinates, (n_table, size) each."""
        found = {}
        for name, coordinate in self._along.items():
            field = self._fields[name]
            assert isinstance(field, Field)
            x = torch.linspace(*self._box.intervals[coordinate], _TABLE, dtype=torch.float64)
            found[name] = field.shapes(Points(x[:, None].numpy(), np.zeros(_TABLE, dtype=np.int64)))
        return found

    def _interpolate(self, name: str, x: Tensor) -> Tensor:
        """psi_i at x by cubic interpolation in a fine table, (..., size).

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
