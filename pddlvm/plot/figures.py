"""Figures that others are drawn in, and parts of them."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from pddlvm.basics.checks import numbers_of
from pddlvm.basics.errors import InputError

__all__ = ["AnyFigure", "colour_limits", "drawn", "figure_of", "new_figure", "whole"]

AnyFigure = Figure | SubFigure


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches that arranges its panels."""
    return plt.figure(figsize=(width, height), layout="constrained")


def figure_of(ax: Axes) -> AnyFigure:
    """The figure, or part of one, that axes stand in."""
    found = ax.get_figure()
    assert found is not None
    return found


def whole(figure: AnyFigure) -> Figure:
    """The figure that a part of one belongs to."""
    found = figure.figure
    assert isinstance(found, Figure)
    return found


def drawn(values: Any, name: str, *sizes: int) -> NDArray[np.float64]:
    """Finite numbers (n,), n one of some sizes, or an InputError."""
    numbers = numbers_of(values, name)
    if numbers.ndim != 1 or len(numbers) not in sizes:
        wanted = " or ".join(map(str, sizes))
        raise InputError(f"{name} must have {wanted} entries, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise InputError(f"{name} has values that are not finite (NaN or infinity)")
    return numbers


def colour_limits(cmap: str, limits: Any, data: NDArray[np.float64]) -> tuple[float, float]:
    """The limits of a colour map, by default those of the data, or an InputError."""
    if cmap not in colormaps:
        raise InputError(f"cmap must name a colour map of matplotlib, as 'viridis', got {cmap!r}")
    if limits is None:
        return float(data.min()), float(data.max())
    low, high = drawn(limits, "limits", 2)
    return float(low), float(high)
