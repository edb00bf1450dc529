"""Validation against the reference solver on fresh prior draws."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind
from pddlvm.basics.parallel import in_turn
from pddlvm.galerkin.forward import Forward
from pddlvm.latent.core import LatentModel
from pddlvm.latent.seen import SeenValues
from pddlvm.parameters.problem import LARGE, ParametricProblem
from pddlvm.validation.effectivity import Effectivity

__all__ = ["ErrorBars", "ValidationReport", "validate"]

_LARGE_BATCH = 1000
_N_REFERENCE, _N_RUNS, _LONG = 20, 3, 20.0
"""Timed solutions of the reference solver, how often, and seconds beyond which there are fewer."""
_LEVELS = (0.5, 0.8, 0.95, 0.99)
_N_BOUNDS = 20
"""Draws whose bounds are looked at on large meshes."""
_SAME = 1e-12
"""Relative error of what is the reference, but for rounding."""
_SHORTEST = 1e-6
_NOMINAL = np.linspace(0.05, 0.95, 19)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ErrorBars:
    """How well predicted distributions hold.

    Attributes:
        coverage: level -> fraction of true values inside the central intervals of that level.
        std_ratio: std over error, root mean squares over all samples and values; 1 is right.
        std_ratio_per_sample: the same of each sample, median over the samples.
        observed: coverage at the levels 0.05, 0.1, ..., 0.95.
    """

    coverage: dict[float, float]
    std_ratio: float
    std_ratio_per_sample: float
    observed: Array = field(repr=False)

    @classmethod
    def of(
        cls,
        error: Tensor,
        std: Tensor,
        interval: Callable[[float], tuple[Tensor, Tensor]],
        true: Tensor,
        counts: Tensor,
    ) -> "ErrorBars":
        """Of errors (n_samples, n), for the values that count (booleans)."""

        def holds(level: float) -> float:
            lower, upper = interval(level)
            return float(((lower <= true) & (true <= upper))[counts].double().mean())

        def size(values: Tensor) -> Tensor:
            return torch.where(counts, values, 0.0).square().sum(-1)

        ratio = (size(std) / size(error).clamp(min=torch.finfo(error.dtype).tiny)).sqrt()
        return cls(
            coverage={level: holds(level) for level in _LEVELS},
            std_ratio=float((size(std).sum() / size(error).sum()).sqrt()),
            std_ratio_per_sample=float(ratio[counts.any(-1)].median()),
            observed=np.array([holds(level) for level in _NOMINAL]),
        )


@dataclass(frozen=True)
class ValidationReport:
    """How good both maps are.

    Attributes:
        mnse_u: mean of |u - mean|^2 / |u|^2, u the reference solution.
        relative_l2: mean of its square root.
        relative_l2_corrected: the same after one reduced correction.
        relative_norm: mean error over |u|, in the norm of the model (`model.norm`): the energy norm
            of finite element problems, boundary values included.
        relative_norm_corrected: the same after one reduced correction.
        mnse_z: mean square relative error of the first parameter field (of z in strong form where
            that field is one number), the inverse map given the reference solution.
        coverage_u, coverage_z: fraction of true values inside mean +- 2 std; 0.954 is right.
        coverage_of: field of u -> the same of that field alone.
        bars: "u", "u corrected" (after one correction), "z" -> how well error bars hold; of several
            fields each by its name.
        log_correlation: correlation of log predicted with log true error norm, per sample.
        speedup: reference time over the time of mean and std of the forward map, per sample, of
            trajectories over that of their coefficients: {"batch 1": ..., "batch 1000": ...}.
        seconds: the times behind it: reference, batch 1, batch 1000, per sample.
        n_samples: fresh prior draws.
        effectivity: "u", "u corrected" -> how sharp `error_bound` is, where there is one; of
            meshes with more than 20,000 unknowns that of the first 20 draws.
    """

    mnse_u: float
    relative_l2: float
    relative_l2_corrected: float
    relative_norm: float
    relative_norm_corrected: float
    mnse_z: float
    coverage_u: float
    coverage_z: float
    coverage_of: dict[str, float]
    log_correlation: float
    speedup: dict[str, float]
    seconds: dict[str, float]
    n_samples: int
    bars: dict[str, ErrorBars] = field(repr=False)
    effectivity: dict[str, Effectivity]

    @property
    def nominal(self) -> Array:
        """Levels of central intervals."""
        return _NOMINAL

    @property
    def observed(self) -> Array:
        """Fraction of u, or of its first field, inside the intervals of these levels."""
        return self._first.observed

    @property
    def std_ratio(self) -> float:
        """Std over error of u, or of its first field, per sample, see `ErrorBars`."""
        return self._first.std_ratio_per_sample

    @property
    def std_ratio_pooled(self) -> float:
        """Std over error of u, or of its first field, over all samples and nodes together."""
        return self._first.std_ratio

    @property
    def _first(self) -> ErrorBars:
        return self.bars[next(iter(self.coverage_of))]

    @property
    def rows(self) -> dict[str, str]:
        """Name -> value of what is measured, as people read it."""
        corrected, bars = f"{self.relative_l2_corrected:.2e}", self.bars
        if self.relative_l2_corrected < _SAME:
            # A strong form on the same nodes: no error is left to compare error bars with.
            corrected = "0, as the reference"
            bars = {k: b for k, b in bars.items() if not k.endswith(" corrected")}
        return {
            "relative L2 error of u": f"{self.relative_l2:.2e}",
            "... after one correction": corrected,
            "relative error in the model's norm": f"{self.relative_norm:.2e}",
            "... after a correction": f"{self.relative_norm_corrected:.2e}",
            "mnse_u": f"{self.mnse_u:.2e}",
            "mnse_z": f"{self.mnse_z:.2e}",
            "coverage of u, +-2 std": f"{self.coverage_u:.3f}",
            "coverage of z, +-2 std": f"{self.coverage_z:.3f}",
            **self._coverages,
            **{f"{k}: 50, 80, 95, 99 % hold": _percents(b) for k, b in bars.items()},
            **{f"{k}: std / error": f"{b.std_ratio:.2f}" for k, b in bars.items()},
            "u: std / error, per sample": f"{self.std_ratio:.2f}",
            **{f"{k}: bound / error, worst": str(e) for k, e in self.effectivity.items()},
            "correlation, log errors": f"{self.log_correlation:.2f}",
            **{f"speed-up, {k}": f"{v:.3g}" for k, v in self.speedup.items()},
        }

    @property
    def _coverages(self) -> dict[str, str]:
        if len(self.coverage_of) == 1:
            return {}
        return {f"coverage of field {k}, +-2 std": f"{v:.3f}" for k, v in self.coverage_of.items()}

    def __str__(self) -> str:
        return "\n".join(f"{name:<38}{value:>22}" for name, value in self.rows.items())


def _percents(bars: ErrorBars) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in bars.coverage.values())


def validate(
    model: LatentModel,
    n_samples: int = 200,
    *,
    known: Sequence[str] = (),
    seed: int = 12345,
) -> ValidationReport:
    """Compare both maps with the reference solver; see `ValidationReport` for what is measured.

    Args:
        model: a trained model.
        n_samples: fresh prior draws, at least 2.
        known: names of the blocks of z that the inverse map is told.
        seed: of the draws.
    """
    check_kind(LatentModel, model=model)
    check_count(2, n_samples=n_samples)
    problem = model.problem
    z = problem.prior.sample((n_samples,), seed=seed)
    told = problem.prior.known_part(z, known)
    u = problem.solve(z)
    inverse = model.inverse(u, z_known=told)
    forward, corrected = (model.seen_values(z, u, level) for level in (0, 1))
    fields = forward.fields
    free = torch.cat(list(fields.values())).unique()
    bars = {name: _bars_of_u(forward, own) for name, own in fields.items()}
    bars |= {f"{name} corrected": _bars_of_u(corrected, own) for name, own in fields.items()}
    error, std = (forward.mean - forward.true)[:, free], forward.std[:, free]
    inside = (forward.mean - forward.true).abs() <= 2 * forward.std
    unknown = inverse.xi_std > 0
    missed = ((inverse.mean - z).abs() > 2 * inverse.std)[unknown]
    _, unit = problem.prior.units
    error_z, std_z = (inverse.mean - z) / unit, inverse.std / unit
    bars["z"] = ErrorBars.of(error_z, std_z, inverse.interval, z, unknown)
    logs = torch.stack([error.norm(dim=1), std.norm(dim=1)]).log()
    seconds = _timings(model, z)
    return ValidationReport(
        mnse_u=float(forward.relative.square().mean()),
        relative_l2=float(forward.relative.mean()),
        relative_l2_corrected=float(corrected.relative.mean()),
        relative_norm=float(forward.relative_norm.mean()),
        relative_norm_corrected=float(corrected.relative_norm.mean()),
        mnse_z=_mnse_z(model, z, inverse.median),
        coverage_u=float(inside[:, free].double().mean()),
        coverage_of={k: float(inside[:, own].double().mean()) for k, own in fields.items()},
        coverage_z=1 - float(missed.double().mean()),
        log_correlation=float(torch.corrcoef(logs)[0, 1]),
        speedup={k: seconds["reference"] / seconds[k] for k in seconds if k != "reference"},
        seconds=seconds,
        n_samples=n_samples,
        bars=bars,
        effectivity=_effectivity(model, (forward, corrected), z, u),
    )


def _effectivity(
    model: LatentModel, seen: tuple[SeenValues, ...], z: Tensor, u: Tensor
) -> dict[str, Effectivity]:
    answers: list[Any] = [one.answer for one in seen]
    if model.problem.n_dofs > LARGE:
        few = slice(_N_BOUNDS)
        answers, u = [model.forward(z[few], corrections=k) for k in range(len(seen))], u[few]
    found = {
        name: Effectivity.of(model, answer, u)
        for name, answer in zip(("u", "u corrected"), answers, strict=True)
        if isinstance(answer, Forward)
    }
    return {name: one for name, one in found.items() if one is not None}


def _bars_of_u(seen: SeenValues, own: Tensor) -> ErrorBars:
    def interval(level: float) -> tuple[Tensor, Tensor]:
        lower, upper = seen.interval(level)
        return lower[:, own], upper[:, own]

    true = seen.true[:, own]
    error, std = seen.mean[:, own] - true, seen.std[:, own]
    return ErrorBars.of(error, std, interval, true, torch.ones_like(error, dtype=torch.bool))


def _mnse_z(model: LatentModel, z: Tensor, found: Tensor) -> float:
    true, mean = model.problem.inferred(z), model.problem.inferred(found)
    return float(((true - mean).norm(dim=1) / true.norm(dim=1)).square().mean())


def _timings(model: LatentModel, z: Tensor) -> dict[str, float]:
    """Seconds per sample: reference solver, forward map at batch 1 and at a large batch."""
    many = model.problem.prior.sample((_LARGE_BATCH,), seed=1).float()
    one = many[:1]
    predict = model.quick_answer
    predict(many), predict(one)
    return {
        "reference": _seconds_of_reference(model.problem, z[:_N_REFERENCE]),
        "batch 1": _median_seconds(20, lambda: predict(one)),
        "batch 1000": _median_seconds(3, lambda: predict(many)) / _LARGE_BATCH,
    }


def _seconds_of_reference(problem: ParametricProblem, z: Tensor) -> float:
    # Of one process, as those of the map are.
    with in_turn():
        problem.solve(z[:1])
        n_fit = int(_LONG / max(_median_seconds(1, lambda: problem.solve(z[:1])), _SHORTEST))
        n_runs = _N_RUNS if n_fit >= _N_RUNS * len(z) else 1
        few = z[: max(1, n_fit)]
        return _median_seconds(n_runs, lambda: problem.solve(few)) / len(few)


def _median_seconds(n: int, run: Callable[[], object]) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
