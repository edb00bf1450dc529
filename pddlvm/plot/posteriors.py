"""Figures of posteriors and of the calibration of an inference."""

from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom
from torch import Tensor

from pddlvm.basics.checks import check_all, check_kind, kinds_checked
from pddlvm.basics.errors import InputError
from pddlvm.inference.posterior import Posterior
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.plot.figures import AnyFigure, drawn, new_figure, whole
from pddlvm.validation.inference import InferenceReport

__all__ = ["COLOURS", "corner", "expected_coverage", "inference_figure", "marginals", "ranks"]

_N_DRAWS = 4000
_COLUMNS = 4
_MOST_SHOWN = 12
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
"""That the colour-blind can tell apart (Okabe and Ito, 2008)."""


@kinds_checked
def marginals(
    posteriors: Mapping[str, Posterior],
    *,
    truth: Tensor | None = None,
    seed: int = 0,
    figure: AnyFigure | None = None,
) -> Figure:
    """Marginal densities of the parameters of one data set, by method, beside the prior.

    Args:
        posteriors: label -> posterior, each of one data set.
        truth: true parameters (d,), drawn as lines.
        seed: of the draws.
        figure: where to draw; by default a new one.
    """
    check_kind(Mapping, posteriors=posteriors)
    check_kind(Posterior, **{str(label): p for label, p in posteriors.items()})
    if not posteriors or any(p.batch for p in posteriors.values()):
        raise InputError("marginals draws one data set: infer from y[i], and give {label: result}")
    problem: ParametricProblem = next(iter(posteriors.values())).observation.problem
    d = problem.n_parameters
    lines = None if truth is None else drawn(truth, "truth", d)
    rows, columns = -(-d // _COLUMNS), min(d, _COLUMNS)
    figure = figure or new_figure(3 * columns, 2.4 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    prior = problem.prior.sample((_N_DRAWS,), seed=seed)
    draws = {label: p.sample((_N_DRAWS,), seed=seed).cpu() for label, p in posteriors.items()}
    for i, ax in enumerate(axes.flat):
        if i >= d:
            ax.axis("off")
            continue
        limits = _range(*(z[:, i] for z in draws.values()))
        bins = np.linspace(*limits, 50)
        ax.hist(prior[:, i].numpy(), bins=bins, density=True, color="0.85", label="prior")
        for k, (label, z) in enumerate(draws.items()):
            colour = COLOURS[k % len(COLOURS)]
            style = {"histtype": "step", "color": colour, "linewidth": 1.4}
            ax.hist(z[:, i].numpy(), bins=bins, density=True, label=label, **style)
        if lines is not None:
            ax.axvline(lines[i], color="black", linestyle="--", linewidth=1)
        ax.set(xlabel=problem.parameter_names[i], yticks=[], xlim=limits)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize="small")
    return whole(figure)


@kinds_checked
def ranks(report: InferenceReport, ax: Axes) -> Axes:
    """Ranks of the true parameters among draws of their posteriors; uniform is right."""
    values = report.ranks.flatten().numpy()
    n_bins = 16
    limits = (-0.5, report.n_draws + 0.5)
    counts, edges = np.histogram(values, bins=n_bins, range=limits)
    ax.stairs(counts, edges, fill=True, color="C0", alpha=0.7)
    low, high = (float(binom.ppf(q, len(values), 1 / n_bins)) for q in (0.005, 0.995))
    ax.axhspan(low, high, color="0.5", alpha=0.3, label="99 % if calibrated")
    ax.set(
        xlabel="rank of the true parameter",
        ylabel="count, all parameters",
        title=f"Ranks: p = {report.p_value:.2f}",
        xlim=limits,
        ylim=(0, 1.3 * max(float(counts.max()), high)),
    )
    ax.legend()
    return ax


@kinds_checked
def corner(
    posterior: Posterior,
    *,
    parameters: Sequence[int] | None = None,
    truth: Tensor | None = None,
    seed: int = 0,
    figure: AnyFigure | None = None,
) -> Figure:
    """Marginal densities of parameters and of their pairs, of one data set.

    Args:
        posterior: of one data set.
        parameters: numbers of those to draw, at most twelve; by default the first ones.
        truth: true parameters (d,), drawn as lines.
        seed: of the draws.
        figure: where to draw; by default a new one.
    """
    d = posterior.mean.shape[-1]
    lines = None if truth is None else drawn(truth, "truth", d)
    if parameters is None:
        parameters = range(min(d, _MOST_SHOWN))
    shown = check_all(parameters, Integral, "parameters", "[0, 1]")
    if posterior.batch or not 1 <= len(shown) <= _MOST_SHOWN:
        raise InputError(
            f"corner draws 1 to {_MOST_SHOWN} parameters of one data set: infer from y[i]"
        )
    if not all(0 <= i < d for i in shown):
        raise InputError(f"the parameters have the numbers 0 to {d - 1}, got {list(shown)}")
    n, names = len(shown), posterior.observation.problem.parameter_names
    draws = posterior.sample((_N_DRAWS,), seed=seed).cpu()
    limits = [_range(draws[:, i]) for i in shown]
    size = max(3.0, 1.8 * n)
    figure = figure or new_figure(size, size)
    axes = figure.subplots(n, n, squeeze=False)
    for row, i in enumerate(shown):
        for column, j in enumerate(shown):
            ax = axes[row, column]
            if column > row:
                ax.axis("off")
                continue
            x, y = draws[:, j].numpy(), draws[:, i].numpy()
            if row == column:
                bins = np.linspace(*limits[row], 40)
                ax.hist(x, bins=bins, density=True, histtype="step", color="C0")
                ax.set_yticks([])
            else:
                ax.hist2d(x, y, bins=40, range=(limits[column], limits[row]), cmap="Blues")
                ax.set_ylim(limits[row])
            ax.set_xlim(limits[column])
            if lines is not None:
                style = {"color": "black", "linestyle": "--", "linewidth": 0.8}
                ax.axvline(lines[j], **style)
                if row != column:
                    ax.axhline(lines[i], **style)
            ax.tick_params(
                labelsize="x-small", labelbottom=row == n - 1, labelleft=column == 0 < row
            )
            if row == n - 1:
                ax.set_xlabel(names[j])
            if column == 0 and row:
                ax.set_ylabel(names[i])
    return whole(figure)


@kinds_checked
def expected_coverage(report: InferenceReport, ax: Axes) -> Axes:
    """Observed against nominal coverage; the diagonal is right, below is overconfident."""
    ax.plot([0, 1], [0, 1], color="0.7", zorder=0)
    ax.plot(report.nominal, report.observed, "o-", markersize=4, label="central intervals")
    ax.plot(report.nominal, report.tarp, "s-", markersize=4, label="random points (TARP)")
    ax.set(
        xlabel="nominal coverage",
        ylabel="observed coverage",
        aspect="equal",
        title=f"Coverage of {report.n_data} data sets",
    )
    ax.legend()
    return ax


@kinds_checked
def inference_figure(report: InferenceReport, *, figure: AnyFigure | None = None) -> Figure:
    """Ranks and coverage side by side.

    Args:
        report: of `validate_inference`.
        figure: where to draw; by default a new one.
    """
    figure = figure or new_figure(9, 4)
    axes = figure.subplots(1, 2)
    ranks(report, axes[0])
    expected_coverage(report, axes[1])
    return whole(figure)


def _range(*draws: Tensor) -> tuple[float, float]:
    """Where the draws of all methods are, with a margin."""
    low = min(float(z.quantile(0.001)) for z in draws)
    high = max(float(z.quantile(0.999)) for z in draws)
    margin = 0.1 * (high - low)
    return low - margin, high + margin
