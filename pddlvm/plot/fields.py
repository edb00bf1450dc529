"""Figures of solutions and parameter fields, of trainings and of the calibration of maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import check_count, kinds_checked
from pddlvm.basics.errors import InputError
from pddlvm.fem import SurfaceMesh
from pddlvm.fem.cells import straight
from pddlvm.fem.mixed import field_names, field_of
from pddlvm.latent.core import LatentModel
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.plot.figures import AnyFigure, colour_limits, drawn, figure_of, new_figure, whole
from pddlvm.training.loop import TrainingResult
from pddlvm.transient.problem import TransientProblem
from pddlvm.validation.maps import ValidationReport
from pddlvm.weak.problem import Problem

__all__ = [
    "Look",
    "calibration",
    "draw",
    "elbo",
    "field",
    "inverse_figure",
    "limits_of",
    "magnitude",
    "one_example",
    "panels_for",
]

Array = NDArray[np.float64]

_WARP = 0.1
_LIGHT = np.array([-0.5, 0.6, 0.62])


@kinds_checked
def field(
    problem: Problem | TransientProblem,
    values: Tensor,
    ax: Axes,
    *,
    title: str = "",
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
    label: str = "",
    warp: Tensor | None = None,
    name: str | None = None,
) -> Axes:
    """Draw one value per degree of freedom or per cell on the mesh: a line, a map, or a surface.

    Of a vector u the length is drawn; of a shell that of its displacement.

    Args:
        problem: owns the mesh.
        values: (n_dofs,) or (n_cells,); of a problem in time one state, as u[-1].
        ax: where to draw; a 3D axes for a 3D mesh, of which the outer surface is shown.
        title: of the axes.
        cmap: colour map.
        limits: of the colours.
        label: of the colour bar, or of the vertical axis in 1D.
        warp: displacements (n_dofs,) that a shell is drawn with, enlarged to a tenth of its size.
        name: of a solution of several fields, the one that is drawn; by default the first.
    """
    data = drawn(values, "values", problem.n_dofs, problem.space.mesh.nelements)
    per_cell = len(data) == problem.space.mesh.nelements
    if not per_cell:
        dofs, space = field_of(problem.space, name or field_names(problem.space)[0])
        data = magnitude(space.at_nodes(data[dofs]))
    if warp is not None and not isinstance(problem.space.mesh, SurfaceMesh):
        raise InputError("warp is for shells; leave it out for other meshes")
    look = Look(title, label, limits, cmap)
    return draw(problem, data, ax, look, warp, per_cell=per_cell)


@dataclass(frozen=True)
class Look:
    """See `field`."""

    title: str
    label: str
    limits: tuple[float, float] | None = None
    cmap: str = "viridis"


def draw(
    problem: Problem | TransientProblem,
    data: Array,
    ax: Axes,
    look: Look,
    warp: Tensor | None = None,
    *,
    per_cell: bool = False,
) -> Axes:
    """Draw a number for each node of the mesh, or for each cell; see `field`."""
    mesh, label = problem.space.mesh, look.label
    ax.set_title(look.title)
    if mesh.dim() == 1:
        return _line(mesh.p[0], mesh.t, data, ax, label)
    clim = colour_limits(look.cmap, look.limits, data)
    style: dict[str, Any] = {"cmap": look.cmap, "clim": clim}
    if mesh.dim() == 2:
        p, t, owner = straight(mesh)
        if not per_cell and len(t) == 3:
            picture: Any = ax.tripcolor(
                Triangulation(p[0], p[1], t.T), data, shading="gouraud", **style
            )
        else:
            colours = data[owner] if per_cell else data[t].mean(axis=0)
            picture = PolyCollection(
                list(p.T[t.T]), array=colours, linewidth=0.0, antialiased=False, **style
            )
            ax.add_collection(picture)
            ax.autoscale_view()
        ax.margins(0)
        ax.set_aspect("equal")
        ax.set_xlabel("x")
        ax.set_ylabel("y")
    else:
        picture = _surface(mesh, data, per_cell, ax, style, _moved(problem, warp))
    figure_of(ax).colorbar(picture, ax=ax, shrink=0.75, label=label)
    return ax


@kinds_checked
def elbo(result: TrainingResult, ax: Axes) -> Axes:
    """What is missing to the best evidence lower bound, against time."""
    for k, name in enumerate(result.stages):
        rows = [row for row in result.history if row["stage"] == k]
        seconds = np.array([row["seconds"] for row in rows])
        values = np.array([row["elbo"] for row in rows])
        gap = values.max() - values
        # A logarithm has no zero, and one point is no line.
        shown = gap > 0 if (gap > 0).any() else gap == 0
        marker = "o" if shown.sum() == 1 else None
        ax.plot(seconds[shown], gap[shown], marker=marker, color=f"C{k}", label=name)
        if gap[shown].any():
            ax.set_yscale("log")
    if len(result.stages) > 1:
        ax.legend()
    ax.set_xlabel("training time [s]")
    ax.set_ylabel("best ELBO - ELBO, per draw")
    ax.set_title("Training")
    return ax


@kinds_checked
def calibration(report: ValidationReport, ax: Axes) -> Axes:
    """Observed against nominal coverage of the solution; the diagonal is right."""
    ax.plot([0, 1], [0, 1], color="0.7", zorder=0)
    ax.plot(report.nominal, report.observed, "o-", markersize=4, color="C0")
    ax.set_xlabel("nominal coverage")
    ax.set_ylabel("observed coverage")
    ax.set_aspect("equal")
    ax.set_title(f"Calibration: {report.coverage_u:.1%} inside ±2σ")
    return ax


@kinds_checked
def inverse_figure(
    model: LatentModel,
    z: Tensor,
    *,
    known: Sequence[str] = (),
    n_samples: int = 200,
    figure: AnyFigure | None = None,
) -> Figure:
    """One inverse problem: the true field, the one read from the solution, its error and sigma.

    The band of the field comes from samples of z, so that it is right for a nonlinear link.

    Args:
        model: a trained model.
        z: parameters of the example, (d,).
        known: names of the blocks that the inverse map is told.
        n_samples: samples behind sigma.
        figure: where to draw; by default a new one.
    """
    problem = model.problem
    z = one_example(problem, z)
    check_count(2, n_samples=n_samples)
    posterior = model.inverse(problem.solve(z), z_known=problem.prior.known_part(z, known))
    name = next(iter(problem.random_fields))
    truth = problem.field_values(z, name)
    found = problem.field_values(posterior.median, name)
    draws = problem.field_values(posterior.sample((n_samples,), seed=0), name)
    sigma = draws.std(0)
    points = problem.field_points(name)
    if points.shape[1] == 1:
        x = points[:, 0]
        figure = figure or new_figure(6, 4)
        ax = figure.subplots()
        ax.plot(x, truth, "k-", label="true")
        ax.plot(x, found, "C1--", label="inferred")
        ax.fill_between(x, found - 2 * sigma, found + 2 * sigma, alpha=0.3, color="C1", label="±2σ")
        ax.set(xlabel="x", ylabel=name, title="Parameter field from the solution")
        if truth.min() > 0:
            ax.set_ylim(0, 1.3 * float(truth.max()))
        ax.legend()
        return whole(figure)
    panels = panels_for(problem, figure)
    limits = (float(truth.min()), float(truth.max()))
    field(problem, truth, panels[0], title=f"true {name}", limits=limits, label=name)
    field(problem, found, panels[1], title=f"inferred {name}", limits=limits, label=name)
    error = (found - truth).abs()
    sizes = (0.0, float(torch.stack([error, sigma]).max()))
    of_error: dict[str, Any] = {"limits": sizes, "label": f"error of {name}", "cmap": "magma"}
    field(problem, error, panels[2], title="|error|", **of_error)
    field(problem, sigma, panels[3], title="predicted σ", **of_error)
    return whole(figure_of(panels[0]))


def one_example(problem: ParametricProblem, z: Tensor) -> Tensor:
    """Parameters (d,) of one example, or an InputError."""
    z = problem.prior.check(z)
    if z.ndim != 1:
        raise InputError(f"z must be one example ({problem.n_parameters},), got {tuple(z.shape)}")
    return z.detach().cpu()


def _line(x: Array, t: NDArray[np.int64], data: Array, ax: Axes, label: str) -> Axes:
    positions = x if len(data) == len(x) else x[t].mean(axis=0)
    order = np.argsort(positions)
    ax.plot(positions[order], data[order])
    ax.set_xlabel("x")
    ax.set_ylabel(label)
    return ax


def limits_of(problem: Problem | TransientProblem, states: Tensor) -> tuple[float, float]:
    """Smallest and largest value that `field` draws of several states, (n, n_dofs)."""
    dofs, space = field_of(problem.space, field_names(problem.space)[0])
    shown = [magnitude(space.at_nodes(state[dofs])) for state in states.numpy()]
    return min(float(x.min()) for x in shown), max(float(x.max()) for x in shown)


def magnitude(at_nodes: Array) -> Array:
    """Length of the vector at each node; a scalar as it is."""
    if at_nodes.shape[1] == 1:
        return at_nodes[:, 0]
    return np.asarray(np.linalg.norm(at_nodes[:, :3], axis=1))


def _moved(problem: Problem | TransientProblem, warp: Tensor | None) -> Array:
    """Vertices (n_vertices, dim), displaced visibly by `warp`."""
    p = np.asarray(problem.space.mesh.p.T)
    if warp is None:
        return p
    u = drawn(warp, "warp", problem.n_dofs)[problem.space.vertex_dofs[:, :3]]
    return p + _WARP * np.ptp(p, axis=0).max() / np.linalg.norm(u, axis=1).max() * u


def _surface(
    mesh: Any, data: Array, per_cell: bool, ax: Axes, style: dict[str, Any], points: Array
) -> Any:
    if not isinstance(ax, Axes3D):
        raise InputError("a 3D mesh needs 3D axes: plt.figure().add_subplot(projection='3d')")
    if isinstance(mesh, SurfaceMesh):
        corners, colours = mesh.t, data if per_cell else data[mesh.t].mean(axis=0)
    else:
        facets = mesh.boundary_facets()
        corners = mesh.facets[:, facets]
        colours = data[mesh.f2t[0, facets]] if per_cell else data[corners].mean(axis=0)
    norm = Normalize(*style["clim"])
    shaded = colormaps[style["cmap"]](norm(colours))
    triangles = points[corners.T]
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    # Light from the viewer's upper left, from both sides.
    shaded[:, :3] *= (0.65 + 0.35 * np.abs(normal @ _LIGHT))[:, None]
    ax.add_collection3d(Poly3DCollection(list(triangles), facecolors=shaded, edgecolors=shaded))
    low, high = points.min(axis=0), points.max(axis=0)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    ax.set(xlabel="x", ylabel="y", zlabel="z")
    ax.set_box_aspect(high - low)
    return ScalarMappable(norm, style["cmap"])


def panels_for(problem: Problem | TransientProblem, figure: AnyFigure | None) -> list[Axes]:
    """Four panels that suit the mesh."""
    size = problem.space.mesh.p.max(axis=1) - problem.space.mesh.p.min(axis=1)
    solid = len(size) == 3
    height = 4.2 if solid else float(np.clip(4.6 * size[1] / size[0], 2.4, 4.2))
    figure = figure or new_figure(11.4, 2 * height)
    options = {"projection": "3d"} if solid else {}
    return list(figure.subplots(2, 2, subplot_kw=options).ravel())
