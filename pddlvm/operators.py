"""Linear evaluation operators, sparse or dense, batched over leading axes and differentiable.

    forward:  e = B u          (..., n_columns) -> (..., n_rows)
    adjoint:  B^T q            (..., n_rows)    -> (..., n_columns)

PyTorch cannot differentiate a CSR product efficiently, so the sparse operator holds both B and
B^T: the backward pass of one is the forward pass of the other.
"""

import warnings
from abc import abstractmethod
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor, nn

__all__ = ["DenseOperator", "LinearOperator", "SparseOperator"]


class LinearOperator(nn.Module):
    """A constant matrix B acting on the last axis."""

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """B u, (..., n_columns) -> (..., n_rows)."""

    @abstractmethod
    def adjoint(self, q: Tensor) -> Tensor:
        """B^T q, (..., n_rows) -> (..., n_columns)."""


class _Product(torch.autograd.Function):
    """x -> x A^T for a sparse A, whose gradient is g -> g A."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, a_transposed: Tensor) -> Tensor:
        ctx.pair = (a_transposed, a)
        batch = x.shape[:-1]
        columns = x.reshape(-1, x.shape[-1]).T.contiguous()
        return (a @ columns).T.reshape(*batch, a.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(gradients[0], *ctx.pair), None, None


class SparseOperator(LinearOperator):
    """A sparse matrix in compressed rows, with its transpose."""

    def __init__(self, matrix: sp.csr_matrix, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.b = _Rows(matrix, dtype)
        self.b_transposed = _Rows(sp.csr_matrix(matrix.T), dtype)

    def forward(self, u: Tensor) -> Tensor:
        """B u."""
        return _Product.apply(u, self.b(), self.b_transposed())

    def adjoint(self, q: Tensor) -> Tensor:
        """B^T q."""
        return _Product.apply(q, self.b_transposed(), self.b())


class _Rows(nn.Module):
    """The parts of a CSR tensor: plain tensors can be copied, pickled and moved, it cannot."""

    values: Tensor
    pointers: Tensor
    columns: Tensor

    def __init__(self, matrix: sp.csr_matrix, dtype: torch.dtype) -> None:
        super().__init__()
        csr = to_torch_csr(matrix, dtype)
        self.shape = csr.shape
        self.register_buffer("values", csr.values())
        self.register_buffer("pointers", csr.crow_indices())
        self.register_buffer("columns", csr.col_indices())

    def forward(self) -> Tensor:
        return _csr(self.pointers, self.columns, self.values, self.shape)


class DenseOperator(LinearOperator):
    """A dense matrix: what a sparse operator becomes in a reduced basis."""

    b: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("b", matrix)

    def forward(self, u: Tensor) -> Tensor:
        """B u."""
        return u @ self.b.T

    def adjoint(self, q: Tensor) -> Tensor:
        """B^T q."""
        return q @ self.b


def to_torch_csr(matrix: sp.csr_matrix, dtype: torch.dtype) -> Tensor:
    """A SciPy sparse matrix as a torch CSR tensor with 32-bit indices (what the kernels want)."""
    matrix = sp.csr_matrix(matrix)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return _csr(
            torch.from_numpy(matrix.indptr.astype("int32")),
            torch.from_numpy(matrix.indices.astype("int32")),
            torch.from_numpy(matrix.data).to(dtype),
            torch.Size(matrix.shape),
        )


def _csr(pointers: Tensor, columns: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_csr_tensor(pointers, columns, values, size=shape, check_invariants=False)
