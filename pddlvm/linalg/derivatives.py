"""Derivatives of functions that map each row of a batch for itself.

    J v  =  d (J^T w) v / dw,    because J^T w is linear in w

so that the d columns of J cost d passes, whatever the number of its rows is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["linearise"]


def linearise(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (batch, m) and derivatives (batch, m, d) of a function at x, (batch, d)."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = function(at)
        if not value.requires_grad:
            return value, value.new_zeros(*value.shape, x.shape[-1])
        w = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, at, w, create_graph=True)
        columns = [
            torch.autograd.grad(part.sum(), w, retain_graph=True)[0] for part in pulled.unbind(-1)
        ]
    return value.detach(), torch.stack(columns, dim=-1)
