"""Figures of posteriors and of the calibration of an inference; see `pddlvm.plot`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom
from torch import Tensor

from pddlvm.errors import InputError
from pddlvm.inference.posterior import Posterior
from pddlvm.inference.validation import InferenceReport

if TYPE_CHECKING:
    from pddlvm.parametric import ParametricProblem

__all__ = ["expected_coverage", "inference_figure", "marginals", "ranks"]

_N_DRAWS = 4000
_COLUMNS = 4


def marginals(
    posteriors: Mapping[str, Posterior], *, truth: Tensor | None = None, seed: int = 0
) -> Figure:
    """Marginal densities of the parameters of one data set, by method, beside the prior.

    Args:
        posteriors: label -> posterior, each of one data set.
        truth: true parameters (d,), drawn as lines.
        seed: of the draws.
    """
    if not posteriors or any(p.batch for p in posteriors.values()):
        raise InputError("marginals draws one data set: infer from y[i], and give {label: result}")
    problem: ParametricProblem = next(iter(posteriors.values())).observation.problem
    d = problem.n_parameters
    rows, columns = -(-d // _COLUMNS), min(d, _COLUMNS)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, 2.4 * rows), layout="constrained", squeeze=False
    )
    prior = problem.prior.sample((_N_DRAWS,), seed=seed)
    draws = {label: p.sample((_N_DRAWS,), seed=seed) for label, p in posteriors.items()}
    for i, ax in enumerate(axes.flat):
        if i >= d:
            ax.axis("off")
            continue
        limits = _range(*(z[:, i] for z in draws.values()))
        bins = np.linspace(*limits, 50)
        ax.hist(prior[:, i].numpy(), bins=bins, density=True, color="0.85", label="prior")
        for k, (label, z) in enumerate(draws.items()):
            style = {"histtype": "step", "color": f"C{k}", "linewidth": 1.4}
            ax.hist(z[:, i].numpy(), bins=bins, density=True, label=label, **style)
        if truth is not None:
            ax.axvline(float(truth[i]), color="black", linestyle="--", linewidth=1)
        ax.set(xlabel=problem.parameter_names[i], yticks=[], xlim=limits)
    axes.flat[0].legend(fontsize="small")
    return figure


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


def inference_figure(report: InferenceReport) -> Figure:
    """Ranks and coverage side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    ranks(report, axes[0])
    expected_coverage(report, axes[1])
    return figure


def _range(*draws: Tensor) -> tuple[float, float]:
    """Where the draws of all methods are, with a margin."""
    low = min(float(z.quantile(0.001)) for z in draws)
    high = max(float(z.quantile(0.999)) for z in draws)
    margin = 0.1 * (high - low)
    return low - margin, high + margin
