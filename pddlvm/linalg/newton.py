"""Newton's method, and least squares, for many small systems at once, each at its own pace.

    M_i step_i = -r_i(c_i),     M_i = dr_i/dc at the last c_i where a step with the old one did not
                                      make |r_i| a few times smaller (Shamanskii, 1967)

Matrices are what costs: those of systems that are solved, or whose old one helps, are not formed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["least_squares", "least_squares_step", "newton"]

_MAX_STEPS = 60
_HELPS = 0.2
"""Factor by which a step with an old matrix makes the residual smaller, or it is made anew."""
_MAX_HALVINGS = 8
_ROUNDED = 1e-8
"""Share of the residual below which a step with a new matrix that does not help met rounding."""

OfRows = Callable[[Tensor, Tensor], Tensor]
"""Numbers of systems (k,) and points (k, m) -> residuals (k, m), or matrices (k, m, m)."""


def newton(
    residual: OfRows,
    matrix: OfRows,
    c: Tensor,
    tolerance: float,
    noise: Tensor | float = 0.0,
) -> Tensor:
    """Roots of all systems, (n, m).

    A system that fails is no error: it stays where it got to, which may not be finite.

    Args:
        residual: of some systems.
        matrix: derivative of the residual.
        c: where they start, (n, m).
        tolerance: share of the first residual at which a system is solved.
        noise: size of a residual that is no more than rounding: solved too, of each system (n,).
    """
    c, going = c.clone(), torch.arange(len(c))
    r = residual(going, c)
    start, noise = r.norm(dim=1), torch.as_tensor(noise, dtype=c.dtype).expand(len(c))
    going = going[start > noise]
    is_new = torch.ones(len(going), dtype=torch.bool)
    factors = c.new_empty(*c.shape, c.shape[1])
    pivots = torch.empty(c.shape, dtype=torch.int32)
    for _ in range(_MAX_STEPS):
        if not len(going):
            break
        new = going[is_new]
        if len(new):
            factors[new], pivots[new] = torch.linalg.lu_factor(matrix(new, c[new]))
        step = torch.linalg.lu_solve(factors[going], pivots[going], r[going, :, None])[..., 0]
        trial = c[going] - step
        left = residual(going, trial)
        ratio = left.norm(dim=1) / r[going].norm(dim=1)
        # Newton's own step is taken as it is.
        taken, helps = is_new | (ratio < 1), ratio <= _HELPS
        c[going[taken]], r[going[taken]] = trial[taken], left[taken]
        norm = r[going].norm(dim=1)
        size = norm / start[going]
        is_over = ~((size > tolerance) & (norm > noise[going])) | (
            is_new & ~helps & (size < _ROUNDED)
        )
        going, is_new = going[~is_over], ~helps[~is_over]
    return c


def least_squares_step(matrix: Tensor, r: Tensor) -> Tensor:
    """M^+ r, M (batch, n, m) of full rank, n >= m, and r (batch, n): (batch, m)."""
    q, upper = torch.linalg.qr(matrix)
    return _solve(q, upper, r)


def least_squares(residual: OfRows, matrix: OfRows, c: Tensor, tolerance: float) -> Tensor:
    """Minimisers of all |r_i(c)|, (n, m), by Gauss-Newton steps that are halved where |r_i| grows.

    A matrix serves for the next step too, so long as steps become a few times smaller.

    Args:
        residual: of some systems, (k, n_rows).
        matrix: derivative of the residual, (k, n_rows, m).
        c: where they start, (n, m).
        tolerance: size of a step relative to c at which a system is solved.
    """
    c, going = c.clone(), torch.arange(len(c))
    r = residual(going, c)
    q, upper = c.new_empty(*r.shape, c.shape[1]), c.new_empty(*c.shape, c.shape[1])
    is_new, last = torch.ones(len(c), dtype=torch.bool), c.new_full((len(c),), torch.inf)
    for _ in range(_MAX_STEPS):
        if not len(going):
            break
        new = going[is_new]
        if len(new):
            q[new], upper[new] = torch.linalg.qr(matrix(new, c[new]))
        step = _solve(q[going], upper[going], r[going])
        size, at, norm = step.norm(dim=1), c[going], r[going].norm(dim=1)
        is_small = ~(size > tolerance * at.norm(dim=1))
        t = torch.ones(len(going), 1, dtype=c.dtype)
        for _ in range(_MAX_HALVINGS):
            left = residual(going, at - t * step)
            grows = ~(left.norm(dim=1) <= norm)
            if not (grows & ~is_small).any():
                break
            t = torch.where((grows & ~is_small)[:, None], 0.5 * t, t)
        taken = ~grows
        c[going[taken]], r[going[taken]] = (at - t * step)[taken], left[taken]
        # Where even a step with a new matrix does not help, rounding decides.
        is_over = is_small | (grows & is_new)
        helps = taken & (size <= _HELPS * last[going])
        last[going] = torch.where(taken, size, torch.inf)
        going, is_new = going[~is_over], ~helps[~is_over]
    return c


def _solve(q: Tensor, upper: Tensor, r: Tensor) -> Tensor:
    """R^{-1} Q^T r of a batch."""
    return torch.linalg.solve_triangular(upper, q.mT @ r[..., None], upper=True)[..., 0]
