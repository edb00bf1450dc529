"""Positive links from a latent Gaussian field g to a physical coefficient."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError

__all__ = ["exp", "identity", "one_plus_softplus", "softplus"]


def identity(g: Tensor) -> Tensor:
    """The field itself: g."""
    return g


def exp(g: Tensor) -> Tensor:
    """exp g: the log-normal field."""
    _check(g)
    return g.exp()


def one_plus_softplus(g: Tensor) -> Tensor:
    """1 + log(1 + exp g): bounded below by 1."""
    _check(g)
    return 1 + softplus(g)


def _check(g: Tensor) -> None:
    check_kind(Tensor, g=g)
    if not g.is_floating_point() or g.layout is not torch.strided:
        raise InputError(f"g must be a dense floating-point tensor, got {g.dtype}, {g.layout}")
