"""An equal mixture of densities.

    q(z)  =  (q_1(z) + ... + q_k(z)) / k

As a proposal it is safe where one of its parts is: weights p / q are at most k p / q_i (defensive
importance sampling: Hesterberg, 1995).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.inference.density import Density
from pddlvm.random import generator_of

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture(Density):
    """Of densities for the same data sets.

    Attributes:
        parts: what is mixed.
    """

    parts: Sequence[Density]

    @property
    def mean(self) -> Tensor:  # noqa: D102
        return torch.stack([part.mean for part in self.parts]).mean(0)

    @property
    def std(self) -> Tensor:  # noqa: D102
        means = torch.stack([part.mean for part in self.parts])
        variances = torch.stack([part.std.square() for part in self.parts])
        return (variances.mean(0) + means.var(0, correction=0)).sqrt()

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        generator = generator_of(seed)
        seeds = torch.randint(2**31, (len(self.parts),), generator=generator).tolist()
        # The draws of each part are independent: any rule that chooses between them will do.
        drawn = torch.stack(
            [p.sample(shape, seed=s) for p, s in zip(self.parts, seeds, strict=True)]
        )
        chosen = torch.randint(len(self.parts), (1, *drawn.shape[1:-1], 1), generator=generator)
        return drawn.gather(0, chosen.expand(1, *drawn.shape[1:]))[0]

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        logs = torch.stack([part.log_prob(z) for part in self.parts])
        return logs.logsumexp(0) - math.log(len(self.parts))
