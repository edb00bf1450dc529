"""Covariances of many values by few numbers: what all of them share, and what neighbours share.

C  =  F F^T + H diag(v) H^T,      F (n, k),   H (n, p) sparse
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.linalg.operators import SparseOperator

__all__ = ["LowRank", "columns_of"]

_MOST = 2**24
"""Numbers that are held at a time."""


@dataclass(frozen=True)
class LowRank:
    """C of n values, for a batch.

    Attributes:
        factor: F, (batch, n, k).
        rows: H, (n, p).
        variances: v, (batch, p).
    """

    factor: Tensor
    rows: sp.csr_matrix
    variances: Tensor

    @classmethod
    def of_factor(cls, factor: Tensor) -> "LowRank":
        """F F^T, (batch, n, k)."""
        return cls(factor, sp.csr_matrix((factor.shape[1], 0)), factor.new_zeros(len(factor), 0))

    @classmethod
    def joined(cls, parts: list["LowRank"]) -> "LowRank":
        """Parts of a batch, one after the other, of the same H."""
        factors, variances = zip(*((p.factor, p.variances) for p in parts), strict=True)
        return cls(torch.cat(factors), parts[0].rows, torch.cat(variances))

    def at(self, index: Tensor) -> "LowRank":
        """Those of some of the batch."""
        return LowRank(self.factor[index], self.rows, self.variances[index])

    def mean(self) -> "LowRank":
        """That of the batch, a batch of one."""
        factor = torch.cat(list(self.factor), dim=-1)[None] / len(self.factor) ** 0.5
        return LowRank(factor, self.rows, self.variances.mean(0, keepdim=True))

    def plus(self, factor: Tensor) -> "LowRank":
        """With other columns of F beside its own, (batch, n, j)."""
        return LowRank(torch.cat([self.factor, factor], dim=-1), self.rows, self.variances)

    def shared(self) -> "LowRank":
        """The same with all of it in F."""
        h = torch.from_numpy(self.rows.toarray())
        return LowRank.of_factor(self.factor).plus(h * self.variances.sqrt()[:, None, :])

    def diagonal(self) -> Tensor:
        """Variances of the values, (batch, n)."""
        squares = SparseOperator(self.rows.power(2))
        own: Tensor = squares(self.variances)
        return self.factor.square().sum(-1) + own

    def dense(self) -> Tensor:
        """C, (batch, n, n)."""
        h = torch.from_numpy(self.rows.toarray())
        parts = self.variances.split(max(1, _MOST // max(1, h.numel())))
        own = torch.cat([(h * part[:, None, :]) @ h.T for part in parts])
        return self.factor @ self.factor.mT + own


def columns_of(rows: sp.csr_matrix) -> tuple[sp.csr_matrix, Tensor]:
    """The columns of H that are not zero, and their numbers."""
    touched = np.unique(rows.indices)
    return sp.csr_matrix(rows[:, touched]), torch.from_numpy(touched.astype(np.int64))
