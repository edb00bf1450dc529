"""Linear evaluation operators, sparse or dense, batched over leading axes and differentiable.

    forward:  e = B u          (..., n_columns) -> (..., n_rows)
    adjoint:  B^T q            (..., n_rows)    -> (..., n_columns)

In a reduced basis the columns have no units, and what the physics reads of them has:

    e = s * (B a) + e0,        rows of B of size one,   e, s and e0 in float64

PyTorch cannot differentiate a CSR product efficiently, so the sparse operator holds both B and
B^T: the backward pass of one is the forward pass of the other.
"""

import warnings
from abc import abstractmethod
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor, nn

__all__ = ["DenseOperator", "LinearOperator", "ScaledOperator", "SparseOperator"]


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
        columns = x.reshape(batch.numel(), x.shape[-1]).T.contiguous()
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
    """A dense matrix."""

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


class ScaledOperator(LinearOperator):
    """What a sparse operator becomes in a reduced basis: e = s * (B a) + e0.

    a is of the dtype of B, e is float64: physics has units, and may leave the range of float32.

    Args:
        matrix: s * B, (n_rows, n_columns), float64.
        offset: e0, (n_rows,), float64.
        dtype: of B.
    """

    b: Tensor
    unit: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        unit, rows = scale_rows(matrix)
        self.register_buffer("b", rows.to(dtype))
        self.register_buffer("unit", unit)
        self.register_buffer("offset", offset)

    @property
    def columns(self) -> Tensor:
        """s * B, (n_rows, n_columns), float64."""
        return self.unit[:, None] * self.b

    def forward(self, u: Tensor) -> Tensor:
        """e, float64."""
        return self.unit * (u @ self.b.T) + self.offset

    def adjoint(self, q: Tensor) -> Tensor:
        """B^T (s * q), of the dtype of B."""
        return (q * self.unit).to(self.b) @ self.b


def scale_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry of each row in size (n_rows,), and the rows relative to it."""
    size = matrix.abs().amax(-1)
    return size, matrix / torch.where(size > 0, size, 1.0)[:, None]


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
