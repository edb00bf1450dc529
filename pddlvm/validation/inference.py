"""Is the inference calibrated? Rank statistics and coverage over data sets drawn from the prior.

    z_i ~ p(z),  y_i ~ p(y | u(z_i)) with the reference solver,  z_ik ~ q(z | y_i), k = 1 ... L

The rank of z_i among its L draws is uniform if q is the posterior (Talts et al., 2018), central
intervals hold as much as they say, and so do regions around random points (TARP; Lemos et al.,
2023), which see all parameters at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind
from pddlvm.basics.parallel import Watch
from pddlvm.basics.random import generator_of
from pddlvm.inference.methods import Method
from pddlvm.inference.resumed import Kept, job, parts_of, unpacked
from pddlvm.models import LatentVariableModel
from pddlvm.sensors.observation import Observation
from pddlvm.training.checkpoints import Checkpoints

__all__ = ["InferenceReport", "validate_inference"]

_N_DRAWS = 127
_N_BINS = 16
_PER_BIN = 5
_CHUNK = 50
_LEAST_DATA = 20
_ONE_BY_ONE = ("variational", "nuts", "exact")
"""Methods that take so long that `infer` itself gives each data set a worker."""

Array = NDArray[np.float64]
R = TypeVar("R")
Infer = Callable[[tuple[int, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class InferenceReport:
    """How well posteriors are calibrated.

    Attributes:
        method: of the inference.
        p_values: of each parameter's ranks by a chi-square test, (d,).
        p_value: of all of them, the smallest one times their number (Bonferroni).
        tarp_p_value: of the regions around random points, by a Kolmogorov-Smirnov test.
        coverage: nominal -> observed, of central intervals, averaged over the parameters.
        error: root mean square of (posterior mean - truth) / posterior std; 1 is right.
        ranks: (n_data, d), from 0 to n_draws.
        nominal, observed: expected coverage curve of central intervals.
        tarp: observed coverage of the regions at the nominal levels.
        n_data, n_draws: data sets, and draws of each posterior.
    """

    method: str
    p_values: Tensor = field(repr=False)
    p_value: float
    tarp_p_value: float
    coverage: dict[float, float]
    error: float
    n_data: int
    n_draws: int
    ranks: Tensor = field(repr=False)
    nominal: Array = field(repr=False)
    observed: Array = field(repr=False)
    tarp: Array = field(repr=False)

    def __str__(self) -> str:
        rows = [
            ("data sets", f"{self.n_data}"),
            *((f"{level:.0%} intervals hold", f"{c:.1%}") for level, c in self.coverage.items()),
            ("p-value of the ranks", f"{self.p_value:.3f}"),
            ("p-value of TARP", f"{self.tarp_p_value:.3f}"),
            ("error / std", f"{self.error:.2f}"),
        ]
        return "\n".join(f"{name:<28}{value:>12}" for name, value in rows)


def validate_inference(
    model: LatentVariableModel,
    observation: Observation,
    method: Method = "laplace",
    *,
    n_data: int = 500,
    seed: int = 54321,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
) -> InferenceReport:
    """Simulate data with the reference solver, infer, and compare; see `InferenceReport`.

    Args:
        model: a trained model.
        observation: sensors and noise.
        method: see `LatentVariableModel.infer`.
        n_data: data sets, at least 20.
        seed: of everything random.
        checkpoints: where to keep what was found: the data, and the answers of 50 data sets, by
            methods that take long of each, and their chains (`LatentVariableModel.infer`).
        resume: go on with the job in the folder of `checkpoints`, if there is one.

    Raises:
        InputError: too few data sets; checkpoints of another job, or of one that `resume` does not
            go on with.
        RunFileError: the folder of the checkpoints is in use, or cannot be written to.
    """
    check_kind(LatentVariableModel, model=model)
    check_kind(Observation, observation=observation)
    check_count(_LEAST_DATA, n_data=n_data)
    prior = model.problem.prior
    z = prior.sample((n_data,), seed=seed)
    asked = {"method": method, "n_data": n_data, "seed": seed}
    with job(checkpoints, resume, model, observation, asked) as kept:
        clean = _one_by_one((kept, "data"), partial(_observed, observation), z.split(_CHUNK))
        y = torch.cat([data for (data,) in clean])
        y = y + observation.noise.sample((n_data,), generator_of(seed + 1)).to(y)
        infer = partial(_infer, model, observation, method, seed, kept)
        parts = [(start, y[start : start + _CHUNK]) for start in range(0, n_data, _CHUNK)]
        record = (kept, "answers")
        if method in _ONE_BY_ONE:
            answers = _one_by_one(record, infer, parts)
        else:
            if method == "amortized":
                model.amortize(observation)  # Once, and not by each worker.
            answers = parts_of(
                record, _call, infer, parts, pack=_as_it_is, unpack=_all, what=_named
            )
    draws, means, stds = zip(*answers, strict=True)
    found, mean, std = torch.cat(draws, dim=1), torch.cat(means), torch.cat(stds)
    ranks = (found < z).sum(0)
    p_values = torch.tensor([_uniform_ranks(r) for r in ranks.numpy().T], dtype=torch.float64)
    nominal = np.linspace(0.05, 0.95, 19)
    levels = [0.5, 0.8, 0.95]
    reference = prior.sample((n_data,), seed=seed + 3)
    share = _share_closer(*(prior.standardise(x) for x in (found, z, reference)))
    return InferenceReport(
        method=method,
        p_values=p_values,
        p_value=min(1.0, float(p_values.min()) * len(p_values)),
        tarp_p_value=float(kstest(share.numpy(), "uniform").pvalue),
        coverage={level: _coverage(ranks, level) for level in levels},
        error=float(((mean - z) / std).square().mean().sqrt()),
        n_data=n_data,
        n_draws=_N_DRAWS,
        ranks=ranks,
        nominal=nominal,
        observed=np.array([_coverage(ranks, level) for level in nominal]),
        tarp=np.array([float((share < level).double().mean()) for level in nominal]),
    )


def _one_by_one(
    record: tuple[Kept | None, str],
    function: Callable[[Any], tuple[Tensor, ...]],
    parts: Sequence[Any],
) -> list[tuple[Tensor, ...]]:
    """Answers of parts each of which has its own loop for workers."""
    kept, kind = record
    if kept is None:
        return [function(part) for part in parts]
    with kept.record(kind) as found:
        answers = []
        for k, part in enumerate(parts):
            if k in found.known:
                answers.append(_all(*map(unpacked, found.known[k])))
                continue
            answers.append(function(part))
            found.add(k, answers[-1])
        return answers


def _as_it_is(answer: R) -> R:
    return answer


def _all(*parts: Tensor) -> tuple[Tensor, ...]:
    return parts


def _observed(observation: Observation, z: Tensor) -> tuple[Tensor]:
    return (observation.apply(observation.problem.solve(z)),)


def _infer(
    model: LatentVariableModel,
    observation: Observation,
    method: Method,
    seed: int,
    kept: Kept | None,
    part: tuple[int, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws, means and standard deviations for some data sets, the first of which has a number."""
    start, y = part
    own: dict[str, Any] = {}
    if kept is not None and method in _ONE_BY_ONE:
        own = {"checkpoints": kept.within(f"data-{start:06d}"), "resume": True}
    posterior = model.infer(y, observation, method, seed=seed, **own)
    draws = posterior.sample((_N_DRAWS,), seed=seed + 2 + start)
    return draws, posterior.mean, posterior.std


def _call(infer: Infer, part: tuple[int, Tensor], watch: Watch) -> tuple[Tensor, ...]:
    return infer(part)


def _named(part: tuple[int, Tensor]) -> str:
    start, y = part
    return f"the posteriors of data sets {start} to {start + len(y) - 1}"


def _uniform_ranks(ranks: Array) -> float:
    """p-value of the hypothesis that ranks 0 ... L are uniform."""
    n_bins = max(2, min(_N_BINS, len(ranks) // _PER_BIN))
    counts, edges = np.histogram(ranks, bins=n_bins, range=(-0.5, _N_DRAWS + 0.5))
    # Bins need not hold the same number of ranks.
    widths = np.diff(np.searchsorted(np.arange(_N_DRAWS + 1), edges))
    return float(chisquare(counts, len(ranks) * widths / widths.sum()).pvalue)


def _coverage(ranks: Tensor, level: float) -> float:
    """Fraction of true values in central intervals of this level."""
    share = (ranks.double() + 0.5) / (_N_DRAWS + 1)
    return float(((share - 0.5).abs() < 0.5 * level).double().mean())


def _share_closer(draws: Tensor, truth: Tensor, reference: Tensor) -> Tensor:
    """Fraction of the draws that are closer to the reference point than the truth, (n_data,)."""
    near = (draws - reference).norm(dim=-1) < (truth - reference).norm(dim=-1)
    return (near.double().sum(0) + 0.5) / (len(draws) + 1)
