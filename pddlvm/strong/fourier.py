"""Equal points of a period [-1, 1): differentiation and interpolation (Trefethen, 2000, chapter 3).

s_j = -1 + 2 j / n,   p(s) = sum_j w_j(s) f_j / sum_j w_j(s),   w_j = (-1)^j csc(pi (s - s_j) / 2)

for odd n, where the square of the derivative is the second derivative.
"""

import math

import torch
from torch import Tensor

__all__ = ["coefficients", "derivative", "hats", "interpolation", "nodes", "quadrature_weights"]


def nodes(n: int) -> Tensor:
    """n equal points, the start of the period among them, (n,), float64."""
    return -1 + 2 * torch.arange(n, dtype=torch.float64) / n


def derivative(n: int, order: int = 1) -> Tensor:
    """D with D f = f^(order) there, exact for waves up to (n - 1) / 2 in the period, (n, n)."""
    j = torch.arange(n, dtype=torch.float64)
    apart = j[:, None] - j
    sign = 1 - 2 * (apart.abs() % 2)
    sine = torch.sin(math.pi * apart / n) + torch.eye(n, dtype=torch.float64)
    d = (0.5 * math.pi * sign / sine).fill_diagonal_(0.0)
    return torch.linalg.matrix_power(d, order)


def interpolation(s: Tensor, n: int) -> Tensor:
    """Matrix from values at the n nodes to values at s, (..., n_points, n); dtype of s."""
    sign = 1 - 2 * (torch.arange(n, dtype=torch.float64, device=s.device) % 2)
    sine = torch.sin(0.5 * math.pi * (s.double()[..., None] - nodes(n).to(s.device)))
    hit = sine.abs() < 1e-14
    terms = sign / torch.where(hit, 1.0, sine)
    matrix = terms / terms.sum(-1, keepdim=True)
    return torch.where(hit.any(-1, keepdim=True), hit.to(matrix), matrix).to(s)


def hats(s: Tensor, n: int) -> Tensor:
    """The same for piecewise linear interpolation, which keeps what is positive positive."""
    apart = 0.5 * n * (s.double()[..., None] - nodes(n).to(s.device))
    # In steps, to the nearest copy of each node.
    apart = apart - n * (apart / n).round()
    return (1 - apart.abs()).clamp(min=0).to(s)


def quadrature_weights(n: int) -> Tensor:
    """Weights at the n nodes that integrate over [-1, 1], (n,), float64."""
    return torch.full((n,), 2 / n, dtype=torch.float64)


def coefficients(n: int) -> Tensor:
    """Matrix from values at the nodes to those of 1, cos, sin, cos 2, ... of pi s, (n, n)."""
    k = torch.arange(1, (n + 1) // 2, dtype=torch.float64)
    phase = math.pi * k * nodes(n)[:, None]
    waves = torch.stack([torch.cos(phase), torch.sin(phase)], dim=-1).flatten(1)
    return torch.linalg.inv(torch.cat([torch.ones(n, 1, dtype=torch.float64), waves], dim=1))
