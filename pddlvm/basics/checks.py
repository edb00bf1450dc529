"""Checks of what users hand over, and of what is handed back."""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from numbers import Integral
from pathlib import Path
from types import UnionType
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from pddlvm.basics.errors import ConvergenceError, InputError, ProblemError
from pddlvm.basics.owned import owned

__all__ = [
    "argument_names",
    "array_of",
    "broadcast_batch",
    "check_all",
    "check_axis",
    "check_backward",
    "check_corrections",
    "check_count",
    "check_finite",
    "check_flag",
    "check_kind",
    "check_level",
    "check_no_gradient",
    "check_only_field",
    "check_path",
    "check_positive",
    "check_predictions",
    "check_real",
    "check_shape",
    "check_share",
    "check_vectors",
    "is_integer",
    "is_recorded",
    "kinds_checked",
    "numbers_of",
]

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST, _MOST_CORRECTIONS, _SHOWN = 2**63 - 1, 100, 80
_NUMBERS = (int, float, Tensor)
"""Whose kinds others stand for: an int for a float, a list for a tensor."""


def check_vectors(values: Any, name: str, size: int, what: str, hint: str = "") -> Tensor:
    """Return values (..., size), or raise an InputError that says what is wrong with them.

    Args:
        values: what was given: a tensor, a NumPy array of numbers, or lists of numbers, which
            become float64 where they have no floating-point type.
        name: of the argument.
        size: length of the last axis.
        what: what they must have, for the message.
        hint: what to try if they are no floating-point tensor.
    """
    values = _tensor_of(values, name)
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = (
            f"a tensor of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        )
        raise InputError(f"{name} must be a floating-point torch tensor, got {kind}{hint}")
    if values.layout is not torch.strided or values.is_meta:
        kind = "has no values, on the device 'meta'" if values.is_meta else "is a sparse tensor"
        raise InputError(f"{name} {kind}; give a dense one with values, as {name}.to_dense()")
    if values.ndim == 0 or values.shape[-1] != size:
        raise InputError(f"{name} must {what}, got shape {tuple(values.shape)}")
    # Of a tensor of torch.inference_mode no derivative can be taken, but of a copy.
    return values.clone() if values.is_inference() else values


def array_of(values: Any, name: str) -> NDArray[Any]:
    """Return values as an array of whatever type, or raise an InputError."""
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is no array of numbers ({error})") from error


def numbers_of(values: Any, name: str) -> NDArray[np.float64]:
    """Return real numbers as an array of its own, float64, or raise an InputError."""
    if isinstance(values, Tensor) and values.dtype == torch.bfloat16:
        values = values.float()
    array = array_of(values, name)
    if array.dtype.kind not in "iuf":
        got = repr(values) if array.ndim == 0 else f"{type(values).__name__} of {array.dtype}"
        raise InputError(f"{name} must be numbers, got {got[:_SHOWN]}")
    return array.astype(np.float64)


def _tensor_of(values: Any, name: str) -> Any:
    """The tensor that an array, or lists of numbers, mean; anything else as it is."""
    if not isinstance(values, np.ndarray | list | tuple):
        return values
    array = array_of(values, name)
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"{name} must be numbers, got an array of {array.dtype}; missing values are NaN"
        )
    kept = array.dtype if array.dtype in (np.float16, np.float32) else np.float64
    return torch.tensor(array.astype(kept))


def check_all(values: Any, kind: type, name: str, example: str) -> tuple[Any, ...]:
    """Return values, all of a kind, or raise a ProblemError that names the argument."""
    values = owned(values)  # an array without axes is no list
    is_list = isinstance(values, Iterable) and not isinstance(values, str | Mapping)
    found = tuple(values) if is_list else (values,)
    wrong = [value for value in found if not isinstance(value, kind)]
    if wrong or not is_list:
        got = type(wrong[0]).__name__ if wrong else "one alone: add brackets"
        raise ProblemError(f"{name} must be a list of {kind.__name__}, as {example}, got {got}")
    return found


def check_axis(axis: Any) -> None:
    """Raise an InputError if this is no axis of space."""
    if not (is_integer(axis) and 0 <= axis <= 2):
        raise InputError(f"axis must be 0, 1 or 2, got {axis!r}")


def check_kind(kind: type | UnionType, /, **values: Any) -> None:
    """Raise an InputError that names the first of some values that is of another kind."""
    for name, value in values.items():
        if not isinstance(value, kind):
            expected = getattr(kind, "__name__", kind)
            got = f"{type(value).__name__}: {value!r}"
            if value is None:
                got = "None; leave it out where it has a default"
            article = "an" if str(expected)[0] in "AEIO" else "a"
            raise InputError(f"{name} must be {article} {expected}, got {got}")


def kinds_checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with an InputError for objects of another kind than its annotations say."""
    hints = {name: hint for name, hint in get_type_hints(function).items() if name != "return"}
    kinds = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type | UnionType)
        and all(isinstance(kind, type) for kind in get_args(hint))
        and not any(kind in _NUMBERS for kind in get_args(hint) or (hint,))
    }
    signature = inspect.signature(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        for name in kinds.keys() & given.keys():
            check_kind(kinds[name], **{name: given[name]})
        return function(*args, **kwargs)

    return run


def check_flag(**flags: Any) -> None:
    """Raise an InputError that names the first of some values that is neither true nor false."""
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise InputError(f"{name} must be True or False, got {flag!r}")


def check_only_field(name: Any) -> None:
    """Raise a ProblemError if this is not the name of a solution that is one field alone."""
    if name != "u":
        raise ProblemError(f"there is no field {name!r}; the solution is one field, 'u'")


def check_path(path: Any) -> Path:
    """Return the path of a file or folder, or raise an InputError."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"expected the path of a file or folder, got {path!r}")
    return Path(path)


def check_real(above: float = -math.inf, /, **numbers: Any) -> None:
    """Raise an InputError that names the first of some numbers that is none, or out of range.

    Args:
        above: they must be larger, and finite.
        numbers: by the names of the arguments.
    """
    for name, number in numbers.items():
        if not (_is_number(number) and above < number < math.inf):
            limit = "be positive and finite" if above == 0 else "be a finite number"
            more = "" if above in (0, -math.inf) else f" above {above:g}"
            raise InputError(f"{name} must {limit}{more}, got {number!r}")


def check_share(**shares: Any) -> None:
    """Raise an InputError that names the first of some numbers that is not between 0 and 1."""
    for name, share in shares.items():
        if not (_is_number(share) and 0 < share < 1):
            raise InputError(f"{name} must lie between 0 and 1, got {share!r}")


def check_finite(values: Tensor, name: str) -> Tensor:
    """Return values, or raise an InputError if one is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise InputError(f"{name} has values that are not finite (NaN or infinity)")
    return values


def check_no_gradient(values: Tensor, name: str) -> Tensor:
    """Return values, or raise an InputError if somebody waits for derivatives by them.

    Where results are computed without a graph these would be zero, and nobody would be told.
    """
    if isinstance(values, Tensor) and _is_differentiated(values):
        raise InputError(
            f"{name} requires a gradient, or is inside of a torch.func transform, and the result "
            f"has no derivatives; give {name}.detach(), and take finite differences"
        )
    return values


def check_backward(values: Tensor, name: str) -> Tensor:
    """Return values, or raise an InputError if derivatives by them are asked for but backwards."""
    if isinstance(values, Tensor) and _is_transformed(values):
        raise InputError(
            f"{name} is inside of a torch.func transform or of forward mode; derivatives are taken "
            f"backwards, of {name}.requires_grad_(): a gradient by backward(), torch.autograd.grad "
            "or torch.autograd.functional.jacobian"
        )
    return values


def check_predictions(values: Tensor, xi: Tensor) -> None:
    """Raise a ConvergenceError if predictions (batch, n) at xi (batch, d) are not finite."""
    finite = torch.isfinite(values)
    if not finite.all():
        failed = (~finite.all(-1)).nonzero()[:, 0].tolist()
        far = float(xi[failed[0]].detach().abs().max())
        raise ConvergenceError(
            f"the predictions of {len(failed)} of {len(values)} z are not finite, the first is "
            f"number {failed[0]}, {far:.0f} standard deviations from the centre of the prior: "
            "far from where the map was trained; try problem.solve(z)"
        )


def argument_names(function: Callable[..., Any], example: str) -> tuple[str, ...]:
    """Names of the arguments of a user's function, or a ProblemError if it does not say them."""
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError as error:
        name = getattr(function, "__name__", function)
        raise ProblemError(
            f"the function {name!r} does not say the names of its arguments; write one that does, "
            f"{example}"
        ) from error


def broadcast_batch(**values: Tensor) -> torch.Size:
    """The common batch shape of some vectors, by their names, or an InputError."""
    batches = {name: tuple(value.shape[:-1]) for name, value in values.items()}
    try:
        return torch.broadcast_shapes(*batches.values())
    except RuntimeError as error:
        shapes = " and ".join(f"{name} {batch}" for name, batch in batches.items())
        raise InputError(
            f"the batch shapes of {shapes} do not broadcast; make them equal"
        ) from error


def check_count(least: int, most: int = _LARGEST, /, **counts: Any) -> None:
    """Raise an InputError that names the first of some numbers that is no integer in a range."""
    for name, count in counts.items():
        is_count = is_integer(count)
        if not (is_count and least <= count <= most):
            limit = f", at most {most}" if is_count and count > most else ""
            raise InputError(f"{name} must be an integer, at least {least}{limit}, got {count!r}")


def check_corrections(corrections: Any) -> None:
    """Raise an InputError if this is no number of corrections, of which few converge."""
    check_count(0, _MOST_CORRECTIONS, corrections=corrections)


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of a sample, (n,) for a number n, or raise an InputError."""
    sizes = (shape,) if isinstance(shape, Integral) else shape
    is_list = isinstance(sizes, Sequence) and not isinstance(sizes, str | bytes)
    if not is_list or not all(isinstance(n, Integral) for n in sizes):
        raise InputError(f"the shape of a sample must be integers, as (1000,), got {shape!r}")
    if any(n < 0 for n in sizes):
        raise InputError(f"the shape of a sample must not be negative, got {shape!r}")
    return tuple(int(n) for n in sizes)


def check_positive(**limits: float | None) -> None:
    """Raise an InputError that names the first of some numbers that is given and not positive."""
    for name, limit in limits.items():
        if limit is not None and not (_is_number(limit) and limit > 0):
            raise InputError(f"{name} must be a positive number, got {limit!r}")


def check_level(level: float) -> float:
    """Return the probability of an interval, or raise an InputError."""
    if not (_is_number(level) and 0 < level < 1):
        raise InputError(f"level must lie between 0 and 1, got {level!r}; 0.95 for 95 %")
    return level


def is_integer(value: Any) -> bool:
    """Is this an integer of any library? True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Is this a number that torch and NumPy compute with? A Fraction is none, True is no number."""
    is_real = isinstance(value, int | float | np.integer | np.floating)
    return is_real and not isinstance(value, bool)


def is_recorded(values: Tensor) -> bool:
    """Does somebody wait for derivatives backwards?"""
    return values.requires_grad and torch.is_grad_enabled()


def _is_differentiated(values: Tensor) -> bool:
    return is_recorded(values) or _is_transformed(values)


def _is_transformed(values: Tensor) -> bool:
    # Within jacrev, jvp and vmap a tensor is wrapped; it need not say that it requires a gradient.
    is_wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(values)
    return is_wrapped or unpack_dual(values).tangent is not None
