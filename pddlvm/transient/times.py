"""The times of a problem whose steps are given: which there are, and states between them."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.checks import numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.transient.between import time_matrix
from pddlvm.transient.schemes import Scheme
from pddlvm.transient.stepping import Stepping

__all__ = ["TimesOfSteps"]

_SLACK = 1e-9
"""Of the interval, by which times may miss its ends."""


class TimesOfSteps:
    """What a problem in time knows of its times.

    Attributes:
        name: of the problem.
        stepping: its steps.
    """

    name: str
    stepping: Stepping

    @property
    def scheme(self) -> Scheme:
        """The rows Ta and Tb of the steps."""
        return self.stepping.scheme

    @property
    def times(self) -> NDArray[np.float64]:
        """Of the states of a solution, the initial one not among them, (n_times,)."""
        return self.scheme.times

    @property
    def n_times(self) -> int:
        """Number of steps, and of states of a solution."""
        return self.stepping.n_steps

    def check_times(self, times: "ArrayLike | Tensor") -> NDArray[np.float64]:
        """Return times within the interval as an array (n,), or raise an InputError."""
        found = np.atleast_1d(np.asarray(numbers_of(times, "times"), dtype=np.float64))
        start, end = self.stepping.start, self.stepping.end
        slack = _SLACK * (end - start)
        if found.ndim != 1 or not np.isfinite(found).all():
            raise InputError(f"times must be finite and (n,), got shape {found.shape}")
        outside = found[(found < start - slack) | (found > end + slack)]
        if len(outside):
            raise InputError(
                f"{len(outside)} of {len(found)} times are outside of the interval from {start:g} "
                f"to {end:g} of problem {self.name!r}, the first is {outside[0]:g}"
            )
        return found

    def between(self, times: "ArrayLike | Tensor") -> sp.csr_matrix:
        """Rows that make states at times of those of a solution, linear in time, (n, n_times).

        Raises:
            InputError: times outside of the interval, or before the first step, where a solution
                begins.
        """
        found, steps = self.check_times(times), self.times
        early = found[found < steps[0] - _SLACK * (self.stepping.end - self.stepping.start)]
        if len(early):
            raise InputError(
                f"{len(early)} of {len(found)} times are before the first step of problem "
                f"{self.name!r} at t = {steps[0]:g}, the first is {early[0]:g}; a solution begins "
                "at that step"
            )
        return time_matrix(steps, found)

    def seen_at(  # noqa: D102
        self, matrix: sp.csr_matrix, times: "ArrayLike | Tensor | None"
    ) -> sp.csr_matrix:
        whole = self.between(self.times if times is None else times)
        return sp.kron(whole, matrix, format="csr")

    def times_seen(  # noqa: D102
        self, times: "ArrayLike | Tensor | None"
    ) -> NDArray[np.float64]:
        return self.times.copy() if times is None else self.check_times(times).copy()
