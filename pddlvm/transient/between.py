"""States at times between the steps: linear from one step to the next.

u(t) = (1 - s) u_{k-1} + s u_k,    s = (t - t_{k-1}) / (t_k - t_{k-1})
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["time_matrix"]

Array = NDArray[np.float64]


def time_matrix(steps: Array, times: Array) -> sp.csr_matrix:
    """Rows that make states at times (n,) of those at steps (N,), (n, N)."""
    if len(steps) == 1:
        return sp.csr_matrix(np.ones((len(times), 1)))
    after = np.searchsorted(steps, times).clip(1, len(steps) - 1)
    share = ((times - steps[after - 1]) / (steps[after] - steps[after - 1])).clip(0, 1)
    rows = np.tile(np.arange(len(times)), 2)
    found = sp.csr_matrix(
        (np.r_[1 - share, share], (rows, np.r_[after - 1, after])), shape=(len(times), len(steps))
    )
    found.eliminate_zeros()
    return found
