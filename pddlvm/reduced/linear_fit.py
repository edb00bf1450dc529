"""Where Newton's method starts: near solutions that are known, by a fit that is linear in z.

    c(xi)  ~  C (1, xi),      C the least squares fit to known (xi_i, c_i)

Half of the matrices of Newton's method are formed on the way from zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["LinearFit"]

_N_EACH = 4
"""Solutions for each coefficient of the fit."""


class LinearFit:
    """Solutions in a basis that may have grown since: they are zero in its new columns.

    Args:
        n_parameters: length of xi.
    """

    def __init__(self, n_parameters: int) -> None:
        self.n_needed = _N_EACH * (1 + n_parameters)
        self._xi = torch.zeros(0, n_parameters, dtype=torch.float64)
        self._c = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, xi: Tensor, c: Tensor) -> None:
        """Solutions c (batch, m) at xi (batch, d); those that are not finite have failed."""
        known = torch.isfinite(c).all(1)
        m = max(self._c.shape[1], c.shape[1])
        old, new = (pad(part, (0, m - part.shape[1])) for part in (self._c, c[known]))
        self._xi, self._c = torch.cat([self._xi, xi[known]]), torch.cat([old, new])

    def at(self, xi: Tensor, m: int) -> Tensor | None:
        """Estimates (batch, m); None while too few solutions are known."""
        if len(self._xi) < self.n_needed:
            return None
        # The driver that is taken by default rounds differently from call to call.
        found = torch.linalg.lstsq(_line(self._xi), self._c, driver="gelsd").solution
        return pad(_line(xi) @ found, (0, m - found.shape[1]))

    def nearer(
        self, xi: Tensor, start: Tensor, size: Tensor, residual: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Where to start, (batch, m): the estimate, where its residual is the smaller one.

        Args:
            xi: (batch, d).
            start: where to start else, (batch, m).
            size: of the residual there, (batch,).
            residual: (batch, m) -> (batch, n).
        """
        near = self.at(xi, start.shape[1])
        if near is None:
            return start
        return torch.where((residual(near).norm(dim=1) < size)[:, None], near, start)


def _line(xi: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(xi[:, :1]), xi], dim=1)
