"""One forward problem: what is true and what is predicted, the error and its sigma."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import kinds_checked
from pddlvm.fem import FunctionSpace, SurfaceMesh
from pddlvm.fem.mixed import field_names, field_of
from pddlvm.latent.core import LatentModel
from pddlvm.latent.prediction import Prediction
from pddlvm.plot.fields import Look, draw, magnitude, one_example, panels_for
from pddlvm.plot.figures import AnyFigure, figure_of, new_figure, whole
from pddlvm.plot.grids import space_time_panels
from pddlvm.results.nodes import std_at_nodes
from pddlvm.strong.problem import CollocationProblem
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.problem import Problem

__all__ = ["forward_figure"]

Array = NDArray[np.float64]
Sample = Callable[..., Tensor]


@kinds_checked
def forward_figure(model: LatentModel, z: Tensor, *, figure: AnyFigure | None = None) -> Figure:
    """One forward problem: reference and mean, and the true error beside the predicted sigma.

    Of a problem in time on a mesh it is the last state.

    Args:
        model: a trained model.
        z: parameters of the example, (d,).
        figure: where to draw; by default a new one.
    """
    problem = model.problem
    z = one_example(problem, z)
    return _panels(problem, problem.solve(z), model.forward(z), figure)


@singledispatch
def _panels(problem: Any, u: Tensor, q: Prediction, figure: AnyFigure | None) -> Figure:
    raise NotImplementedError(type(problem))


@_panels.register
def _in_a_box(
    problem: CollocationProblem, u: Tensor, q: Prediction, figure: AnyFigure | None
) -> Figure:
    return space_time_panels(problem, u, q.mean, q.std, figure)


@_panels.register
def _on_elements(problem: Problem, u: Tensor, q: Prediction, figure: AnyFigure | None) -> Figure:
    return _by_fields(problem, (u, q.mean, q.std), q.sample, figure)


@_panels.register
def _last_state(
    problem: TransientProblem, u: Tensor, q: Prediction, figure: AnyFigure | None
) -> Figure:
    def sample(shape: tuple[int, ...], *, seed: int) -> Tensor:
        return q.sample(shape, seed=seed)[..., -1, :]

    found = _by_fields(problem.steady, (u[-1], q.mean[-1], q.std[-1]), sample, figure)
    (figure or found).suptitle(f"t = {problem.times[-1]:g}")
    return found


def _by_fields(
    problem: Problem,
    states: tuple[Tensor, Tensor, Tensor],
    sample: Sample,
    figure: AnyFigure | None,
) -> Figure:
    """Four panels, or two lines, for each field, of u, its mean and its std."""
    names, is_line = field_names(problem.space), problem.space.dim == 1
    parts: list[AnyFigure | None] = [figure]
    if len(names) > 1:
        figure = figure or new_figure(11.4, (4.0 if is_line else 8.0) * len(names))
        parts = list(figure.subfigures(len(names), 1, squeeze=False)[:, 0])
    drawn = [
        (_lines if is_line else _four)(problem, name, states, sample, part)
        for name, part in zip(names, parts, strict=True)
    ]
    return whole(drawn[0])


def _four(
    problem: Problem,
    name: str,
    states: tuple[Tensor, Tensor, Tensor],
    sample: Sample,
    figure: AnyFigure | None,
) -> AnyFigure:
    dofs, space = field_of(problem.space, name)
    u, mean, _ = states
    true, found = (space.at_nodes(t.double().numpy()[dofs]) for t in (u, mean))
    error = magnitude(np.abs(found - true))
    sigma = magnitude(std_at_nodes(space, dofs, states[2], sample))
    pictures = [magnitude(true), magnitude(found), error, sigma]
    titles = [f"reference solution {name}", "predicted mean", "|error|", "predicted σ"]
    of_u: Any = (name, (float(pictures[0].min()), float(pictures[0].max())))
    sizes = min(error.min(), sigma.min()), max(error.max(), sigma.max())
    of_error: Any = (f"error of {name}", (float(sizes[0]), float(sizes[1])), "magma")
    looks = [Look(t, *of) for t, of in zip(titles, (of_u, of_u, of_error, of_error), strict=True)]
    is_shell = isinstance(problem.space.mesh, SurfaceMesh)
    warps = (u, mean, None, None) if is_shell else (None,) * 4
    panels = panels_for(problem, figure)
    for picture, ax, look, warp in zip(pictures, panels, looks, warps, strict=True):
        draw(problem, picture, ax, look, warp)
    return figure_of(panels[0])


def _lines(
    problem: Problem,
    name: str,
    states: tuple[Tensor, Tensor, Tensor],
    sample: Sample,
    figure: AnyFigure | None,
) -> AnyFigure:
    dofs, space = field_of(problem.space, name)
    x, (true, found, sigma) = _along(space, dofs, states, sample)
    order = np.argsort(x)
    x, true, found, sigma = (a[order] for a in (x, true, found, sigma))
    figure = figure or new_figure(10, 4)
    panels = figure.subplots(1, 2)
    panels[0].plot(x, true, "k-", label="reference")
    panels[0].plot(x, found, "C1--", label="mean")
    panels[0].set(xlabel="x", ylabel=name, title="Solution")
    panels[1].plot(x, np.abs(found - true), "k-", label="|error|")
    panels[1].plot(x, 2 * sigma, "C1--", label="2σ")
    panels[1].set(xlabel="x", ylabel=f"error of {name}", title="Error and predicted 2σ")
    for ax in panels:
        ax.legend()
    return figure


def _along(
    space: FunctionSpace, dofs: slice, states: tuple[Tensor, Tensor, Tensor], sample: Sample
) -> tuple[Array, list[Array]]:
    """Points of a line, and u, mean and std there: at the nodes, where values are not all of it."""
    values = [t.double().numpy()[dofs] for t in states]
    if space.is_value.all():
        return space.dof_points[:, 0], values
    true, found = (space.at_nodes(v)[:, 0] for v in values[:2])
    x = np.asarray(space.mesh.p[0])
    return x, [true, found, std_at_nodes(space, dofs, states[2], sample)[:, 0]]
