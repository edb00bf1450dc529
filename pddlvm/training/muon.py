"""Muon: momentum steps of matrices, made orthogonal (Jordan et al., 2024).

    m <- mu m + (1 - mu) g,    X = (1 - mu) g + mu m
    W <- W - rate sqrt(max(1, rows / columns)) O(X)

O takes the singular values of X / |X| close to 1 by five steps X <- a X + (b G + c G^2) X with
G = X X^T. torch.optim.Muon takes them in bfloat16 wherever it is; a CPU that only emulates bfloat16
then spends nearly all of a training on them. Here they are in the precision of the weights. On
a GPU those of one shape are taken together, which starts fewer kernels.
"""

import math
from collections.abc import Iterable
from typing import Any

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
            alike: dict[Any, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    # A CPU keeps one matrix in its cache.
                    key = id(weight) if weight.device.type == "cpu" else weight.shape
                    alike.setdefault(key, []).append(weight)
            for weights in alike.values():
                rows, columns = weights[0].shape
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                steps = _orthogonal(torch.stack([self._smoothed(weight) for weight in weights]))
                for weight, step in zip(weights, steps, strict=True):
                    weight.sub_(step, alpha=rate)

    def _smoothed(self, weight: nn.Parameter) -> Tensor:
        """X of a matrix that has a gradient."""
        gradient = weight.grad
        assert gradient is not None
        momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(momentum, _MOMENTUM)


def _orthogonal(x: Tensor) -> Tensor:
    """U V^T of each x = U S V^T, (n, rows, columns), singular values within 0.3 of 1 as a rule."""
    if x.shape[1] > x.shape[2]:
        return _orthogonal(x.mT).mT
    # In two steps: the squares of very small numbers, or very large ones, are none.
    x = x / x.flatten(1).abs().amax(1)[:, None, None].clamp(min=torch.finfo(x.dtype).tiny)
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x
