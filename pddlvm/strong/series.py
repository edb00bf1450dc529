"""What a solution is along a coordinate: a polynomial on Chebyshev points, or waves of a period."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.strong import chebyshev, fourier

__all__ = ["CHEBYSHEV", "FOURIER", "Series", "tail"]


@dataclass(frozen=True)
class Series:
    """Functions of the number n of nodes.

    Attributes:
        nodes: n -> s_j, (n,).
        derivative: n, order -> D, (n, n).
        interpolation: s, n -> matrix from values at the nodes to values at s.
        hats: the same, piecewise linear.
        quadrature_weights: n -> weights at the nodes, (n,).
        coefficients: n -> matrix from values to coefficients, the smooth functions first, (n, n).
    """

    nodes: Callable[[int], Tensor]
    derivative: Callable[[int, int], Tensor]
    interpolation: Callable[[Tensor, int], Tensor]
    hats: Callable[[Tensor, int], Tensor]
    quadrature_weights: Callable[[int], Tensor]
    coefficients: Callable[[int], Tensor]


CHEBYSHEV = Series(
    chebyshev.nodes,
    chebyshev.derivative,
    chebyshev.barycentric,
    chebyshev.hats,
    chebyshev.quadrature_weights,
    chebyshev.coefficients,
)
FOURIER = Series(
    fourier.nodes,
    fourier.derivative,
    fourier.interpolation,
    fourier.hats,
    fourier.quadrature_weights,
    fourier.coefficients,
)


def tail(values: Tensor, series: tuple[Series, ...]) -> Tensor:
    """Root mean square of what the highest eighth of the functions along each axis contribute.

    A measure of what the nodes do not resolve: coefficients of smooth functions fall evenly.

    Args:
        values: at the nodes, (batch, n_1, ..., n_k).
        series: of each axis.

    Returns:
        (batch,).
    """
    found = torch.zeros_like(values.flatten(1)[:, 0])
    for axis, (n, own) in enumerate(zip(values.shape[1:], series, strict=True), start=1):
        last = own.coefficients(n)[-max(2, n // 8) :].to(values)
        along = values.movedim(axis, -1)
        highest = last @ along.reshape(len(along), along.shape[1:-1].numel(), n).mT
        found = found + highest.square().sum(1).mean(-1)
    return found.sqrt()
