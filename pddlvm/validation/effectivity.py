"""How sharp rigorous error bounds are, and that they hold.

effectivity = bound / |u - mean|,      in the norm of the model, at least 1
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.galerkin.forward import Forward
from pddlvm.latent.core import LatentModel

__all__ = ["Effectivity"]

_REFERENCE = 1e-10
"""Relative error of reference solutions, below which no bound can be judged."""


@dataclass(frozen=True)
class Effectivity:
    """Of the bounds of one forward map over fresh draws.

    Attributes:
        median, worst: of upper bound over error.
        violations: draws whose error is not in the interval of lower and upper bound, by more than
            the rounding of the reference solution; there should be none.
    """

    median: float
    worst: float
    violations: int

    @classmethod
    def of(cls, model: LatentModel, forward: Forward, u: Tensor) -> "Effectivity | None":
        """Against reference solutions u (n_samples, n_dofs); None where there is no bound."""
        interval = forward.error_interval
        if interval is None:
            return None
        lower, upper = interval
        error = model.norm(u - forward.mean.to(u))
        known = _REFERENCE * model.norm(u)
        ratio = upper / torch.maximum(error, known)
        wrong = (error > upper + known) | (error < lower - known)
        return cls(float(ratio.median()), float(ratio.max()), int(wrong.sum()))

    def __str__(self) -> str:
        return f"{self.median:.2f}, {self.worst:.1f}; {self.violations} wrong"
