"""Steps in time as rows of two banded matrices: a whole trajectory is one residual.

    M d^s u/dt^s + r(u, z, t) = 0,   s = 1 or 2
    R = (Ta x M) u + (Tb x 1) r(u, z, t) = 0,        u = (u_{1-h} ... u_0 | u_1 ... u_N)

The h history states are known; Ta and Tb are (N, h + N), lower triangular behind the history. Rows
of step k, of length d = t_k - t_{k-1}, q = d / d_before, on (u_{k-2}, u_{k-1}, u_k):

    Euler, backwards    Ta = (0, -1, 1) / d                                   Tb = (0, 0, 1)
    Crank-Nicolson      the same                                              Tb = (0, 1/2, 1/2)
    BDF2                Ta = (q^2 / (1 + q), -1 - q, (1 + 2 q) / (1 + q)) / d   Tb = (0, 0, 1)
    Newmark             Ta = (q, -1 - q, 1) / d^2                Tb = (1 / q, 1 + 1 / q, 1) / 4

Newmark's velocities and accelerations are eliminated (average acceleration, beta = 1/4, gamma =
1/2). Its first step has u_0 - d v_0 in the place of u_{-1}, and Tb = (0, 1, 1) / 4.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["Scheme", "bdf2_scheme", "newmark_scheme", "theta_scheme"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scheme:
    """N steps in time, float64.

    Attributes:
        times: of the states u_1 ... u_N, (N,).
        weights: w_k = t_k - t_{k-1}, (N,): the integral over time is sum_k w_k f(t_k).
        ta: coefficients of M u, (N, h + N).
        tb: coefficients of r(u, z, t), (N, h + N).
        starts: times of the history states, (h,), the last of them the start of the interval.
    """

    times: Array
    weights: Array
    ta: sp.csr_matrix
    tb: sp.csr_matrix
    starts: Array

    @property
    def n_steps(self) -> int:
        """N."""
        return len(self.times)

    @property
    def n_history(self) -> int:
        """h."""
        return len(self.starts)

    @property
    def all_times(self) -> Array:
        """Those of the history, then those of the steps, (h + N,)."""
        return np.concatenate([self.starts, self.times])

    @property
    def diagonals(self) -> Array:
        """Coefficients of M u_k and of r(u_k) in step k, (N, 2): equal ones share a matrix."""
        h = self.n_history
        return np.column_stack([self.ta.diagonal(h), self.tb.diagonal(h)])

    @property
    def asked(self) -> NDArray[np.int64]:
        """Numbers of the states whose r is read: of backward methods not the history."""
        return np.unique(self.tb.indices).astype(np.int64)


def theta_scheme(start: float, steps: Array, theta: Array) -> Scheme:
    """u_k - u_{k-1} = -d (theta r_k + (1 - theta) r_{k-1}).

    Args:
        start: of the interval.
        steps: their lengths, (N,).
        theta: of each of them, (N,): 1 is backward Euler, 1/2 Crank-Nicolson.
    """
    ta = np.column_stack([-1 / steps, 1 / steps])
    return _scheme(start, steps, ta, np.column_stack([1 - theta, theta]), 1)


def bdf2_scheme(start: float, steps: Array) -> Scheme:
    """The second backward differentiation formula with variable steps, the first one Euler's."""
    q = np.ones(len(steps))
    q[1:] = steps[1:] / steps[:-1]
    ta = np.column_stack([q**2 / (1 + q), -(1 + q), (1 + 2 * q) / (1 + q)]) / steps[:, None]
    ta[0] = np.array([0.0, -1.0, 1.0]) / steps[0]
    return _scheme(start, steps, ta, np.tile([0.0, 0.0, 1.0], (len(steps), 1)), 1)


def newmark_scheme(start: float, steps: Array) -> Scheme:
    """Newmark's average acceleration; the history is (u_0 - d_1 v_0, u_0)."""
    q, one = np.ones(len(steps)), np.ones(len(steps))
    q[1:] = steps[1:] / steps[:-1]
    ta = np.column_stack([q, -(1 + q), one]) / steps[:, None] ** 2
    tb = np.column_stack([1 / q, 1 + 1 / q, one]) / 4
    tb[0] = 0.0, 0.25, 0.25
    return _scheme(start, steps, ta, tb, 2)


def _scheme(start: float, steps: Array, ta: Array, tb: Array, n_history: int) -> Scheme:
    """From the rows of each step, their last column its own state."""
    times = start + np.cumsum(steps)
    starts = start - steps[0] * np.arange(n_history)[::-1]
    return Scheme(times, steps, _banded(ta, n_history), _banded(tb, n_history), starts)


def _banded(rows: Array, n_history: int) -> sp.csr_matrix:
    n, width = rows.shape
    step, lag = np.nonzero(rows)
    columns = step + lag + n_history + 1 - width
    return sp.csr_matrix((rows[step, lag], (step, columns)), shape=(n, n_history + n))
