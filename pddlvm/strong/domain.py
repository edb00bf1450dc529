"""Boxes of named coordinates, and the reference coordinates that every computation lives on.

    x_i = X_i(s_i; z),   s_i in [-1, 1],   i = 1 ... k

A stretch X may depend on z: where a layer becomes thinner with a parameter, the reference
coordinate that follows it makes all solutions look alike, and few functions of s represent them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import argument_names, check_flag, check_real, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.basics.owned import own_fields, owned

__all__ = ["Affine", "Box", "Face", "Graded", "Sinh", "Stretch"]

Values = Mapping[str, Tensor]

_ROUNDING = 5e-4
"""Of an interval."""


@dataclass(frozen=True)
class Face:
    """The part of the boundary of a box where one coordinate is at its start or end.

    Attributes:
        coordinate: its name.
        is_end: whether it is the end.
        with_slope: of a hard face: is the derivative along the coordinate held there too?
    """

    coordinate: str
    is_end: bool
    with_slope: bool = False

    def __str__(self) -> str:
        return f"{'end' if self.is_end else 'start'} of {self.coordinate}"

    @property
    def side(self) -> tuple[str, bool]:
        """Where it is, whatever is held there."""
        return self.coordinate, self.is_end


class Box:
    """A product of named intervals, `Box(x=(0.0, 1.0), t=(0.0, 2.0))`."""

    def __init__(self, **intervals: tuple[float, float]) -> None:
        if not intervals:
            raise InputError("a box needs at least one coordinate: Box(x=(0.0, 1.0))")
        for name, ends in intervals.items():
            if not name.isidentifier() or name == "u" or name.startswith("u_"):
                raise InputError(
                    f"a coordinate cannot be named {name!r}: functions read it as an argument, and "
                    "u and u_... are the solution and its derivatives"
                )
            is_list = isinstance(ends, Sequence | np.ndarray | Tensor)
            if not is_list or getattr(ends, "ndim", 1) != 1 or len(ends) != 2:
                raise InputError(f"{name} needs an interval, {name}=(0.0, 1.0), got {ends!r}")
            low, high = ends
            are_real = all(isinstance(owned(end), Real) for end in ends)
            if not (are_real and -math.inf < low < high < math.inf):
                raise InputError(f"{name} needs finite low < high, got ({low}, {high})")
        self.intervals = {k: (float(low), float(high)) for k, (low, high) in intervals.items()}

    def __repr__(self) -> str:
        return f"Box({', '.join(f'{k}=({a:g}, {b:g})' for k, (a, b) in self.intervals.items())})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(self.intervals)

    def start(self, name: str, *, with_slope: bool = False) -> Face:
        """The face where a coordinate is smallest: for the time, where the initial values are.

        Args:
            name: of the coordinate.
            with_slope: of a hard face: hold the derivative along the coordinate too. In time it is
                the initial velocity, in space a clamped end.
        """
        return self._face(name, False, with_slope)

    def end(self, name: str, *, with_slope: bool = False) -> Face:
        """The face where a coordinate is largest; see `start`."""
        return self._face(name, True, with_slope)

    def _face(self, name: str, is_end: bool, with_slope: bool) -> Face:
        if not isinstance(name, str) or name not in self.intervals:
            raise InputError(f"no coordinate {name!r}; there are {list(self.intervals)}")
        check_flag(with_slope=with_slope)
        return Face(name, is_end, with_slope)

    def check(self, points: "Tensor | ArrayLike") -> Tensor:
        """Return points as a tensor (n_points, k), or an InputError that names one outside.

        By less than 5e-4 of an interval, the rounding of a table with four digits, a point may be:
        it stands for the closest point of the box.
        """
        k = len(self.intervals)
        what = f"end in the {k} coordinates {', '.join(self.names)}"
        points = check_vectors(points, "points", k, what, "; try torch.tensor(points)")
        if points.ndim != 2:
            raise InputError(f"points must have shape (n_points, {k}), got {tuple(points.shape)}")
        for i, (name, (low, high)) in enumerate(self.intervals.items()):
            x = points[..., i]
            slack = _ROUNDING * (high - low)
            outside = ~((x >= low - slack) & (x <= high + slack))
            if outside.any():
                raise InputError(
                    f"{name} = {x[outside][0].item():g} is outside the domain [{low:g}, {high:g}]"
                )
        ends = torch.tensor(list(self.intervals.values()), dtype=torch.float64).to(points)
        return points.clamp(*ends.unbind(-1))


class Stretch(ABC):
    """The map between one coordinate and its reference coordinate, both ways, elementwise."""

    @abstractmethod
    def place(self, s: Tensor, interval: tuple[float, float], values: Values) -> tuple[Tensor, ...]:
        """x, X' > 0, X'' ... up to the fourth derivative, at s in [-1, 1].

        Derivatives that vanish everywhere may be left out at the end.
        """

    @abstractmethod
    def locate(self, x: Tensor, interval: tuple[float, float], values: Values) -> Tensor:
        """s of x, the inverse of `place`."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the parameters that it depends on, none by default."""
        return ()


@dataclass(frozen=True)
class Affine(Stretch):
    """x = middle + half length * s."""

    def place(self, s: Tensor, interval: tuple[float, float], values: Values) -> tuple[Tensor, ...]:  # noqa: D102
        low, high = interval
        half = 0.5 * (high - low)
        return 0.5 * (low + high) + half * s, s.new_full((), half)

    def locate(self, x: Tensor, interval: tuple[float, float], values: Values) -> Tensor:  # noqa: D102
        low, high = interval
        return (x - 0.5 * (low + high)) / (0.5 * (high - low))


@dataclass(frozen=True)
class Graded(Stretch):
    """x = low + length (q^2 + a q) / (1 + a), q = (1 + s) / 2: fine at the start.

    For solutions that change fast after the start, as where initial and boundary values do not fit
    together.

    Attributes:
        a: > 0; dx/ds at the start is a / (2 + a) of that at the end.
    """

    a: float = 0.5

    def __post_init__(self) -> None:
        check_real(0, a=self.a)

    def place(self, s: Tensor, interval: tuple[float, float], values: Values) -> tuple[Tensor, ...]:  # noqa: D102
        low, high = interval
        q, scale = 0.5 * (1 + s), (high - low) / (1 + self.a)
        return (
            low + scale * (q * q + self.a * q),
            0.5 * scale * (2 * q + self.a),
            torch.full_like(s, 0.5 * scale),
        )

    def locate(self, x: Tensor, interval: tuple[float, float], values: Values) -> Tensor:  # noqa: D102
        low, high = interval
        y = (1 + self.a) * (x - low) / (high - low)
        # The larger root of q^2 + a q = y, without cancellation.
        q = 2 * y / (self.a + torch.sqrt(self.a**2 + 4 * y))
        return 2 * q - 1


@dataclass(frozen=True)
class Sinh(Stretch):
    """x = centre + width sinh(a + b s): fine around the centre at the scale `width`.

    Attributes:
        centre: of the layer.
        width: function of parameters, which are its arguments by name, to a positive tensor.
    """

    centre: float
    width: Callable[..., Tensor]

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(**{"centre of Sinh": self.centre})
        if not callable(self.width):
            raise InputError(f"width of Sinh must be a function of parameters, got {self.width!r}")

    @property
    def reads(self) -> tuple[str, ...]:  # noqa: D102
        return argument_names(self.width, "lambda viscosity: ...")

    def place(self, s: Tensor, interval: tuple[float, float], values: Values) -> tuple[Tensor, ...]:  # noqa: D102
        width, a, b = self._constants(interval, values)
        high, low = (width * e for e in (torch.exp(a + b * s), torch.exp(-a - b * s)))
        from_centre, slope = 0.5 * (high - low), 0.5 * b * (high + low)
        bend = b**2 * from_centre
        return self.centre + from_centre, slope, bend, b**2 * slope, b**2 * bend

    def locate(self, x: Tensor, interval: tuple[float, float], values: Values) -> Tensor:  # noqa: D102
        width, a, b = self._constants(interval, values)
        return (torch.asinh((x - self.centre) / width) - a) / b

    def _constants(
        self, interval: tuple[float, float], values: Values
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = self.width(**{name: values[name] for name in self.reads})
        low, high = (torch.asinh((end - self.centre) / width) for end in interval)
        return width, 0.5 * (low + high), 0.5 * (high - low)
