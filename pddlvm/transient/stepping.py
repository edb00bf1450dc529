"""Which time steps: a method, and lengths that are constant or constant on levels.

    Stepping(2.0, 100)                                        100 steps of 0.02
    Stepping.graded(2.0, 100, n_levels=5, ratio=2.5)          5 levels of 20 equal steps

The steps of a level are `ratio` times as long as those of the one before: for solutions that change
fast at first. A level needs one factorisation, or two.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pddlvm.basics.checks import check_count, check_kind, check_real
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.owned import own_fields
from pddlvm.transient.schemes import Scheme, bdf2_scheme, newmark_scheme, theta_scheme

__all__ = ["BDF2", "BackwardEuler", "CrankNicolson", "Newmark", "Stepping", "SteppingMethod"]

Array = NDArray[np.float64]

_N_DAMPED = 2
"""Steps of backward Euler that damp what does not fit the equations at the start (Rannacher)."""


class SteppingMethod(ABC):
    """A method of time steps; see `pddlvm.transient.schemes` for their formulas."""

    @property
    def n_derivatives(self) -> int:
        """Order of the derivative in time that it is for."""
        return 1

    @abstractmethod
    def scheme(self, start: float, steps: Array) -> Scheme:
        """Its rows for steps of given lengths, (N,)."""


@dataclass(frozen=True)
class BackwardEuler(SteppingMethod):
    """First order, and damps all that is fast."""

    def scheme(self, start: float, steps: Array) -> Scheme:  # noqa: D102
        return theta_scheme(start, steps, np.ones(len(steps)))


@dataclass(frozen=True)
class CrankNicolson(SteppingMethod):
    """Second order without damping; the first two steps are backward Euler.

    Without these an initial value that does not fit the equations would oscillate for ever
    (Rannacher, Numer. Math. 43, 1984).
    """

    def scheme(self, start: float, steps: Array) -> Scheme:  # noqa: D102
        is_damped = np.arange(len(steps)) < _N_DAMPED
        return theta_scheme(start, steps, np.where(is_damped, 1.0, 0.5))


@dataclass(frozen=True)
class BDF2(SteppingMethod):
    """Second order, and damps what is fast; the first step is backward Euler.

    Steps may become longer by any ratio from level to level, but not from step to step: there it is
    unstable above 1 + sqrt 2.
    """

    def scheme(self, start: float, steps: Array) -> Scheme:  # noqa: D102
        return bdf2_scheme(start, steps)


@dataclass(frozen=True)
class Newmark(SteppingMethod):
    """M d^2u/dt^2 + r = 0: second order, and keeps the energy of linear motions."""

    @property
    def n_derivatives(self) -> int:  # noqa: D102
        return 2

    def scheme(self, start: float, steps: Array) -> Scheme:  # noqa: D102
        return newmark_scheme(start, steps)


_BDF2 = BDF2()


@dataclass(frozen=True)
class Stepping:
    """Steps from a start to an end.

    Attributes:
        end: of the interval.
        n_steps: how many.
        method: of the steps.
        start: of the interval.
        n_levels: of equal steps, as many on each; see `graded`.
        ratio: of the steps of a level to those of the one before.

    Raises:
        InputError: an end that is not behind the start, or no number of steps.
        ProblemError: steps that do not match the levels.
    """

    end: float
    n_steps: int
    method: SteppingMethod = _BDF2
    start: float = 0.0
    n_levels: int = 1
    ratio: float = 1.0

    def __post_init__(self) -> None:
        own_fields(self)
        check_real(start=self.start)
        check_real(self.start, end=self.end)
        check_count(1, n_steps=self.n_steps)
        check_kind(SteppingMethod, method=self.method)
        check_count(1, n_levels=self.n_levels)
        check_real(0, ratio=self.ratio)
        rest = self.n_steps % self.n_levels
        if rest:
            raise ProblemError(
                f"{self.n_steps} steps do not match {self.n_levels} levels of as many steps each: "
                f"{rest} are left over; take {self.n_steps - rest or self.n_levels} or "
                f"{self.n_steps - rest + self.n_levels} steps"
            )

    @classmethod
    def graded(
        cls,
        end: float,
        n_steps: int,
        method: SteppingMethod = _BDF2,
        start: float = 0.0,
        *,
        n_levels: int = 5,
        ratio: float = 2.5,
    ) -> "Stepping":
        """Short steps first: each level has steps `ratio` times as long as the one before."""
        return cls(end, n_steps, method, start, n_levels, ratio)

    @property
    def steps(self) -> Array:
        """Their lengths, (n_steps,)."""
        each = self.ratio ** np.arange(self.n_levels, dtype=np.float64)
        each *= (self.end - self.start) * self.n_levels / (self.n_steps * each.sum())
        return np.repeat(each, self.n_steps // self.n_levels)

    @cached_property
    def scheme(self) -> Scheme:
        """The rows of the method."""
        return self.method.scheme(self.start, self.steps)

    @property
    def halved(self) -> "Stepping":
        """Two steps in the place of each."""
        return replace(self, n_steps=2 * self.n_steps)
