"""Inverse maps that read solutions on the grid.

`PrincipalGaussian`, the default, reads principal components of u over the prior, each scaled to
one: parameters that u hardly shows are then as visible to the network as the others. `GridGaussian`
is a small convolutional network, the paper's choice.
"""

import math

import torch
from torch import Tensor, nn

from pddlvm.basics.checks import check_count
from pddlvm.basics.errors import InputError
from pddlvm.latent.networks import NeuralGaussian

__all__ = ["GridGaussian", "InverseField", "PrincipalGaussian"]

_CHANNELS = (16, 32, 32)
_FLOOR = 1e-3
_N_SHAPES = 32


class GridGaussian(nn.Module):
    """Strided convolutions on u of a grid, then a head for mean and log variance.

    Any module with the same call may take its place: forward(u: (batch, *grid), extra: (batch,
    n_extra)) returns a pair of (batch, n_out) tensors; of several unknowns u is (batch, n_unknowns,
    *grid).

    Args:
        grid: points along each coordinate, of one to three.
        n_extra: further inputs: known parameters and which ones are known.
        n_out: length of the mean.
        n_unknowns: values at each point.
    """

    def __init__(
        self, grid: tuple[int, ...], n_extra: int, n_out: int, n_unknowns: int = 1
    ) -> None:
        super().__init__()
        if not (isinstance(grid, tuple | list) and 1 <= len(grid) <= 3):
            raise InputError(f"grid must be one to three numbers of points, got {grid!r}")
        check_count(
            1, n_out=n_out, n_unknowns=n_unknowns, **{f"grid[{i}]": n for i, n in enumerate(grid)}
        )
        check_count(0, n_extra=n_extra)
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(grid) - 1]
        layers: list[nn.Module] = []
        self.image = (n_unknowns, *grid)
        channels = n_unknowns
        for n, stride in zip(_CHANNELS, (4, 2, 2), strict=True):
            layers += [kind(channels, n, stride + 1, stride, padding=1), nn.SiLU()]
            channels = n
        self.body = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            n_features = self.body(torch.zeros(1, *self.image)).shape[1]
        self.head = nn.Sequential(
            nn.Linear(n_features + n_extra, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
            nn.Linear(64, 2 * n_out),
        )  # fmt: skip

    def forward(self, u: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (batch, n_out) each."""
        features = torch.cat([self.body(u.reshape(-1, *self.image)), extra], dim=-1)
        mean, log_variance = self.head(features).chunk(2, dim=-1)
        return mean, log_variance


class PrincipalGaussian(nn.Module):
    """A perceptron on scaled principal components of u.

    Args:
        grid: points along each coordinate, of several unknowns their number before.
        n_extra: further inputs: known parameters and which ones are known.
        n_out: length of the mean.
        n_components: principal components that are read.
    """

    components: Tensor

    def __init__(
        self, grid: tuple[int, ...], n_extra: int, n_out: int, n_components: int = 24
    ) -> None:
        super().__init__()
        self.register_buffer("components", torch.zeros(math.prod(grid), n_components))
        self.network = NeuralGaussian(n_components + n_extra, n_out, width=128, depth=3)

    def fit(self, spread: Tensor, rows: Tensor) -> None:
        """Take the principal components of fields, (k, n_dofs), and how much each varies, (k,)."""
        n = self.components.shape[1]
        # What varies less than the errors of the forward map would only show these.
        scales = spread.clamp(min=float(_FLOOR * spread[0]))
        found = (rows / scales[:, None])[:n].T
        self.components.zero_()
        self.components[:, : found.shape[1]] = found.to(self.components)

    def forward(self, u: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (batch, n_out) each, of u (batch, *grid)."""
        features = torch.cat([u.flatten(1) @ self.components, extra], dim=-1)
        mean, log_variance = self.network(features)
        return mean, log_variance


class InverseField(nn.Module):
    """p(xi | u on the grid): a network of u, centred and scaled point by point.

    Solutions lie close to few shapes. What of a field is outside of them no parameter explains,
    however little it misleads the network.

    Args:
        network: reads u of the shape `grid`.
        grid: points along each coordinate, of several unknowns their number before.
        n_unknowns: each has a scale of its own.
    """

    centre: Tensor
    scale: Tensor
    shapes: Tensor

    def __init__(self, network: nn.Module, grid: tuple[int, ...], n_unknowns: int = 1) -> None:
        super().__init__()
        self.network = network
        self.n_unknowns = n_unknowns
        self.grid = grid
        n = math.prod(grid)
        # u has units, and maybe a large mean: float64.
        self.register_buffer("centre", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n, dtype=torch.float64))
        self.register_buffer("shapes", torch.zeros(n, _N_SHAPES, dtype=torch.float64))

    def fit_scaling(self, u: Tensor) -> None:
        """Centre, scale and shapes from some solutions, (n_samples, n_dofs)."""
        self.centre = u.double().mean(0)
        # One scale for all points: where u hardly varies there is little to read.
        spread = (u.double() - self.centre).std(0).reshape(self.n_unknowns, -1)
        size = spread.square().mean(1, keepdim=True).sqrt()
        self.scale = torch.where(size > 0, size, 1.0).expand_as(spread).flatten().clone()
        scaled = (u - self.centre) / self.scale
        _, sizes, rows = torch.linalg.svd(scaled, full_matrices=False)
        found = rows[:_N_SHAPES].T
        self.shapes = nn.functional.pad(found, (0, _N_SHAPES - found.shape[1]))
        if isinstance(self.network, PrincipalGaussian):
            self.network.fit(sizes / len(u) ** 0.5, rows)

    def outside(self, u: Tensor) -> Tensor:
        """How much of fields (batch, n_dofs) is in none of the shapes, relative, (batch,)."""
        scaled = (u.double() - self.centre) / self.scale
        outside = scaled - (scaled @ self.shapes) @ self.shapes.T
        size = (u.double() / self.scale).norm(dim=-1)
        return outside.norm(dim=-1) / torch.where(size > 0, size, 1.0)

    def forward(self, u: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of xi, (batch, d) each, like extra, of u (batch, n_dofs)."""
        scaled = ((u.double() - self.centre) / self.scale).to(extra.dtype)
        mean, log_variance = self.network(scaled.reshape(-1, *self.grid), extra)
        return mean, log_variance
