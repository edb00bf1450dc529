"""Figures that others are drawn in, and parts of them."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure, SubFigure

__all__ = ["AnyFigure", "new_figure", "whole"]

AnyFigure = Figure | SubFigure


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches that arranges its panels."""
    return plt.figure(figsize=(width, height), layout="constrained")


def whole(figure: AnyFigure) -> Figure:
    """The figure that a part of one belongs to."""
    found = figure.figure
    assert isinstance(found, Figure)
    return found
