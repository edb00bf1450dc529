"""Square roots of precisions of values that share something with their neighbours only.

M = I + B B^T = P^T L L^T P,     B sparse, P the order of a narrow band:    x -> L^{-1} P x
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky_banded
from scipy.linalg.lapack import dtbtrs
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

__all__ = ["BandedRoot"]


@dataclass(frozen=True)
class BandedRoot:
    """L^{-1} P of a batch of matrices with one pattern, float64 on the CPU.

    Attributes:
        factors: L of each matrix in LAPACK's band storage, (width + 1, n).
        order: P, as the old number of each row.
        log_det: log |M|, (batch,).
    """

    factors: Sequence[NDArray[np.float64]]
    order: Tensor
    log_det: Tensor

    @classmethod
    def of(cls, scale: Tensor, rows: sp.csr_matrix, variances: Tensor) -> "BandedRoot":
        """That of B = diag(scale) H diag(variances)^{1/2}.

        Args:
            scale: (batch, n).
            rows: H, (n, p).
            variances: (batch, p).
        """
        pattern = abs(rows) @ abs(rows).T
        order = reverse_cuthill_mckee(sp.csr_matrix(pattern), symmetric_mode=True)
        ordered, factors, log_det = rows[order], [], []
        for s, v in zip(scale.numpy(), variances.numpy(), strict=True):
            b = sp.diags(s[order]) @ ordered @ sp.diags(np.sqrt(v))
            m = sp.tril(b @ b.T + sp.identity(len(order)), format="coo")
            below = m.row - m.col
            band = np.zeros((int(below.max()) + 1, len(order)), order="F")
            band[below, m.col] = m.data
            factors.append(cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False))
            log_det.append(2 * np.log(factors[-1][0]).sum())
        return cls(factors, torch.from_numpy(order.astype(np.int64)), torch.tensor(log_det))

    def at(self, index: Tensor) -> "BandedRoot":
        """Those of some of the batch."""
        factors = [self.factors[i] for i in index.tolist()]
        return BandedRoot(factors, self.order, self.log_det[index])

    def __call__(self, x: Tensor) -> Tensor:
        """L^{-1} P x, (..., n, j); of several matrices (..., batch, n, j)."""
        moved = x[..., self.order, :]
        if len(self.factors) == 1:
            return _solved_all(moved, self.factors[0])
        pairs = zip(moved.unbind(-3), self.factors, strict=True)
        return torch.stack([_solved_all(one, lower) for one, lower in pairs], dim=-3)


class _Solve(torch.autograd.Function):
    """b -> L^{-1} b or L^{-T} b, whose gradient is the other one of g."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, lower: NDArray[np.float64], trans: str) -> Tensor:
        ctx.rest = lower, "T" if trans == "N" else "N"
        return torch.from_numpy(dtbtrs(lower, b.detach().numpy(), uplo="L", trans=trans)[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Solve.apply(gradients[0], *ctx.rest), None, None


def _solved_all(x: Tensor, lower: NDArray[np.float64]) -> Tensor:
    """L^{-1} x, (..., n, j)."""
    columns = x.movedim(-2, 0)
    return _solved(columns.flatten(1), lower).reshape(columns.shape).movedim(0, -2)


def _solved(b: Tensor, lower: NDArray[np.float64]) -> Tensor:
    found: Tensor = _Solve.apply(b, lower, "N")
    return found
