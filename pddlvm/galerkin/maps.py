"""The two maps of the latent variable model, in coefficients c and standard parameters xi.

    forward   q(c | z)  = N(a(z) mean(xi), a(z)^2 diag(var(xi))),   a(z) the expected size of c
    inverse   p(xi | u) = N(mean(f), diag(var(f))),  f the features of u below

Features of u: its direction c / |c|, its size log |c|, and its boundary values b, each centred and
scaled; then, where z has several blocks, the known parameters and which ones are known.
"""

import torch
from torch import Tensor, nn

from pddlvm.latent.size import LogQuadratic

__all__ = ["ForwardMap", "InverseMap", "bounded"]


_BOUNDS = (-40.0, 5.0)


def bounded(log_variance: Tensor) -> Tensor:
    """The log variance within bounds that keep exp finite; the gradient is that at the bound.

    Early in training a network may overshoot: a plain clamp would cut its gradient for good.
    """
    return log_variance + (log_variance.clamp(*_BOUNDS) - log_variance).detach()


class ForwardMap(nn.Module):
    """q(c | z): network times the expected size of the solution."""

    def __init__(self, network: nn.Module, amplitude: LogQuadratic) -> None:
        super().__init__()
        self.network = network
        self.amplitude = amplitude

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of c, (batch, n_modes) each."""
        mean, log_variance = self.network(xi)
        size = self.amplitude(xi)[:, None]
        return size * mean, bounded(log_variance) + 2 * size.log()


class InverseMap(nn.Module):
    """p(xi | u): network of scaled features of u."""

    centre: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, n_features: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def fit_scaling(self, c: Tensor, b: Tensor) -> None:
        """Centre and scale the features with those of some solutions."""
        f = self.raw_features(c, b)
        # Directions that hardly vary carry round-off: do not blow them up.
        floor = 1e-4 * f.std(0).max()
        self.centre = f.mean(0).to(self.centre)
        self.scale = f.std(0).clamp(min=float(floor)).to(self.scale)

    @staticmethod
    def raw_features(c: Tensor, b: Tensor) -> Tensor:
        """(c / |c|, log |c|, b), (batch, n_modes + 1 + rank)."""
        size = c.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return torch.cat([c / size, size.log(), b], dim=-1)

    def forward(
        self, c: Tensor, b: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of xi, (batch, d) each.

        Args:
            c: coefficients, (batch, n_modes).
            b: boundary coordinates, (batch, rank).
            xi_known: known parameters, zero where unknown, (batch, d); None where z has one block.
            known: 1 where known, 0 elsewhere, (batch, d).
        """
        f = (self.raw_features(c, b) - self.centre) / self.scale
        if xi_known is not None and known is not None:
            f = torch.cat([f, xi_known, known], dim=-1)
        mean, log_variance = self.network(f)
        return mean, bounded(log_variance)
