"""Figures of problems in strong form, on their grids of two coordinates."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pddlvm.basics.checks import kinds_checked
from pddlvm.basics.errors import InputError
from pddlvm.plot.figures import AnyFigure, colour_limits, drawn, figure_of, new_figure, whole
from pddlvm.strong.problem import CollocationProblem

__all__ = ["space_time", "space_time_panels"]


@kinds_checked
def space_time(
    problem: CollocationProblem,
    values: Tensor,
    ax: Axes,
    *,
    title: str = "",
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
    label: str = "",
    name: str | None = None,
) -> Axes:
    """Draw values on the grid of a problem with two coordinates, the second one to the right.

    Args:
        problem: owns the grid.
        values: (n_dofs,), or (n_points,) of one unknown or whatever is given on the grid.
        ax: where to draw.
        title: of the axes.
        cmap: colour map.
        limits: of the colours.
        label: of the colour bar.
        name: of a solution of several unknowns, the one that is drawn; by default the first.
    """
    if len(problem.grid) != 2:
        raise InputError(f"space_time draws two coordinates, the problem has {len(problem.grid)}")
    data = drawn(values, "values", problem.n_dofs, len(problem.grid_points))
    if len(data) > len(problem.grid_points):
        number = 0 if name is None else problem.unknowns.number(name)
        data = np.split(data, problem.unknowns.n)[number]
    data = data.reshape(problem.grid)
    low, high = colour_limits(cmap, limits, data)
    across, along = (a.numpy() for a in problem.axes)
    picture = ax.pcolormesh(along, across, data, cmap=cmap, vmin=low, vmax=high, shading="gouraud")
    ax.set(title=title, xlabel=problem.box.names[1], ylabel=problem.box.names[0])
    figure_of(ax).colorbar(picture, ax=ax, label=label)
    return ax


def space_time_panels(
    problem: CollocationProblem, u: Tensor, mean: Tensor, std: Tensor, figure: AnyFigure | None
) -> Figure:
    """Reference and mean, and the true error beside the predicted sigma, of each unknown."""
    fields = problem.fields_of_u
    if len(fields) == 1:
        return _panels(problem, u, mean, std, figure, next(iter(fields)))
    figure = figure or new_figure(11, 7 * len(fields))
    parts = figure.subfigures(len(fields), 1, squeeze=False)[:, 0]
    for (name, own), part in zip(fields.items(), parts, strict=True):
        _panels(problem, u[own], mean[own], std[own], part, name)
    return whole(figure)


def _panels(
    problem: CollocationProblem,
    u: Tensor,
    mean: Tensor,
    std: Tensor,
    figure: AnyFigure | None,
    name: str,
) -> Figure:
    """Of one unknown, (n_points,) each."""
    figure = figure or new_figure(11, 7)
    axes = figure.subplots(2, 2)
    error = (mean - u).abs()
    range_e = (0.0, float(torch.stack([error, std]).max()))
    of_u: dict[str, Any] = {"limits": (float(u.min()), float(u.max())), "label": name}
    of_error: dict[str, Any] = {"limits": range_e, "label": f"error of {name}", "cmap": "magma"}
    space_time(problem, u, axes[0, 0], title=f"reference solution {name}", **of_u)
    space_time(problem, mean, axes[0, 1], title="predicted mean", **of_u)
    space_time(problem, error, axes[1, 0], title="|error|", **of_error)
    space_time(problem, std, axes[1, 1], title="predicted σ", **of_error)
    return whole(figure)
