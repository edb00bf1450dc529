"""Precisions of n values by a square root, so that J^T P J = |W J|^2 is positive when rounded.

    P = W^T W;     with an error C = F F^T + E,  E that of neighbours (`LowRank`):

    (P^{-1} + E)^{-1} = R^T R,         R = L^{-1} W,      L L^T = I + W E W^T      (banded)
    (P^{-1} + C)^{-1} = (T R)^T T R,   T = I - U diag(1 - 1 / t) U^T,
        R F = U diag(s) V^T,   t = sqrt(1 + s^2)
    log |(P^{-1} + C)^{-1}| = log |P| - 2 log |L| - 2 sum log t

Of few values, or where W is dense, by eigenvectors of W C W^T. Missing values are zero in W, which
leaves them out of all of it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pddlvm.linalg.banded_root import BandedRoot
from pddlvm.linalg.low_rank import LowRank

__all__ = ["Precision"]

_FEW = 128
"""Values of which dense matrices are cheaper."""
_CROWDED = 0.25
"""Shared numbers per value up to which many share each: bands are wide, and they are few."""


class Step(Protocol):
    """A linear map of a batch, (..., n, j) -> (..., n, j)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""

    def at(self, index: Tensor) -> "Step":
        """Those of some of the batch."""


@dataclass(frozen=True)
class Precision:
    """P, for a batch.

    Attributes:
        root: of P without errors: diagonal (..., n), or dense (..., n, n).
        is_diagonal: which of them.
        log_det: log |P| of the values that are not missing, (...,).
        steps: what is applied after the root.
    """

    root: Tensor
    is_diagonal: bool
    log_det: Tensor
    steps: tuple[Step, ...] = ()

    @classmethod
    def of_weights(cls, weights: Tensor) -> "Precision":
        """diag(weights), (..., n), zero where values are missing."""
        log_det = torch.where(weights > 0, weights, 1.0).log().sum(-1)
        return cls(weights.sqrt(), True, log_det)

    def at(self, index: Tensor) -> "Precision":
        """Those of some of the batch."""
        steps = tuple(step.at(index) for step in self.steps)
        return Precision(self.root[index], self.is_diagonal, self.log_det[index], steps)

    def columns(self, x: Tensor) -> Tensor:
        """W x, (..., n, j)."""
        x = self.root[..., None] * x if self.is_diagonal else self.root @ x
        for step in self.steps:
            x = step(x)
        return x

    def white(self, x: Tensor) -> Tensor:
        """W x of vectors (..., n)."""
        return self.columns(x[..., None])[..., 0]

    def dense(self) -> Tensor:
        """P, (..., n, n)."""
        w = self.columns(torch.eye(self.root.shape[-1]).to(self.root))
        return w.mT @ w

    def widened(self, error: LowRank) -> "Precision":
        """(P^{-1} + C)^{-1}, for precisions without errors."""
        n = self.root.shape[-1]
        if n <= _FEW or not self.is_diagonal:
            root = self.columns(torch.eye(n).to(self.root))
            squares, vectors = torch.linalg.eigh(root @ error.dense() @ root.mT)
            squares = squares.clamp(min=0)
            half = (vectors * (1 + squares).rsqrt()[..., None, :]).mT @ root
            return Precision(half, False, self.log_det - squares.log1p().sum(-1))
        steps: tuple[Step, ...] = ()
        log_det = self.log_det
        if error.rows.shape[1] <= _CROWDED * n:
            error = error.shared()
        else:
            scale = self.root.expand(len(error.variances), n)
            banded = BandedRoot.of(scale, error.rows, error.variances)
            steps, log_det = (banded,), log_det - banded.log_det
        shapes = Precision(self.root, True, log_det, steps).columns(error.factor)
        u, s, _ = torch.linalg.svd(shapes, full_matrices=False)
        t = (1 + s.square()).sqrt()
        log_det = log_det - 2 * t.log().sum(-1)
        return Precision(self.root, True, log_det, (*steps, _Shrink(u, 1 - 1 / t)))


@dataclass(frozen=True)
class _Shrink:
    """x -> x - U diag(c) U^T x."""

    u: Tensor
    c: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x - self.u @ (self.c[..., None] * (self.u.mT @ x))

    def at(self, index: Tensor) -> "_Shrink":
        return _Shrink(self.u[index], self.c[index])
