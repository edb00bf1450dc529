"""Chebyshev points of [-1, 1]: differentiation and interpolation (Trefethen, 2000, chapters 5, 6).

s_j = -cos(pi j / n),   p(s) = sum_j w_j f_j / (s - s_j) / sum_j w_j / (s - s_j),   j = 0 ... n
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "at_points",
    "barycentric",
    "coefficients",
    "derivative",
    "hats",
    "nodes",
    "quadrature_weights",
    "tensor_product",
]


def nodes(n: int) -> Tensor:
    """n Chebyshev points with both ends, increasing, (n,), float64."""
    s = -torch.cos(torch.pi * torch.arange(n, dtype=torch.float64) / (n - 1))
    return 0.5 * (s - s.flip(0))


def _weights(n: int) -> Tensor:
    w = (-1.0) ** torch.arange(n, dtype=torch.float64)
    w[0], w[-1] = 0.5 * w[0], 0.5 * w[-1]
    return w


def derivative(n: int, order: int = 1) -> Tensor:
    """D with D f = f^(order) at the nodes, exact for polynomials of degree n - 1, (n, n).

        D^k_ij = k (D^{k-1}_ii w_j / w_i - D^{k-1}_ij) / (s_i - s_j)

    (Welfert, SIAM J. Numer. Anal. 34, 1997): powers of the first would lose digits.
    """
    s, w = nodes(n), _weights(n)
    difference = s[:, None] - s + torch.eye(n, dtype=torch.float64)
    d = torch.eye(n, dtype=torch.float64)
    for k in range(1, order + 1):
        d = k * (d.diagonal()[:, None] * w / w[:, None] - d) / difference
        d.fill_diagonal_(0.0)
        # The rows sum to zero: more accurate than a formula of the diagonal.
        d.diagonal().copy_(-d.sum(1))
    return d


def barycentric(s: Tensor, n: int) -> Tensor:
    """Matrix from values at the n nodes to values at s, (..., n_points, n); dtype of s."""
    at, w = nodes(n).to(s.device), _weights(n).to(s.device)
    difference = s.double()[..., None] - at
    hit = difference.abs() < 1e-14
    terms = w / torch.where(hit, 1.0, difference)
    matrix = terms / terms.sum(-1, keepdim=True)
    return torch.where(hit.any(-1, keepdim=True), hit.to(matrix), matrix).to(s)


def hats(s: Tensor, n: int) -> Tensor:
    """The same for piecewise linear interpolation, which keeps what is positive positive."""
    at = nodes(n).to(s.device)
    x = s.double().clamp(-1, 1)
    # Nodes inside that are not beyond x; ONNX has no search.
    left = (x[..., None] >= at[1:-1]).sum(-1)
    weight = (x - at[left]) / (at[left + 1] - at[left])
    matrix = torch.zeros(*x.shape, n, dtype=x.dtype, device=s.device)
    matrix.scatter_(-1, left[..., None], (1 - weight)[..., None])
    matrix.scatter_(-1, left[..., None] + 1, weight[..., None])
    return matrix.to(s)


def tensor_product(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix along each axis: (batch, n_1, ..., n_k) -> (batch, m_1, ..., m_k).

    Args:
        values: at the nodes.
        matrices: (m_i, n_i), or (batch, m_i, n_i) where they differ between samples.
    """
    for axis, matrix in enumerate(matrices, start=1):
        moved = values.movedim(axis, -1)
        if matrix.ndim == 3:
            between = [1] * (moved.ndim - 3)
            matrix = matrix.reshape(len(matrix), *between, *matrix.shape[-2:])
        values = (moved @ matrix.mT).movedim(-1, axis)
    return values


def coefficients(n: int) -> Tensor:
    """Matrix from values at the nodes to those of Chebyshev polynomials of order 0, 1, ..."""
    orders = torch.arange(n, dtype=torch.float64)
    return torch.linalg.inv(torch.cos(orders * torch.arccos(nodes(n))[:, None]))


def at_points(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The same at scattered points: (batch, n_1, ..., n_k) -> (batch, n_points).

    Args:
        values: at the nodes.
        matrices: (n_points, n_i), or (batch, n_points, n_i).
    """
    first, *others = (m if m.ndim == 3 else m[None] for m in matrices)
    # (batch, n_points, n_2 ... n_k): then one axis less with each row of a point.
    flat = values.reshape(*values.shape[:2], -1)
    found = (first @ flat).unflatten(-1, values.shape[2:] or (1,))
    for matrix in others:
        rows = matrix.reshape(*matrix.shape, *[1] * (found.ndim - 3))
        found = (rows * found).sum(2)
    return found.reshape(*found.shape[:2])


def quadrature_weights(n: int) -> Tensor:
    """Weights at the n nodes that integrate over [-1, 1] (Clenshaw and Curtis), (n,), float64."""
    k = torch.arange(n, dtype=torch.float64)
    moments = torch.where(k % 2 == 0, 2 / (1 - k * k), 0.0)
    return torch.linalg.solve(torch.cos(k[:, None] * torch.acos(nodes(n))), moments)
