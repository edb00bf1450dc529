"""The map of an information gain, and the sensors that were chosen by it."""

from typing import Any

from matplotlib.axes import Axes
from mpl_toolkits.mplot3d import Axes3D

from pddlvm.basics.checks import kinds_checked
from pddlvm.basics.errors import InputError
from pddlvm.decisions.placement import Placement
from pddlvm.plot.figures import colour_limits, figure_of

__all__ = ["sensors"]

_LABEL = "information of one sensor, nats"


@kinds_checked
def sensors(
    placement: Placement, ax: Axes, *, title: str = "", cmap: str = "viridis", label: str = _LABEL
) -> Axes:
    """Draw what each candidate tells alone, and those that were chosen, by their numbers.

    Args:
        placement: of `pddlvm.place_sensors`, whose candidates are points.
        ax: where to draw; a 3D axes for points in space.
        title: of the axes.
        cmap: colour map.
        label: of the colour bar, or of the vertical axis in 1D.

    Raises:
        InputError: the candidates are rows of a matrix; points in space on flat axes.
    """
    chosen = placement.chosen
    points, alone = placement.points, placement.alone.numpy()
    assert points is not None
    ax.set_title(title)
    numbers = [str(k + 1) for k in range(len(chosen))]
    dim = points.shape[1]
    if dim == 1:
        order = points[:, 0].argsort()
        ax.plot(points[order, 0], alone[order], color="C0")
        height = alone[placement.index.numpy()]
        ax.scatter(chosen[:, 0], height, color="C3", zorder=3)
        for name, x, y in zip(numbers, chosen[:, 0], height, strict=True):
            ax.annotate(name, (x, y), (3, 3), textcoords="offset points")
        ax.set_xlabel("x")
        ax.set_ylabel(label)
        return ax
    if (dim == 3) != isinstance(ax, Axes3D):
        kind = "figure.add_subplot(projection='3d')" if dim == 3 else "figure.add_subplot()"
        raise InputError(f"the candidates are points of {dim} coordinates; draw on {kind}")
    low, high = colour_limits(cmap, None, alone)
    drawn: Any = ax  # flat or in space
    shown = drawn.scatter(*points.T, c=alone, cmap=cmap, vmin=low, vmax=high, s=12)
    figure_of(ax).colorbar(shown, ax=ax, label=label)
    drawn.scatter(*chosen.T, facecolors="white", edgecolors="black", s=130, zorder=3)
    for name, at in zip(numbers, chosen, strict=True):
        drawn.text(*at, name, ha="center", va="center", fontsize=8, zorder=4)
    if dim == 2:
        ax.set_aspect("equal")
    return ax
