"""Figures of problems in time: sensors against time, states side by side, and films of them."""

import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FFMpegWriter, FuncAnimation, PillowWriter, writers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_level, kinds_checked, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import replacing
from pddlvm.basics.random import generator_of
from pddlvm.inference.posterior import Posterior
from pddlvm.plot.fields import field, limits_of
from pddlvm.plot.figures import AnyFigure, new_figure, whole
from pddlvm.plot.posteriors import COLOURS
from pddlvm.sensors.observation import PointObservation
from pddlvm.transient.problem import TransientProblem

__all__ = ["animate", "filmstrip", "series"]

_MOST_STATES = 12


@kinds_checked
def series(
    posterior: Posterior,
    ax: Axes,
    *,
    level: float = 0.95,
    n_samples: int = 2000,
    seed: int = 0,
) -> Axes:
    """What sensors read against time: data as dots, what the posterior says as bands.

    A band holds the value without its noise with the given probability, at times without data too.
    Draws of a Gaussian are weighted by the density that it stands for: in bent valleys they would
    leave the data on one side.

    Args:
        posterior: of one data set of a `PointObservation` with times.
        ax: where to draw.
        level: of the bands.
        n_samples: draws behind them.
        seed: of the draws.
    """
    sensors = posterior.observation
    if posterior.batch or not isinstance(sensors, PointObservation) or sensors.times is None:
        raise InputError(
            "series draws one data set of PointObservation(problem, points, noise_std, times=...); "
            "infer from y[i], with sensors that read at times"
        )
    check_count(2, n_samples=n_samples)
    tail = 0.5 - 0.5 * check_level(level)
    data = _drawn_data(posterior, n_samples, seed)
    levels = torch.tensor([tail, 0.5, 1 - tail], dtype=torch.float64)
    n_times = len(sensors.times)
    low, middle, high = data.quantile(levels, dim=0).reshape(3, n_times, -1).numpy()
    y = posterior.y.double().cpu().reshape(n_times, -1).numpy()
    for k in range(y.shape[1]):
        colour = COLOURS[k % len(COLOURS)]
        ax.fill_between(sensors.times, low[:, k], high[:, k], color=colour, alpha=0.25, linewidth=0)
        ax.plot(sensors.times, middle[:, k], color=colour, linewidth=1)
        ax.plot(sensors.times, y[:, k], "o", color=colour, markersize=3, label=f"sensor {k}")
    ax.set(xlabel="t", ylabel="u at sensors")
    ax.legend(fontsize="small")
    return ax


@kinds_checked
def filmstrip(
    problem: TransientProblem,
    u: Tensor,
    *,
    times: "ArrayLike | Tensor | None" = None,
    label: str = "u",
    cmap: str = "viridis",
    figure: AnyFigure | None = None,
) -> Figure:
    """States of a trajectory side by side, in the same colours.

    Args:
        problem: owns the mesh and the steps.
        u: (n_times, n_dofs), one trajectory.
        times: which states, at most twelve; by default four of them.
        label: of the colours.
        cmap: colour map.
        figure: where to draw; by default a new one.
    """
    if times is None:
        times = problem.times[np.linspace(0, problem.n_times - 1, 4).round().astype(int)]
    chosen = problem.check_times(times)
    if not 1 <= len(chosen) <= _MOST_STATES:
        raise InputError(f"filmstrip draws 1 to {_MOST_STATES} states, got {len(chosen)} times")
    states = torch.from_numpy(problem.between(chosen) @ _one(problem, u).numpy())
    figure = figure or new_figure(4.2 * min(len(chosen), 4), 3.2 * -(-len(chosen) // 4))
    axes = _panels(problem, figure, len(chosen))
    style: dict[str, Any] = {"limits": limits_of(problem, states), "label": label, "cmap": cmap}
    for ax, t, state in zip(axes, chosen, states, strict=True):
        field(problem, state, ax, title=f"t = {t:.3g}", **style)
    return whole(figure)


@kinds_checked
def animate(
    problem: TransientProblem,
    u: Tensor,
    path: str | Path,
    *,
    n_frames: int | None = None,
    fps: int = 12,
    label: str = "u",
    cmap: str = "viridis",
) -> Path:
    """Write a film of a trajectory, at equal distances in time.

    Args:
        problem: owns the mesh and the steps.
        u: (n_times, n_dofs), one trajectory.
        path: .gif, or .mp4 where the program ffmpeg is; replaced in one step.
        n_frames: states; by default as many as there are steps, at most 100.
        fps: of them in a second.
        label: of the colours.
        cmap: colour map.

    Raises:
        InputError: another ending, or .mp4 without ffmpeg.
    """
    path, whole_u = Path(path), _one(problem, u)
    check_count(1, fps=fps)
    n = min(problem.n_times, 100) if n_frames is None else n_frames
    check_count(2, n_frames=n)
    if path.suffix not in (".gif", ".mp4"):
        raise InputError(f"a film is a .gif or an .mp4 file, got {str(path)!r}")
    if path.suffix == ".mp4" and not writers.is_available("ffmpeg"):
        raise InputError("an .mp4 film needs the program ffmpeg, which is not here; write a .gif")
    times: NDArray[np.float64] = np.linspace(problem.times[0], problem.times[-1], n)
    states = torch.from_numpy(problem.between(times) @ whole_u.numpy())
    style: dict[str, Any] = {"limits": limits_of(problem, whole_u), "label": label, "cmap": cmap}
    figure = new_figure(6.0, 4.0)

    def draw(k: int) -> list[Any]:
        figure.clear()
        (ax,) = _panels(problem, figure, 1)
        field(problem, states[k], ax, title=f"t = {times[k]:.3g}", **style)
        return [ax]

    film = FuncAnimation(figure, draw, frames=n, init_func=lambda: [])
    writer = PillowWriter(fps=fps) if path.suffix == ".gif" else FFMpegWriter(fps=fps)
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / f"film{path.suffix}"
            film.save(made, writer=writer)
            content = made.read_bytes()
    finally:
        plt.close(figure)
    with replacing(path) as file:
        file.write(content)
    return path


def _drawn_data(posterior: Posterior, n: int, seed: int) -> Tensor:
    """Data without noise at draws of the posterior, (n, n_sensors), float64 on the CPU."""
    z = posterior.sample((n,), seed=seed).double().cpu()
    data = posterior.expected(z)
    if posterior.method not in ("laplace", "variational"):
        return data
    misfit = posterior.y.double().cpu() - data
    prior = posterior.observation.problem.prior
    log_w = posterior.observation.noise.log_prob(misfit) + prior.log_prob(z)
    log_w = log_w - posterior.log_prob(z)
    # No draw counts more than sqrt(n) ones (Ionides, 2008).
    w = (log_w - log_w.logsumexp(0)).exp().clamp(max=n**-0.5)
    return data[torch.multinomial(w, n, replacement=True, generator=generator_of(seed))]


def _one(problem: TransientProblem, u: Tensor) -> Tensor:
    check_kind(Tensor, u=u)
    found = numbers_of(u, "u")
    if found.shape != problem.solution_shape:
        raise InputError(
            f"u must be one trajectory {problem.solution_shape}, (n_times, n_dofs), got shape "
            f"{found.shape}"
        )
    return torch.from_numpy(found)


def _panels(problem: TransientProblem, figure: AnyFigure, n: int) -> list[Axes]:
    options = {"projection": "3d"} if problem.space.mesh.p.shape[0] == 3 else {}
    columns = min(n, 4)
    axes = figure.subplots(-(-n // columns), columns, squeeze=False, subplot_kw=options).ravel()
    for ax in axes[n:]:
        ax.axis("off")
    return list(axes[:n])
