"""Where the residual is taken: points of the reference box [-1, 1]^k, new ones at each step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from scipy.stats import qmc
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_real
from pddlvm.basics.errors import InputError

__all__ = ["AdaptivePoints", "LatinHypercube", "PointSampler", "Sobol", "UniformPoints"]


@dataclass(frozen=True)
class PointSampler(ABC):
    """Draws collocation points.

    Attributes:
        n_points: per step, at least 1.
    """

    n_points: int = 256

    def __post_init__(self) -> None:
        check_count(1, n_points=self.n_points)

    @abstractmethod
    def draw(self, n: int, k: int, generator: torch.Generator) -> Tensor:
        """n points, (n, k), float64 in [-1, 1]."""


@dataclass(frozen=True)
class UniformPoints(PointSampler):
    """Independent and uniform."""

    def draw(self, n: int, k: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return 2 * torch.rand(n, k, generator=generator, dtype=torch.float64) - 1


@dataclass(frozen=True)
class LatinHypercube(PointSampler):
    """One point in each of n slices of each coordinate."""

    def draw(self, n: int, k: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        engine = qmc.LatinHypercube(k, rng=_seed(generator))
        return 2 * torch.from_numpy(engine.random(n)) - 1


@dataclass(frozen=True)
class Sobol(PointSampler):
    """Scrambled Sobol points, scrambled anew at each draw."""

    def draw(self, n: int, k: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        engine = qmc.Sobol(k, scramble=True, rng=_seed(generator))
        # A power of two is balanced; the first n points of it are nearly so.
        points = engine.random_base2(max(0, (n - 1).bit_length()))[:n]
        return 2 * torch.from_numpy(points) - 1


@dataclass(frozen=True)
class AdaptivePoints(PointSampler):
    """A share of the points where the residual is large (Wu et al., 2023, RAD).

        density ~ 1 + |r| / mean |r|,   estimated at candidates every few steps

    Attributes:
        n_points: per step.
        base: draws the other points and the candidates.
        share: of the adaptive points.
        every: steps between two estimates.
        n_candidates: points at which the residual is looked at.
    """

    base: PointSampler = UniformPoints()
    share: float = 0.5
    every: int = 100
    n_candidates: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(PointSampler, base=self.base)
        check_count(1, every=self.every, n_candidates=self.n_candidates)
        check_real(0, share=self.share)
        if self.share > 1:
            raise InputError(f"share must be at most 1, got {self.share}")

    def draw(self, n: int, k: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return self.base.draw(n, k, generator)

    def draw_from(
        self, candidates: Tensor, residual: Tensor, n: int, generator: torch.Generator
    ) -> Tensor:
        """n of the candidates (n_candidates, k), by their mean |residual| (n_candidates,)."""
        density = 1 + residual / residual.mean().clamp(min=torch.finfo(residual.dtype).tiny)
        return candidates[
            torch.multinomial(density.cpu(), n, replacement=True, generator=generator)
        ]


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=generator))
