"""Answers of a forward map beside reference solutions, at the values that are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["SeenValues"]


@dataclass(frozen=True)
class SeenValues:
    """All values of u, or some where these are too many.

    Attributes:
        mean, std, true: (n_samples, n).
        interval: level -> lower and upper end of central intervals, (n_samples, n) each.
        fields: name -> which of the n are free and of that field.
        relative: |u - mean| / |u|, by all values, (n_samples,).
        relative_norm: the same in the norm of the model.
        answer: what the model said, of all or of the last samples.
    """

    mean: Tensor
    std: Tensor
    true: Tensor
    interval: Callable[[float], tuple[Tensor, Tensor]]
    fields: dict[str, Tensor]
    relative: Tensor
    relative_norm: Tensor
    answer: Any
