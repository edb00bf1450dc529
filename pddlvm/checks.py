"""Checks of what users hand over."""

import torch
from torch import Tensor

from pddlvm.errors import InputError

__all__ = ["check_finite", "check_level", "check_positive", "check_vectors"]


def check_vectors(values: Tensor, name: str, size: int, what: str, hint: str = "") -> Tensor:
    """Return values (..., size), or raise an InputError that says what is wrong with them.

    Args:
        values: what was given.
        name: of the argument.
        size: length of the last axis.
        what: what they must have, for the message.
        hint: what to try if they are no floating-point tensor.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = (
            f"a tensor of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        )
        raise InputError(f"{name} must be a floating-point torch tensor, got {kind}{hint}")
    if values.ndim == 0 or values.shape[-1] != size:
        raise InputError(f"{name} must {what}, got shape {tuple(values.shape)}")
    return values


def check_finite(values: Tensor, name: str) -> Tensor:
    """Return values, or raise an InputError if one is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise InputError(f"{name} has values that are not finite (NaN or infinity)")
    return values


def check_positive(**limits: float | None) -> None:
    """Raise an InputError that names the first of some numbers that is given and not positive."""
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise InputError(f"{name} must be positive, got {limit}")


def check_level(level: float) -> float:
    """Return the probability of an interval, or raise an InputError."""
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}; 0.95 for 95 %")
    return level
