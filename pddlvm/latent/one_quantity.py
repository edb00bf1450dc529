"""What a model says of a quantity: a value with a law of its own error."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.basics.checks import check_level, check_shape
from pddlvm.basics.random import generator_of
from pddlvm.latent.quantity_law import QuantityLaw
from pddlvm.linalg.derivatives import root
from pddlvm.sensors.quantity import Quantity

__all__ = ["OneQuantity", "along", "certificates", "known_of"]

_LEAST = 1e-100
"""Where nothing is wrong, an error of zero has a size."""


@dataclass(frozen=True)
class OneQuantity:
    """q(u) of a `forward(z)`, n numbers for each z; dtype and device of z.

    The law of the error is fitted to this quantity, when it is first asked for and once for each
    model and number of corrections, on `n_draws` draws of the prior whose reference solutions are
    found for it: 1024, of large problems fewer, at least 128; in strong form 128, and none after
    corrections. Later quantities of the problem use the same solutions. Each of the n numbers has a
    law of its own; draws of all of them are joint.

    Attributes:
        quantity: q.
        value: its values without a law, (batch, n), float64 on the CPU.
        known: of the values, what the law reads: features (batch, d + 1) and log sizes (batch, n).
    """

    quantity: Quantity
    value: Callable[[], Tensor]
    known: Callable[[Tensor], tuple[Tensor, Tensor]]
    _law: Callable[[], QuantityLaw]
    _bound: Callable[[Tensor], Tensor | None]
    _like: Tensor

    def __repr__(self) -> str:
        return f"OneQuantity({self.quantity!r}, of {tuple(self._like.shape[:-1])} solutions)"

    @cached_property
    def mean(self) -> Tensor:
        """The value, (..., n): of linear quantities l(m) - psi . r(m), else q(m).

        m is the mean of the solution and psi a reduced adjoint solution, which linear problems in
        finite elements have.
        """
        return self._shaped(self._value).to(self._like)

    @cached_property
    def std(self) -> Tensor:
        """Root mean square of its error, (..., n), that of its rounding included."""
        std = self._law().std(*self.known(self._value))
        # A value is off by up to half of its last digit, evenly.
        rounding = torch.finfo(self._like.dtype).eps / math.sqrt(12) * self._value.abs()
        return self._shaped(root(std.square() + rounding.square())).to(self._like)

    @cached_property
    def bound(self) -> Tensor | None:
        """Upper bound of |q(u) - mean|, (..., n), float64; None where there is none.

        Of linear quantities where `forward(z)` has an `error_bound`, and as rigorous: of this mean
        with its rounding.

        Raises:
            InputError: z requires a gradient.
        """
        given = self.mean.detach().reshape(-1, self.quantity.n).to("cpu", torch.float64)
        found = self._bound(given)
        if found is None or not (torch.isfinite(found).any() or not found.numel()):
            return None
        return self._shaped(found)

    @property
    def n_draws(self) -> int:
        """How many draws of the prior its law was fitted to."""
        return self._law().n_draws

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each number, (..., n) each.

        Args:
            level: probability with which it holds the quantity, between 0 and 1.
        """
        half = self._law().half_width(check_level(level)).to(self.std) * self.std
        return self.mean - half, self.mean + half

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of q(u), (*shape, ..., n), from the law that the intervals have."""
        generator = None if seed is None else generator_of(seed)
        size = *check_shape(shape), *self._like.shape[:-1], self.quantity.n
        white = torch.randn(size, generator=generator, dtype=torch.float64)
        return self.mean + self.std * self._law().scores(white).to(self.std)

    @cached_property
    def _value(self) -> Tensor:
        return self.value()

    def _shaped(self, values: Tensor) -> Tensor:
        return values.reshape(*self._like.shape[:-1], self.quantity.n).to(self._like.device)


def along(quantity: Quantity, u: Tensor, z: Tensor, variance: Callable[[Tensor], Tensor]) -> Tensor:
    """Standard deviations of q to first order, (batch, n), from a covariance of u.

    Args:
        quantity: q.
        u: where it is linearised, (batch, *solution_shape); with or without a graph.
        z: (batch, d).
        variance: of the product of u with slopes (batch or 1, *solution_shape), (batch,).
    """
    if quantity.is_linear:
        rows = torch.from_numpy(quantity.matrix.toarray())
        slopes = [row.reshape(1, *u.shape[1:]) for row in rows]
        return torch.stack([root(variance(slope)) for slope in slopes], dim=-1)
    is_recorded, found = u.requires_grad and torch.is_grad_enabled(), []
    with torch.inference_mode(False), torch.enable_grad():
        at = u if is_recorded else u.detach().clone().requires_grad_()
        values = quantity(at, z)
        for value in values.unbind(-1):
            (slope,) = torch.autograd.grad(
                value.sum(), at, retain_graph=True, create_graph=is_recorded
            )
            found.append(slope)
    return torch.stack([root(variance(slope)) for slope in found], dim=-1)


def certificates(residual_norm: Tensor) -> Tensor:
    """rho of answers (...,) as a column, (batch, 1), float64 on the CPU, not below rounding."""
    found = residual_norm.reshape(-1, 1).to("cpu", torch.float64)
    return found.clamp(min=torch.finfo(found.dtype).eps)


def known_of(xi: Tensor, rho: Tensor, size: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What a law reads: features (batch, d + 1) and log sizes (batch, n).

    Args:
        xi: (batch, d).
        rho: certificates, (batch, 1).
        size: of the errors, to first order, (batch, n); not below the rounding of
        value: the values.
    """
    size = size.maximum(torch.finfo(size.dtype).eps * value.abs()).clamp(min=_LEAST)
    return torch.cat([xi, rho.log()], dim=1), size.log()
