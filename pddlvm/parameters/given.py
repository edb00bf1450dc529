"""The fields of a problem as users give them: names, known numbers, priors and links."""

import math
from collections.abc import Mapping
from keyword import iskeyword
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions

from pddlvm.basics.errors import ProblemError
from pddlvm.basics.explained import explained
from pddlvm.basics.owned import owned
from pddlvm.parameters.fields import Field
from pddlvm.parameters.priors import Prior

__all__ = ["given_fields"]

_LINKED = torch.tensor([-0.5, 0.25, 1.0], dtype=torch.float64)


def given_fields(fields: Any, taken: Mapping[str, str]) -> dict[str, Field | float]:
    """Fields and known numbers by name.

    Args:
        fields: what somebody gave.
        taken: names that mean something else already, and what.

    Raises:
        ProblemError: a name that no argument can have, or neither a field nor a number.
    """
    if not isinstance(fields, Mapping):
        raise ProblemError(
            "fields must be a dictionary of names and fields, "
            f'{{"k": Constant(Uniform(1.0, 2.0))}}, got {_kind(fields)}'
        )
    return {name: _given(name, value, taken) for name, value in fields.items()}


def _given(name: Any, value: Any, taken: Mapping[str, str]) -> Field | float:
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise ProblemError(
            f"a field is named {name!r}, which cannot be the name of an argument of a function; "
            "take letters, digits and underscores"
        )
    if name in taken:
        raise ProblemError(
            f"a field cannot be named {name!r}: that is the name of {taken[name]}; take another"
        )
    if isinstance(value, Field):
        _check_prior(name, value)
        _check_link(name, value)
        return value
    if isinstance(value, Prior | distributions.Distribution):
        raise ProblemError(
            f"field {name!r} is a prior alone; make it a field, Constant({value!r}) for one"
        )
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    single = isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1
    number = owned(value.reshape(())) if single else value
    if not isinstance(number, Real):
        raise ProblemError(
            f"field {name!r} must be a field, as Constant(Uniform(1.0, 2.0)), or one known number, "
            f"got {_kind(value)}. Known values that vary in space are written into the functions "
            "of the problem, which read the point"
        )
    if not math.isfinite(number):
        raise ProblemError(f"field {name!r} is {number}; a known number must be finite")
    return float(number)


_EACH = (
    "; parameters of one field with priors of their own are one distribution of "
    "torch.distributions, LogNormal(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.3])) for two"
)


def _check_prior(name: str, field: Field) -> None:
    prior, size = field.prior, field.size
    if not isinstance(prior, Prior):
        raise ProblemError(
            f"the prior of field {name!r} must be one of pddlvm, as pddlvm.Normal(...), one of "
            f"torch.distributions, or of a subclass of pddlvm.Prior, got {_kind(prior)}"
            f"{_EACH if isinstance(prior, list | tuple) else ''}"
        )
    if prior.size not in (None, size):
        raise ProblemError(
            f"the prior of field {name!r} is that of {prior.size} numbers together, and the field "
            f"has {size}: {prior!r}"
        )


def _check_link(name: str, field: Field) -> None:
    """A value of the link may depend on no other point."""
    try:
        # As where it is differentiated: NumPy takes no such tensors.
        at = (owned(field.shift) + _LINKED).requires_grad_()
        whole = field.link(at)
        parts = torch.cat([field.link(one) for one in at.split(1)])
        is_elementwise = whole.shape == at.shape and torch.allclose(whole, parts, equal_nan=True)
    except Exception as error:
        raise ProblemError(
            f"the link of field {name!r} cannot be evaluated ({explained(error)}); it must be an "
            "elementwise torch function, as pddlvm.links.exp, and the shift a number"
        ) from error
    if not is_elementwise:
        raise ProblemError(
            f"the link of field {name!r} must be an elementwise torch function, as "
            "pddlvm.links.exp: each of its values one of the field at the same point"
        )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__module__}.{type(value).__qualname__})"[:120]
