"""Amortised densities that a model keeps, and what they were made of: others are stale."""

from dataclasses import dataclass

from pddlvm.amortized.amortized import Amortized

__all__ = ["ANYTHING", "KeptDensity"]

Asked = tuple[float | None, int | None, int, float]
"""Seconds, steps and seed of a training, and the share of gaps in its data."""

ANYTHING: Asked = (None, None, 0, 0.0)
"""What a call asks for that names none of them."""


@dataclass(frozen=True)
class KeptDensity:
    """An amortised density and what it was made of.

    Attributes:
        density: trained.
        weights: checksum of the model then.
        asked: of its training.
    """

    density: Amortized
    weights: str
    asked: Asked

    def serves(self, weights: str, asked: Asked) -> bool:
        """Is it what such a model would train again?"""
        return self.weights == weights and asked in (self.asked, ANYTHING)
