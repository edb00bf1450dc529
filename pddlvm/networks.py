"""Neural Gaussian maps: x -> (mean, log variance)."""

import torch
from torch import Tensor, nn

__all__ = ["NeuralGaussian"]


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
        layers: list[nn.Module] = [nn.Linear(n_in, width), nn.SiLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 2 * n_out)
        with torch.no_grad():
            self.head.weight[n_out:] = 0
            self.head.bias[:n_out] = 0
            self.head.bias[n_out:] = log_variance

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (batch, n_out) each."""
        mean, log_variance = self.head(self.body(x)).chunk(2, dim=-1)
        return mean, log_variance
