"""A linearised problem J and its preconditioner P, for GMRES on a batch.

P^-1 J e  =  -P^-1 r
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.linalg.krylov import gmres

__all__ = ["Preconditioned", "Solve"]

Solve = Callable[[Tensor], Tensor]

_MISSED = 2.0
"""Times the tolerance: what is farther off did not converge."""


@dataclass(frozen=True)
class Preconditioned:
    """P^-1 J for a batch; vectors are errors at the nodes over their unit, (batch, n_values).

    Attributes:
        tangent: J, errors (batch, n_values) -> rows (batch, n_free).
        inverse: -P^-1, rows -> errors.
        unit: of errors, one number or (n_values,).
    """

    tangent: Solve
    inverse: Solve
    unit: Tensor | float = 1.0

    def error(self, rows: Tensor, tolerance: float, budget: int) -> tuple[Tensor, Tensor]:
        """e with J e = -rows, up to a part of P^-1 rows, and whether it was found, (batch,)."""
        b = self.inverse(rows) / self.unit
        if not torch.isfinite(b).all():
            return self.unit * b, torch.zeros(len(b), dtype=torch.bool)
        target = tolerance * b.norm(dim=1)
        e, _ = gmres(self, b, target, torch.full((len(rows),), budget))
        is_found = (b - self.apply(e)).norm(dim=1) <= _MISSED * target
        return self.unit * e, is_found

    def apply(self, p: Tensor) -> Tensor:  # noqa: D102
        return -self.inverse(self.tangent(self.unit * p)) / self.unit

    def precondition_skew(self, r: Tensor) -> Tensor:  # noqa: D102
        return r

    def riesz(self, r: Tensor) -> Tensor:  # noqa: D102
        return r
