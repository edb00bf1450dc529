"""A mixture of densities.

    q(z)  =  m_1 q_1(z) + ... + m_k q_k(z),      m_i = 1 / k unless they are given

As a proposal it is safe where one of its parts is: weights p / q are at most p / (m_i q_i)
(defensive importance sampling: Hesterberg, 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.inference.density import Density
from pddlvm.inference.pushed_gaussian import PushedGaussian

__all__ = ["Mixture"]

_N_HALVINGS = 50


@dataclass(frozen=True)
class Mixture(Density):
    """Of densities for the same data sets.

    Attributes:
        parts: what is mixed.
        masses: of the parts for each data set, (n_parts, batch); equal by default.
    """

    parts: Sequence[Density]
    masses: Tensor | None = None

    @property
    def mean(self) -> Tensor:  # noqa: D102
        means = torch.stack([part.mean for part in self.parts])
        return (self._shares(means)[..., None] * means).sum(0)

    @property
    def std(self) -> Tensor:  # noqa: D102
        means = torch.stack([part.mean for part in self.parts])
        stds = torch.stack([part.std for part in self.parts])
        spread = stds.square() + (means - self.mean).square()
        return (self._shares(means)[..., None] * spread).sum(0).sqrt()

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:  # noqa: D102
        generator = generator_of(seed)
        seeds = torch.randint(2**31, (len(self.parts),), generator=generator).tolist()
        # The draws of each part are independent: any rule that chooses between them will do.
        drawn = torch.stack(
            [p.sample(shape, seed=s) for p, s in zip(self.parts, seeds, strict=True)]
        )
        limits = self._shares(drawn).cumsum(0)[:-1]
        draw = torch.rand(drawn.shape[1:-1], generator=generator, dtype=drawn.dtype)
        chosen = (draw >= limits.reshape(len(limits), *[1] * len(shape), draw.shape[-1])).sum(0)
        return drawn.gather(0, chosen[None, ..., None].expand(1, *drawn.shape[1:]))[0]

    def quantiles(self, levels: Tensor, *, seed: int) -> Tensor:
        """Those of Gaussians lie between those of its parts, and are found by bisection."""
        parts = [part for part in self.parts if isinstance(part, PushedGaussian)]
        if len(parts) < len(self.parts):
            return super().quantiles(levels, seed=seed)
        each = torch.stack([part.quantiles(levels) for part in parts])
        low, high = each.amin(0), each.amax(0)
        shares, wanted = self._shares(low)[..., None], levels[:, None, None]
        for _ in range(_N_HALVINGS):
            middle = 0.5 * (low + high)
            pairs = zip(parts, shares, strict=True)
            is_above = sum(share * part.cdf(middle) for part, share in pairs) >= wanted
            low, high = torch.where(is_above, low, middle), torch.where(is_above, middle, high)
        return 0.5 * (low + high)

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        logs = torch.stack([part.log_prob(z) for part in self.parts])
        shares = self._shares(z[None]).log()
        size = (len(logs), *[1] * (logs.ndim - 2), logs.shape[-1])
        return (logs + shares.reshape(size)).logsumexp(0)

    def _shares(self, like: Tensor) -> Tensor:
        """Masses, (n_parts, batch)."""
        if self.masses is None:
            return like.new_full((len(self.parts), like.shape[-2]), 1 / len(self.parts))
        return self.masses.to(like)
