"""Which rows of a batch a process has.

Processes that train together all draw the whole batch, from the same state, and each works on its
rows: the draws are those of one process, whatever the number of processes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a batch.

    Attributes:
        total: rows of the batch.
        own: numbers of those that are here, ascending, (n,), on the CPU.
    """

    total: int
    own: Tensor

    @classmethod
    def given(cls, batch: "int | Rows") -> "Rows":
        """Of a number, that many rows, all of them here."""
        return batch if isinstance(batch, Rows) else cls(batch, torch.arange(batch))

    def __len__(self) -> int:
        return len(self.own)

    def __add__(self, other: "Rows") -> "Rows":
        """Of two batches, one after the other."""
        return Rows(self.total + other.total, torch.cat([self.own, self.total + other.own]))

    def until(self, n: int) -> "Rows":
        """Those among the first n rows of the batch."""
        return Rows(n, self.own[self.own < n])

    def of(self, whole: Tensor, axis: int = 0) -> Tensor:
        """Of (..., total, ...) the rows that are here, (..., n, ...)."""
        if len(self) == self.total:
            return whole
        return whole.index_select(axis, self.own.to(whole.device))

    def normal_like(self, x: Tensor, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers for x (n, ...), drawn by torch for the whole batch."""
        shape = (*sample_shape, self.total, *x.shape[1:])
        drawn = torch.randn(shape, dtype=x.dtype, device=x.device)
        return self.of(drawn, len(sample_shape))
