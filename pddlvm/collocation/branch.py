"""q(c | z) of a collocation model: a network, then a linear layer found by least squares.

    mean(xi) = W f(xi),   f = (1, xi, xi xi^T, tanh(A xi + b), network(xi)),    A and b random

Gradient descent brings the network to some 1e-3 of c. What is left is linear in W: once good
coefficients are known for some thousand draws, one ridge regression brings it to 1e-5 and below.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pddlvm.galerkin.maps import bounded

__all__ = ["Branch"]

_N_RANDOM = 256
_SEED = 0
_RIDGES = (1e-13, 1e-11, 1e-9, 1e-7, 1e-5, 1e-3)
_HELD_OUT = 0.2


class Branch(nn.Module):
    """q(c | z) = N(mean(xi), diag(var(xi))).

    Args:
        network: module xi (batch, d) -> mean, log variance (batch, m).
        d: length of xi.
        m: length of c.
    """

    directions: Tensor
    offsets: Tensor
    weights: Tensor
    is_fitted: Tensor

    def __init__(self, network: nn.Module, d: int, m: int) -> None:
        super().__init__()
        self.network = network
        generator = torch.Generator().manual_seed(_SEED)
        directions = torch.randn(d, _N_RANDOM, generator=generator) / math.sqrt(d)
        self.register_buffer("directions", directions)
        self.register_buffer("offsets", 2 * torch.rand(_N_RANDOM, generator=generator) - 1)
        n = 1 + d + d * (d + 1) // 2 + _N_RANDOM + m
        self.register_buffer("weights", torch.zeros(n, m))
        self.register_buffer("is_fitted", torch.tensor(False))
        self._is_alone = False

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of c, (batch, m) each."""
        mean, log_variance = self.network(xi)
        if not self._is_alone and self.is_fitted:
            mean = self._features(xi, mean) @ self.weights
        return mean, bounded(log_variance)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, the map is its network, and does not read from a device whether it is."""
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone = False

    def reset(self) -> None:
        """The network alone, as it is trained."""
        self.is_fitted.fill_(False)

    @torch.no_grad()
    def fit(self, xi: Tensor, c: Tensor, gram: Tensor) -> None:
        """Fit the linear layer, unless the network alone is better on held-out draws.

        Args:
            xi: (n, d).
            c: coefficients to learn, (n, m), float64.
            gram: M, (m, m) float64: the error of c is measured by (c - c*)^T M (c - c*).
        """
        self.reset()
        like = self.weights
        network = self.network(xi.to(like))[0]
        features = self._features(xi.to(like), network)
        target = c.to(like.device)
        n = len(c) - int(_HELD_OUT * len(c))
        inside = features[:n].double()
        moments, right = inside.T @ inside, inside.T @ target[:n]
        identity = torch.eye(len(moments), dtype=torch.float64, device=like.device)
        scale = moments.diagonal().mean()

        def misfit(mean: Tensor) -> float:
            e = mean.double() - target[n:]
            return float(((e @ gram.to(e)) * e).sum(-1).mean())

        best = misfit(network[n:])
        for ridge in _RIDGES:
            # In the working precision: weights that cancel are no use there.
            weights = torch.linalg.solve(moments + ridge * scale * identity, right).to(like)
            found = misfit(features[n:] @ weights)
            if found < best:
                best = found
                self.weights.copy_(weights)
                self.is_fitted.fill_(True)

    def _features(self, xi: Tensor, network: Tensor) -> Tensor:
        i, j = torch.triu_indices(xi.shape[1], xi.shape[1], device=xi.device)
        one = torch.ones_like(xi[:, :1])
        random = torch.tanh(xi @ self.directions + self.offsets)
        return torch.cat([one, xi, xi[:, i] * xi[:, j], random, network], dim=-1)
