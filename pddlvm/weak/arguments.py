"""What a point function reads and returns, of one field or of several.

one field:       function(u, du, x, k, ...)      by position, then parameter fields by name
fields u, p:     function(u, du, p, dp, x, k)    all by name, in any order, those it needs

Energy -> number;      Flux -> (f0, f1), or {"u": (f0, f1), "p": (f0, f1)}
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import argument_names
from pddlvm.basics.errors import ProblemError
from pddlvm.fem import Region

__all__ = [
    "arguments_in_words",
    "call",
    "describe",
    "kind_of",
    "parameters_of",
    "stack_fluxes",
    "wanted_of",
]

PointFunction = Callable[..., Any]

_FIRST = ("u", "du", "x")
"""Names that everybody gives to the first arguments; others are as good."""


def parameters_of(function: PointFunction, region: Region) -> tuple[str, ...]:
    """Names of the parameter fields that a function reads."""
    if not region.parts:
        names = argument_names(function, "lambda u, du, x, k: ...")
        for place, name in enumerate(_FIRST):
            if name in names and names.index(name) != place:
                raise ProblemError(
                    f"a function of one field is given u, du and x by position, in this order, and "
                    f"parameter fields by name after them; this one reads {', '.join(names)}"
                )
        return names[len(_FIRST) :]
    return tuple(name for name in _names(function, region) if name not in _arguments(region))


def call(
    function: PointFunction,
    region: Region,
    e: Tensor,
    x: Tensor,
    values: Mapping[str, Tensor | float],
) -> Any:
    """What a function returns at one point, e (s,)."""
    if not region.parts:
        n = region.size_u
        u, du = e[:n].reshape(region.u_shape), e[n:].reshape(region.du_shape)
        return function(u, du, x, **values)
    known, pieces = {"x": x}, e.split([n for part in region.parts for n in part.sizes])
    for i, part in enumerate(region.parts):
        known[part.name] = pieces[2 * i].reshape(part.u_shape)
        known[f"d{part.name}"] = pieces[2 * i + 1].reshape(part.du_shape)
    read = _names(function, region)
    return function(**{k: v for k, v in known.items() if k in read}, **values)


def stack_fluxes(found: Any, region: Region, e: Tensor) -> Tensor:
    """(f0, f1) of all fields as one vector (s,), in the order of e."""
    if not region.parts:
        return torch.cat([*_pair(found, region.size_u, e)])
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
        n, n_gradient = part.sizes
        if part.name not in found:
            fluxes.append(torch.zeros_like(e[: n + n_gradient]))
            continue
        pair = found[part.name]
        if isinstance(pair, tuple | list) and len(pair) == 2 and _is_zero(pair[1]):
            pair = pair[0], e.new_zeros(n_gradient)
        f0, f1 = _pair(pair, n, e, f" of {part.name!r}")
        if len(f1) != n_gradient:
            raise ProblemError(
                f"f1 of {part.name!r} has {len(f1)} entries, and {n_gradient} are expected, in the "
                f"shape {part.du_shape} of d{part.name}, or the number 0"
            )
        fluxes += [f0, f1]
    return torch.cat(fluxes)


def kind_of(value: Any) -> str:
    """What a function returned, for messages."""
    if isinstance(value, Mapping):
        return f"rows of {sorted(value, key=str)}"
    if isinstance(value, tuple | list):
        return f"{len(value)} values"
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    return f"a tensor of shape {shape}" if shape else "one number"


def arguments_in_words(region: Region) -> str:
    """Which arguments are parameter fields, for messages."""
    if not region.parts:
        return "Arguments after (u, du, x)"
    return f"Arguments other than {sorted(_arguments(region))}"


def describe(region: Region) -> str:
    """What a function gets, with shapes, for messages."""
    if not region.parts:
        return f"u {region.u_shape}, du {region.du_shape}"
    return ", ".join(f"{p.name} {p.u_shape}, d{p.name} {p.du_shape}" for p in region.parts)


def wanted_of(region: Region) -> str:
    """What a Flux returns, for messages."""
    return _example(region) if region.parts else "(f0, f1), f1 of the shape of du"


def _pair(pair: Any, n: int, e: Tensor, of: str = "") -> tuple[Tensor, Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ProblemError(
            f"it returns {kind_of(pair)}{of}, and a Flux is a pair (f0, f1); the density of an "
            "energy makes an Energy(region, function)"
        )
    f0 = torch.as_tensor(pair[0], dtype=e.dtype, device=e.device).flatten()
    if len(f0) not in (1, n):
        raise ProblemError(
            f"f0{of} has {len(f0)} entries, and {n} are expected, as many as the field has, or one"
        )
    return f0.expand(n), pair[1].flatten()


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _arguments(region: Region) -> set[str]:
    return {"x"} | {name for part in region.parts for name in (part.name, f"d{part.name}")}


def _names(function: PointFunction, region: Region) -> tuple[str, ...]:
    names = ", ".join(f"{part.name}, d{part.name}" for part in region.parts)
    return argument_names(function, f"lambda {names}, x, k: ...")


def _example(region: Region) -> str:
    return "{" + ", ".join(f'"{part.name}": (f0, f1)' for part in region.parts) + "}"
