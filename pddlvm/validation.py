"""Validation against the reference solver on fresh prior draws."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.errors import InputError
from pddlvm.latent import LatentVariableModel

__all__ = ["ValidationReport", "validate"]

_LARGE_BATCH = 1000
_N_REFERENCE = 20
_N_QUANTILES = 19


@dataclass(frozen=True)
class ValidationReport:
    """How good both maps are.

    Attributes:
        mnse_u: mean of |u - mean|^2 / |u|^2, u the reference solution.
        relative_l2: mean of its square root.
        relative_l2_corrected: the same after one reduced correction.
        mnse_z: mean square relative error of the first parameter field (of z in strong form where
            that field is one number), the inverse map given the reference solution.
        coverage_u, coverage_z: fraction of true values inside mean +- 2 std; 0.954 is right.
        std_ratio: mean std over root mean square error of one sample, median over the samples.
        std_ratio_pooled: the same over all samples and nodes together. A few hard samples dominate
            the root mean square error; a sharp std follows them, and its mean stays below.
        log_correlation: correlation of log predicted with log true error norm, per sample.
        speedup: reference time over forward time per sample: {"batch 1": ..., "batch 1000": ...}.
        seconds: the times behind it: reference, batch 1, batch 1000, per sample.
        nominal, observed: expected coverage curve of u.
        n_samples: fresh prior draws.
    """

    mnse_u: float
    relative_l2: float
    relative_l2_corrected: float
    mnse_z: float
    coverage_u: float
    coverage_z: float
    std_ratio: float
    std_ratio_pooled: float
    log_correlation: float
    speedup: dict[str, float]
    seconds: dict[str, float]
    n_samples: int
    nominal: NDArray[np.float64] = field(repr=False)
    observed: NDArray[np.float64] = field(repr=False)

    @property
    def rows(self) -> dict[str, str]:
        """Name -> value of what is measured, as people read it."""
        return {
            "relative L2 error of u": f"{self.relative_l2:.2e}",
            "... after one correction": f"{self.relative_l2_corrected:.2e}",
            "mnse_u": f"{self.mnse_u:.2e}",
            "mnse_z": f"{self.mnse_z:.2e}",
            "coverage of u, +-2 std": f"{self.coverage_u:.3f}",
            "coverage of z, +-2 std": f"{self.coverage_z:.3f}",
            "std / error, per sample": f"{self.std_ratio:.2f}",
            "std / error, pooled": f"{self.std_ratio_pooled:.2f}",
            "correlation, log errors": f"{self.log_correlation:.2f}",
            **{f"speed-up, {k}": f"{v:,.0f}" for k, v in self.speedup.items()},
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:<28}{value:>12}" for name, value in self.rows.items())


def validate(
    model: LatentVariableModel,
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
    if n_samples < 2:
        raise InputError(f"validation needs at least 2 samples, got {n_samples}")
    problem = model.problem
    unknown_names = sorted(set(known) - set(problem.prior.blocks))
    if unknown_names:
        raise InputError(
            f"known has {unknown_names}, but the blocks are {list(problem.prior.blocks)}"
        )
    z = problem.prior.sample((n_samples,), seed=seed)
    u = problem.solve(z)
    free = torch.from_numpy(problem.free_dofs)

    forward = model.forward(z)
    relative = (forward.mean - u).norm(dim=1) / u.norm(dim=1)
    corrected = model.forward(z, corrections=1).mean
    error, std = (forward.mean - u)[:, free], forward.std[:, free]
    blocks = problem.prior.split(z)
    inverse = model.inverse(u, z_known={k: blocks[k] for k in known})
    xi = problem.prior.standardise(z)
    unknown = inverse.xi_std > 0
    missed = ((inverse.xi_mean - xi).abs() > 2 * inverse.xi_std)[unknown]
    score = (error.abs() / std.clamp(min=1e-300)).flatten()
    nominal = np.linspace(0.05, 0.95, _N_QUANTILES)
    limits = torch.distributions.Normal(0.0, 1.0).icdf(torch.from_numpy(0.5 + nominal / 2))
    logs = torch.stack([error.norm(dim=1), std.norm(dim=1)]).log()
    seconds = _timings(model, z)
    return ValidationReport(
        mnse_u=float(relative.square().mean()),
        relative_l2=float(relative.mean()),
        relative_l2_corrected=float(((corrected - u).norm(dim=1) / u.norm(dim=1)).mean()),
        mnse_z=_mnse_z(model, z, inverse.median),
        coverage_u=float((score <= 2).double().mean()),
        coverage_z=1 - float(missed.double().mean()),
        std_ratio=float((std.mean(1) / error.square().mean(1).sqrt()).median()),
        std_ratio_pooled=float(std.mean() / error.square().mean().sqrt()),
        log_correlation=float(torch.corrcoef(logs)[0, 1]),
        speedup={k: seconds["reference"] / seconds[k] for k in seconds if k != "reference"},
        seconds=seconds,
        n_samples=n_samples,
        nominal=nominal,
        observed=np.array([float((score <= q).double().mean()) for q in limits]),
    )


def _mnse_z(model: LatentVariableModel, z: Tensor, found: Tensor) -> float:
    true, mean = model.problem.inferred(z), model.problem.inferred(found)
    return float(((true - mean).norm(dim=1) / true.norm(dim=1)).square().mean())


def _timings(model: LatentVariableModel, z: Tensor) -> dict[str, float]:
    """Seconds per sample: reference solver, forward map at batch 1 and at a large batch."""
    problem = model.problem
    few = z[:_N_REFERENCE]
    many = problem.prior.sample((_LARGE_BATCH,), seed=1).float()
    one = many[:1]
    problem.solve(few[:1])
    _ = model.forward(many).mean, model.forward(one).mean
    return {
        "reference": _median_seconds(3, lambda: problem.solve(few)) / len(few),
        "batch 1": _median_seconds(20, lambda: model.forward(one).mean),
        "batch 1000": _median_seconds(3, lambda: model.forward(many).mean) / _LARGE_BATCH,
    }


def _median_seconds(n: int, run: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
