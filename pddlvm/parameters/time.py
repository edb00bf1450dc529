"""Time as a field: a known coordinate that point functions, boundary values and links read.

    t ~ U(start, end),    one more parameter of a steady problem, the last of z

A steady problem at (z, t) is what a problem in time takes its residual from; `TransientProblem`
takes t out of z.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.checks import check_real
from pddlvm.fem import Points
from pddlvm.parameters.fields import Field, Fields
from pddlvm.parameters.priors import Uniform

__all__ = ["Time", "has_time"]


@dataclass(frozen=True, init=False)
class Time(Field):
    """Time between `start` and `end`, the same everywhere: `fields={..., "t": pddlvm.Time(2.0)}`.

    Args:
        end: of the interval, that of the `Stepping`.
        start: of the interval.

    Raises:
        InputError: an end that is not behind the start.
    """

    def __init__(self, end: float, start: float = 0.0) -> None:
        check_real(**{"start of Time": start})
        check_real(start, **{"end of Time": end})
        super().__init__(prior=Uniform(start, end))

    def __repr__(self) -> str:
        start, end = self.interval
        return f"Time({end:g}, start={start:g})"

    @property
    def interval(self) -> tuple[float, float]:
        """Start and end."""
        assert isinstance(self.prior, Uniform)
        return self.prior.low, self.prior.high

    @property
    def size(self) -> int:  # noqa: D102
        return 1

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        return torch.ones(len(points.x), 1, dtype=torch.float64)


def has_time(fields: Fields) -> bool:
    """Is one of some fields the time?"""
    return any(isinstance(field, Time) for field in fields.values())
