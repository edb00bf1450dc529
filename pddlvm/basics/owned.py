"""What was given is kept as it was given: a caller may fill an array anew, and use it again."""

from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["own_fields", "owned"]


def owned(value: Any) -> Any:
    """A copy of a tensor or array, the number in one without axes; anything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach().clone()
    elif isinstance(value, np.ndarray):
        value = value.copy()
    else:
        return value
    return value if value.ndim else value.item()


def own_fields(instance: Any) -> None:
    """Let a frozen dataclass own the values of its fields."""
    for field in fields(instance):
        object.__setattr__(instance, field.name, owned(getattr(instance, field.name)))
