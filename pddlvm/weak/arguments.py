"""What a point function reads and returns, of one field or of several.

one field:       function(u, du, x, k, ...)      by position, then parameter fields by name
fields u, p:     function(u, du, p, dp, x, k)    all by name, in any order, those it needs

Energy -> number;      Flux -> (f0, f1), or {"u": (f0, f1), "p": (f0, f1)}

Where an element has second derivatives, `ddu` is a further name, and a Flux may be (f0, f1, f2) of
f0 . v + f1 : grad v + f2 : grad grad v.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import argument_names
from pddlvm.basics.errors import ProblemError
from pddlvm.fem import FieldPart, Region

__all__ = [
    "call",
    "describe",
    "kind_of",
    "parameters_of",
    "stack_fluxes",
    "unknown_in_words",
    "wanted_of",
]

PointFunction = Callable[..., Any]

_FIRST = ("u", "du", "x")
"""Names that everybody gives to the first arguments; others are as good."""


def parameters_of(function: PointFunction, region: Region) -> tuple[str, ...]:
    """Names of the parameter fields that a function reads."""
    known = {"x"} | {name for part in region.parts for name in part.shapes}
    names = _names(function, region)
    if region.is_mixed:
        return tuple(name for name in names if name not in known)
    for place, name in enumerate(_FIRST):
        if name in names and names.index(name) != place:
            raise ProblemError(
                f"a function of one field is given u, du and x by position, in this order, and "
                f"parameter fields by name after them; this one reads {', '.join(names)}"
            )
    return tuple(name for name in names[len(_FIRST) :] if name not in known)


def call(
    function: PointFunction,
    region: Region,
    e: Tensor,
    x: Tensor,
    values: Mapping[str, Tensor | float],
) -> Any:
    """What a function returns at one point, e (s,)."""
    known = {"x": x}
    for name, place, shape in region.arguments:
        # Each operation costs as much at one point as at a thousand.
        known[name] = e[place].reshape(shape) if len(shape) > 1 else e[place]
    if not region.is_mixed:
        first = [known.pop(name) for name in _FIRST]
        further = {k: v for k, v in known.items() if k in _names(function, region)}
        return function(*first, **further, **values)
    read = _names(function, region)
    return function(**{k: v for k, v in known.items() if k in read}, **values)


def stack_fluxes(found: Any, region: Region, e: Tensor) -> Tensor:
    """(f0, f1) of all fields as one vector (s,), in the order of e."""
    if not region.is_mixed:
        return torch.cat(_rows(found, region.parts[0], e))
    if not isinstance(found, Mapping):
        raise ProblemError(
            f"it returns {kind_of(found)}, and a Flux of several fields is a mapping, "
            f"{_example(region)}; a field that is left out has no rows"
        )
    unknown = sorted(set(found) - {part.name for part in region.parts}, key=str)
    if unknown:
        raise ProblemError(
            f"it returns rows of {unknown}, and the fields are {[p.name for p in region.parts]}"
        )
    fluxes = []
    for part in region.parts:
        fluxes += _rows(found.get(part.name, (0, 0)), part, e, f" of {part.name!r}")
    return torch.cat(fluxes)


def kind_of(value: Any) -> str:
    """What a function returned, for messages."""
    if isinstance(value, Mapping):
        return f"rows of {sorted(value, key=str)}"
    if isinstance(value, tuple | list):
        return f"{len(value)} values"
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    return f"a tensor of shape {shape}" if shape else "one number"


def unknown_in_words(name: str, region: Region) -> str:
    """What a name may be that is no parameter field, for messages."""
    for part in region.parts:
        if name == "d" * len(part.shapes) + part.name and len(part.shapes) == 2:
            return (
                f"{name!r} would be second derivatives of {part.name!r}, which its element does "
                "not have: take one that does, fem.Space(mesh, element=skfem.ElementTriMorley()) "
                "for one, or a second field for the gradient"
            )
    if not region.is_mixed:
        return "Arguments after (u, du, x) must be names of fields"
    known = {"x"} | {name for part in region.parts for name in part.shapes}
    return f"Arguments other than {sorted(known)} must be names of fields"


def describe(region: Region) -> str:
    """What a function gets, with shapes, for messages."""
    shapes = {name: shape for part in region.parts for name, shape in part.shapes.items()}
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def wanted_of(region: Region) -> str:
    """What a Flux returns, for messages."""
    return (
        _example(region) if region.is_mixed else f"{_tuple(region.parts[0])}, f1 of the shape of du"
    )


def _rows(found: Any, part: FieldPart, e: Tensor, of: str = "") -> list[Tensor]:
    """f0, f1, ... of one field, flattened."""
    n, *sizes = part.sizes
    if not isinstance(found, tuple | list) or not 2 <= len(found) <= 1 + len(sizes):
        raise ProblemError(
            f"it returns {kind_of(found)}{of}, and a Flux is {_tuple(part)}; the density of an "
            "energy makes an Energy(region, function)"
        )
    f0 = _flat(found[0], e)
    if len(f0) not in (1, n):
        raise ProblemError(
            f"f0{of} has {len(f0)} entries, and {n} are expected, as many as the field has, or one"
        )
    rows = [f0.expand(n)]
    for order, ((name, shape), size) in enumerate(
        zip([*part.shapes.items()][1:], sizes, strict=True), 1
    ):
        value = found[order] if order < len(found) else 0
        is_zero = isinstance(value, int | float) and value == 0
        row = e.new_zeros(size) if is_zero else _flat(value, e)
        if len(row) != size:
            raise ProblemError(
                f"f{order}{of} has {len(row)} entries, and {size} are expected, in the shape "
                f"{shape} of {name}, or the number 0"
            )
        rows.append(row)
    return rows


def _flat(value: Any, e: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=e.dtype, device=e.device).flatten()


def _names(function: PointFunction, region: Region) -> tuple[str, ...]:
    names = (
        [name for part in region.parts for name in part.shapes] if region.is_mixed else ["u, du"]
    )
    return argument_names(function, f"lambda {', '.join(names)}, x, k: ...")


def _tuple(part: FieldPart) -> str:
    """(f0, f1), in words of the messages."""
    return "a pair (f0, f1)" if len(part.sizes) == 2 else "(f0, f1) or (f0, f1, f2)"


def _example(region: Region) -> str:
    return "{" + ", ".join(f'"{part.name}": (f0, f1)' for part in region.parts) + "}"
