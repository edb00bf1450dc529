"""What all are compared on: one problem, fresh draws with solutions, and one error."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pddlvm
from pddlvm.fem import Points
from problems import poisson

__all__ = ["Case", "default_case"]

N_TEST, N_TIMED = 200, 200


@dataclass(frozen=True)
class Case:
    """A problem of finite elements on the unit square, n cells per side.

    Attributes:
        name: of the case.
        problem: the problem.
        n: cells per side.
    """

    name: str
    problem: pddlvm.Problem
    n: int

    @cached_property
    def z(self) -> Tensor:
        """Fresh draws, (n_test, d)."""
        return self.problem.prior.sample((N_TEST,), seed=99)

    @cached_property
    def u(self) -> Tensor:
        """Their solutions."""
        return self.problem.solve(self.z)

    def row(
        self, who: str, setting: str, seconds: float, predict: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """The relative L2 error of predictions, its mean and worst, and the time of one query.

        Args:
            who: and the version.
            setting: in words.
            seconds: set-up, data and training.
            predict: of draws z (batch, d), solutions at all degrees of freedom.
        """
        relative = (predict(self.z).double() - self.u).norm(dim=1) / self.u.norm(dim=1)
        times = []
        for i in range(N_TIMED):
            start = time.perf_counter()
            predict(self.z[i % N_TEST, None])
            times.append(time.perf_counter() - start)
        return {
            "case": self.name,
            "who": who,
            "setting": setting,
            "seconds": seconds,
            "relative_l2": float(relative.mean()),
            "worst": float(relative.max()),
            "query_ms": 1e3 * statistics.median(times),
        }

    def shapes(self, x: NDArray[np.float64]) -> Tensor:
        """Those of log kappa at points x (n_points, 2), (n_points, d): z @ shapes.T."""
        field = self.problem.fields["kappa"]
        assert isinstance(field, pddlvm.Field)
        return field.at(Points(x, np.zeros(len(x), dtype=np.int64))).shapes

    def on_grid(self, at_dofs: Tensor) -> Tensor:
        """Values at degrees of freedom (batch, n_dofs) on the grid of nodes, (batch, n+1, n+1)."""
        return at_dofs[:, self._order].unflatten(-1, (self.n + 1, self.n + 1))

    def off_grid(self, values: Tensor) -> Tensor:
        """The other way round."""
        found = values.new_empty(len(values), self.problem.n_dofs)
        found[:, self._order] = values.flatten(1)
        return found

    @cached_property
    def _order(self) -> Tensor:
        """Numbers of the degrees of freedom, along y first."""
        x, y = torch.from_numpy(self.problem.space.dof_points).mul(self.n).round().long().T
        return (x * (self.n + 1) + y).argsort()


def default_case(n: int = 32) -> Case:
    """The linear Poisson problem of the README."""
    return Case(f"Poisson {n} x {n}, 16 terms", poisson.make(n), n)
