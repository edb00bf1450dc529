"""The prior of a block whose parameters are of several kinds: a length, a variance, terms.

p(z) = prod_parts p(z_part)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.parameters.priors import Prior

__all__ = ["Product"]


@dataclass(frozen=True)
class Product(Prior):
    """Independent numbers, of each prior some; those of a part are not correlated.

    Attributes:
        parts: priors and how many numbers each is of, in the order of the block.
    """

    parts: tuple[tuple[Prior, int], ...]

    @property
    def size(self) -> int:  # noqa: D102
        return sum(n for _, n in self.parts)

    @property
    def is_torch(self) -> bool:  # noqa: D102
        return all(prior.is_torch for prior, _ in self.parts)

    def bounds(self, size: int) -> list[tuple[float, float]]:  # noqa: D102
        return [each for prior, n in self.parts for each in prior.bounds(n)]

    def standardise(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._joined(lambda prior, part: prior.standardise(part), z)

    def unstandardise(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._joined(lambda prior, part: prior.unstandardise(part), xi)

    def contains(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._joined(lambda prior, part: prior.contains(part), z)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._joined(lambda prior, part: prior.log_prob(part), z)

    def standard_log_prob(self, xi: Tensor) -> Tensor:  # noqa: D102
        return self._joined(lambda prior, part: prior.standard_log_prob(part), xi)

    def sample_standard(  # noqa: D102
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        drawn = [prior.sample_standard((*shape[:-1], n), generator) for prior, n in self.parts]
        return torch.cat(drawn, dim=-1)

    def from_normal(self, eta: Tensor) -> Tensor:  # noqa: D102
        return self._joined(lambda prior, part: prior.from_normal(part), eta)

    def _joined(self, function: Callable[[Prior, Tensor], Tensor], x: Tensor) -> Tensor:
        found = x.split([n for _, n in self.parts], dim=-1)
        pairs = zip(self.parts, found, strict=True)
        return torch.cat([function(prior, part) for (prior, _), part in pairs], dim=-1)
