"""States at times between the steps: linear from one step to the next.

u(t) = (1 - s) u_{k-1} + s u_k,    s = (t - t_{k-1}) / (t_k - t_{k-1})
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.transient.problem import TransientProblem

__all__ = ["time_matrix"]

_SLACK = 1e-9


def time_matrix(problem: TransientProblem, times: "ArrayLike | Tensor") -> sp.csr_matrix:
    """Rows that make states at times of those of a solution, (n_times, N).

    Raises:
        InputError: a time outside of the interval, or before the first step: a solution begins
            there.
    """
    t, steps = problem.check_times(times), problem.times
    slack = _SLACK * (steps[-1] - problem.stepping.start)
    early = t[t < steps[0] - slack]
    if len(early):
        raise InputError(
            f"{len(early)} of {len(t)} times are before the first step of problem "
            f"{problem.name!r} at t = {steps[0]:g}, the first is {early[0]:g}; a solution begins "
            "at that step"
        )
    if len(steps) == 1:
        return sp.csr_matrix(np.ones((len(t), 1)))
    after = np.searchsorted(steps, t).clip(1, len(steps) - 1)
    share = ((t - steps[after - 1]) / (steps[after] - steps[after - 1])).clip(0, 1)
    rows = np.tile(np.arange(len(t)), 2)
    found = sp.csr_matrix(
        (np.r_[1 - share, share], (rows, np.r_[after - 1, after])), shape=(len(t), len(steps))
    )
    found.eliminate_zeros()
    return found
