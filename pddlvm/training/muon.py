"""Muon: momentum steps of matrices, made orthogonal (Jordan et al., 2024).

    m <- mu m + (1 - mu) g,    X = (1 - mu) g + mu m
    W <- W - rate sqrt(max(1, rows / columns)) O(X)

O takes the singular values of X / |X| close to 1 by five steps X <- a X + (b G + c G^2) X with
G = X X^T. torch.optim.Muon takes them in bfloat16 wherever it is; a CPU that only emulates bfloat16
then spends nearly all of a training on them. Here they are in the precision of the weights.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon"]

_MOMENTUM = 0.95
_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Steps for the hidden matrices of networks.

    Args:
        parameters: matrices.
        lr: rate; each step changes a weight by about that over the root of its number of columns.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all matrices that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - _MOMENTUM)
                rows, columns = weight.shape
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                weight.sub_(rate * _orthogonal(weight.grad.lerp(momentum, _MOMENTUM)))


def _orthogonal(x: Tensor) -> Tensor:
    """U V^T of x = U S V^T, its singular values within 0.3 of 1 as a rule."""
    if x.shape[0] > x.shape[1]:
        return _orthogonal(x.T).T
    # In two steps: the squares of very small numbers, or very large ones, are none.
    x = x / x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
    x = x / x.norm().clamp(min=1)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x
