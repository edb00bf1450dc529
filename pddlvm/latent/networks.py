"""Neural Gaussian maps: x -> (mean, log variance)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pddlvm.basics.checks import check_count, check_real
from pddlvm.basics.errors import InputError, RunFileError
from pddlvm.basics.random import seeded

__all__ = ["NeuralGaussian", "evaluating", "rebuild_network", "sizes_of"]

_LARGEST_LOG = 80.0
"""exp of it is a float32 number."""


class NeuralGaussian(nn.Module):
    """A multilayer perceptron with SiLU activations and a linear head for mean and log variance.

    Any module with the same call may take its place: forward(x: (batch, n_in)) returns a pair of
    (batch, n_out) tensors.

    Args:
        n_in: length of x.
        n_out: length of the mean.
        width: of the hidden layers.
        depth: number of hidden layers.
        log_variance: initial value, the same for all outputs. Start it where it will end: a map
            that begins over-confident takes very long to learn.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        width: int = 192,
        depth: int = 4,
        log_variance: float = 0.0,
    ) -> None:
        super().__init__()
        check_count(1, n_in=n_in, n_out=n_out, width=width, depth=depth)
        check_real(log_variance=log_variance)
        if abs(log_variance) > _LARGEST_LOG:
            raise InputError(f"log_variance must be within {_LARGEST_LOG:g}, got {log_variance}")
        layers: list[nn.Module] = [nn.Linear(n_in, width), nn.SiLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 2 * n_out)
        with torch.no_grad():
            self.head.weight[n_out:] = 0
            self.head.bias[:n_out] = 0
            self.head.bias[n_out:] = float(log_variance)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (batch, n_out) each."""
        mean, log_variance = self.head(self.body(x)).chunk(2, dim=-1)
        return mean, log_variance


def sizes_of(network: nn.Module) -> dict[str, int] | None:
    """Sizes of a `NeuralGaussian`; None for a user's own module."""
    if not isinstance(network, NeuralGaussian):
        return None
    linear = [layer for layer in network.body if isinstance(layer, nn.Linear)]
    return {
        "n_in": linear[0].in_features,
        "n_out": network.head.out_features // 2,
        "width": linear[0].out_features,
        "depth": len(linear),
    }


def rebuild_network(
    name: str, sizes: dict[str, int] | None, own: nn.Module | None, n_saved: int
) -> nn.Module:
    """A network from its saved sizes, or the user's own.

    Args:
        name: of the map, for messages.
        sizes: what `sizes_of` gave.
        own: the user's.
        n_saved: values that the file holds; a network that claims more is not even made.
    """
    if own is not None:
        return own
    if sizes is None:
        raise RunFileError(f"the model had a {name} network of its own: pass {name}_network")
    if not all(isinstance(n, int) and 0 < n <= n_saved for n in sizes.values()):
        raise ValueError(f"impossible sizes of the {name} network")
    width = sizes["width"]
    n_values = width * (sizes["n_in"] + (sizes["depth"] - 1) * width + 2 * sizes["n_out"])
    if n_values > n_saved:
        raise ValueError(f"the {name} network is larger than what is saved of it")
    with seeded(0):  # The weights follow from the file.
        return NeuralGaussian(**sizes)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, layers that train otherwise than they answer (dropout) answer."""
    training = [module for module in network.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
