"""Positive links from a latent Gaussian field g to a physical coefficient."""

from torch import Tensor
from torch.nn.functional import softplus

from pddlvm.basics.checks import check_kind

__all__ = ["exp", "identity", "one_plus_softplus", "softplus"]


def identity(g: Tensor) -> Tensor:
    """The field itself: g."""
    return g


def exp(g: Tensor) -> Tensor:
    """exp g: the log-normal field."""
    check_kind(Tensor, g=g)
    return g.exp()


def one_plus_softplus(g: Tensor) -> Tensor:
    """1 + log(1 + exp g): bounded below by 1."""
    check_kind(Tensor, g=g)
    return 1 + softplus(g)
