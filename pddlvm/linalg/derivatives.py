"""Derivatives of functions that map each row of a batch for itself.

    J v  =  d (J^T w) v / dw,    because J^T w is linear in w

so that the d columns of J cost d passes, whatever the number of its rows is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.errors import InputError

__all__ = ["linearise", "linearise_at_once", "only_once", "root", "with_slope"]


class _Once(torch.autograd.Function):
    """The identity, whose derivative has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Only with create_graph: what was held would have no derivative, and nobody told.
        if torch.is_grad_enabled():
            raise InputError(
                "solutions and corrected answers have first derivatives only, and create_graph "
                "asks for more; those of model.forward(z), corrections=0, have all"
            )
        return gradients[0]


def only_once(x: Tensor) -> Tensor:
    """The same values; a derivative of their derivative is refused."""
    found: Tensor = _Once.apply(x)
    return found


def with_slope(value: Tensor, change: Tensor) -> Tensor:
    """A value, with the derivative of a change; a derivative of its derivative is refused."""
    return only_once(value + (change - change.detach()))


def linearise(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (batch, m) and derivatives (batch, m, d) of a function at x, (batch, d)."""
    return _linearise(function, x, _one_by_one)


def linearise_at_once(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The same with all columns in one pass: of functions whose derivatives torch can batch."""
    return _linearise(function, x, _at_once)


def root(x: Tensor) -> Tensor:
    """sqrt x of numbers that are not negative; where x is zero for good its derivative is zero."""
    if not x.requires_grad:
        return x.sqrt()
    is_zero = x == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, x).sqrt())


def _linearise(
    function: Callable[[Tensor], Tensor], x: Tensor, columns: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = function(at)
        if not value.requires_grad:
            return value, value.new_zeros(*value.shape, x.shape[-1])
        w = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, at, w, create_graph=True)
        return value.detach(), columns(pulled, w)


def _one_by_one(pulled: Tensor, w: Tensor) -> Tensor:
    parts = pulled.unbind(-1)
    found = [torch.autograd.grad(part.sum(), w, retain_graph=True)[0] for part in parts]
    return torch.stack(found, dim=-1)


def _at_once(pulled: Tensor, w: Tensor) -> Tensor:
    d = pulled.shape[-1]
    each = torch.eye(d, dtype=pulled.dtype, device=pulled.device)[:, None].expand(d, len(w), d)
    return torch.autograd.grad(pulled, w, each, is_grads_batched=True)[0].movedim(0, -1)
