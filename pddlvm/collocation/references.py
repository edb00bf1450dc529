"""Solutions that a calibration found, which those after it use again."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pddlvm.strong.problem import CollocationProblem

__all__ = ["References"]


@dataclass(frozen=True)
class References:
    """Solutions that the calibration of the forward map found, for that of the inverse map.

    Attributes:
        drawn_with: number of draws and seed.
        xi: (n_samples, d).
        u: on the grid, (n_samples, n_dofs).
    """

    drawn_with: tuple[int, int]
    xi: Tensor
    u: Tensor

    def to(self, like: Tensor) -> "References":
        """Where a model is: it may have moved since, and checkpoints hold them on the CPU."""
        return replace(self, xi=self.xi.to(like), u=self.u.to(like))

    @classmethod
    def of_state(
        cls, state: dict[str, Any] | None, problem: CollocationProblem
    ) -> "References | None":
        """What a checkpoint holds of them; a ValueError where they are of another problem."""
        if state is None:
            return None
        found = cls(**state)
        n = len(found.xi)
        if (found.xi.shape, found.u.shape) != ((n, problem.n_parameters), (n, problem.n_dofs)):
            raise ValueError("references of another problem")
        return found
