"""The collocation points of a training: drawn anew for each step, some where the residual is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pddlvm.strong.points import AdaptivePoints, PointSampler
from pddlvm.strong.problem import CollocationProblem

__all__ = ["PointStream"]

Residual = Callable[[Tensor, torch.Generator], Tensor]
"""Points (n, k) and a generator for z -> mean |r| over some draws, (n,)."""


class PointStream:
    """Points in the reference box and on the faces that carry conditions.

    Args:
        problem: its box and conditions.
        sampler: draws the points.
    """

    def __init__(self, problem: CollocationProblem, sampler: PointSampler) -> None:
        self.problem = problem
        self.sampler = sampler
        self.restart()

    def restart(self) -> None:
        """Forget the residual of an earlier training."""
        self._steps = 0
        self._candidates: tuple[Tensor, Tensor] | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What the next points depend on, beside the generator; may be set."""
        return {"steps": self._steps, "candidates": self._candidates}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        steps, candidates = state["steps"], state["candidates"]
        k = len(self.problem.box.names)
        if type(steps) is not int or (
            candidates is not None
            and (len(candidates) != 2 or candidates[0].shape != (len(candidates[1]), k))
        ):
            raise ValueError("an impossible state of the points")
        self._steps, self._candidates = steps, candidates

    @property
    def sizes(self) -> list[int]:
        """How many points lie inside, and on the face of each condition."""
        n = self.sampler.n_points
        return [n, *[max(1, n // 4)] * len(self.problem.conditions)]

    def draw(self, like: Tensor, generator: torch.Generator, residual: Residual) -> list[Tensor]:
        """Points inside, then those on the face of each condition, (n, k) each.

        Adaptive points follow the residual. The stream does not keep it: models would keep
        themselves alive.
        """
        k, (n, *on_faces) = len(self.problem.box.names), self.sizes
        inside = self.sampler.draw(n, k, generator).to(like)
        if isinstance(self.sampler, AdaptivePoints):
            inside = self._adapt(self.sampler, inside, generator, residual)
        found = [inside]
        for condition, n in zip(self.problem.conditions, on_faces, strict=True):
            at = self.sampler.draw(n, k, generator).to(like)
            i = self.problem.box.names.index(condition.face.coordinate)
            at[:, i] = 1.0 if condition.face.is_end else -1.0
            found.append(at)
        return found

    def _adapt(
        self, sampler: AdaptivePoints, s: Tensor, generator: torch.Generator, residual: Residual
    ) -> Tensor:
        """Replace a share of the points by candidates with a large residual."""
        if self._candidates is None or self._steps % sampler.every == 0:
            at = sampler.draw(sampler.n_candidates, s.shape[1], generator).to(s)
            self._candidates = (at, residual(at, generator))
        self._steps += 1
        n = round(sampler.share * len(s))
        # Those of a checkpoint lie on the CPU.
        at, size = (part.to(s) for part in self._candidates)
        return torch.cat([sampler.draw_from(at, size, n, generator), s[n:]])
