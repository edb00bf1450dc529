"""Pyro distributions of the latent variable model's sites."""

from collections.abc import Callable
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pddlvm.latent.rows import Rows
from pddlvm.parameters.space import ParameterSpace

__all__ = [
    "AnyCoefficients",
    "Draws",
    "InferredParameters",
    "KnownBlocks",
    "Likelihood",
    "Read",
    "RowsOfNormal",
    "StandardPrior",
    "ZeroResidual",
]

Likelihood = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(c, z, xi) -> log p(r^ = 0 | c, z) up to a constant, (batch,)."""
Read = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
"""(c, z, known xi, which are known) -> mean and log variance of xi, (batch, d) each."""


class Draws(Protocol):
    """Something that draws xi from the prior, or from a pool of such draws."""

    def sample_standard(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard parameters, (*shape, d)."""


class AnyCoefficients(TorchDistribution):
    """The improper uniform density of c, on the device of its value; nothing is drawn from it."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, n: int, n_modes: int) -> None:
        super().__init__(torch.Size([n]), torch.Size([n_modes]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        return value.new_zeros(value.shape[:-1])


class KnownBlocks(TorchDistribution):
    """Which parameters are known, (n, d) of 0 and 1: alike in model and guide, and not scored.

    Args:
        n: of a batch.
        size: of z.
        draw: draws them.
    """

    has_rsample = False
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, n: int, size: int, draw: Callable[[], Tensor]) -> None:
        super().__init__(torch.Size([n]), torch.Size([size]), validate_args=False)
        self._draw = draw

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008, D102
        return self._draw()

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        return value.new_zeros(value.shape[:-1])


class StandardPrior(TorchDistribution):
    """The prior of xi for rows of a batch, drawn from the caller's generator."""

    has_rsample = False
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (the base class wants a dict)

    def __init__(
        self,
        prior: ParameterSpace,
        draws: Draws,
        rows: Rows,
        generator: torch.Generator | None,
        like: Tensor,
    ) -> None:
        super().__init__(torch.Size([len(rows)]), torch.Size([prior.size]), validate_args=False)
        self._prior, self._draws, self._rows = prior, draws, rows
        self._generator, self._like = generator, like

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008, D102
        shape = (*sample_shape, self._rows.total)
        drawn = self._draws.sample_standard(shape, generator=self._generator)
        return self._rows.of(drawn, len(sample_shape)).to(self._like)

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        return self._prior.standard_log_prob(value)


class RowsOfNormal(dist.Normal):
    """N(mean, std^2) for rows of a batch, (n, m), drawn for the whole batch."""

    def __init__(self, mean: Tensor, std: Tensor, rows: Rows) -> None:
        super().__init__(mean, std, validate_args=False)
        self._rows = rows

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RowsOfNormal":
        """For Pyro, which asks for the shape that it has."""
        return RowsOfNormal(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self._rows
        )

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008, D102
        noise = self._rows.normal_like(self.loc, tuple(sample_shape))
        found: Tensor = self.loc + noise * self.scale
        return found


class ZeroResidual(TorchDistribution):
    """log p(r^ | c, z) at r^ = 0, the only value that is ever observed."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, likelihood: Likelihood, prior: ParameterSpace, c: Tensor, xi: Tensor
    ) -> None:
        super().__init__(c.shape[:1], torch.Size(), validate_args=False)
        self._likelihood, self._prior, self._c, self._xi = likelihood, prior, c, xi

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        z = self._prior.unstandardise(self._xi.double())
        return self._likelihood(self._c, z, self._xi)


class InferredParameters(TorchDistribution):
    """p(xi | u) for coefficients c; what else u depends on is read off the value of xi.

    Parameters marked in `known` are given to the map, and only the others are scored.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, read: Read, prior: ParameterSpace, c: Tensor, known: Tensor | None) -> None:
        super().__init__(c.shape[:1], torch.Size([prior.size]), validate_args=False)
        self._read, self._prior, self._c, self._known = read, prior, c, known

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        z = self._prior.unstandardise(value.double())
        known = self._known
        xi_known = None if known is None else value * known
        mean, log_variance = self._read(self._c, z, xi_known, known)
        density = dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).log_prob(value)
        result: Tensor = (density if known is None else density * (1 - known)).sum(-1)
        return result
