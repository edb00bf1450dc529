"""The verdict on a trained forward map, from the certificates of fresh prior draws.

A certificate is the relative residual of a predicted mean, `forward(z).residual_norm`: it needs no
reference solution. Where it is large the map is wrong; where it is small after a correction, the
map is a start that the correction makes good. In strong form the residual in the box says nothing
of conditions that hold up to a tolerance: there the calibrated error bars must be small too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.latent.core import LatentModel
from pddlvm.parameters.problem import LARGE

__all__ = ["Certificates", "certificates"]

_SMALL = 0.1
_N_DRAWS = 128
_N_CORRECTED = 64
"""Fewer, because a correction in strong form is a dense solve."""
_SEED = 30319


@dataclass(frozen=True)
class Certificates:
    """Relative residuals of the forward map over the prior.

    Attributes:
        median, high: median and 95 % quantile, of the map as it is.
        median_corrected, high_corrected: the same after one correction; infinite where
            predictions are not finite.
        high_bar: 95 % quantile of the calibrated error bars relative to solutions; 0 where they
            are not asked.
    """

    median: float
    high: float
    median_corrected: float
    high_corrected: float
    high_bar: float = 0.0

    @property
    def rows(self) -> dict[str, str]:
        """Name -> value, as people read it."""
        return {
            "residual, median (95 %)": f"{self.median:.1e} ({self.high:.1e})",
            "... after one correction": f"{self.median_corrected:.1e} ({self.high_corrected:.1e})",
        }

    @property
    def verdict(self) -> str:
        """Accept, refine or reject, with the reason and what to do."""
        if self.high <= _SMALL:
            if self.high_bar <= _SMALL:
                return "accept"
            return (
                f"refine: 5 % of the predictions have error bars above {100 * self.high_bar:.3g} % "
                "of a solution, though the residual is small: train longer, use corrections=1, or "
                "tighten the tolerance of the conditions"
            )
        found = f"the residual of 5 % of the predictions is above {100 * self.high:.3g} %"
        if self.high_corrected <= _SMALL:
            return (
                f"refine: {found}, after a correction above {100 * self.high_corrected:.3g} %; the "
                "corrections are needed: use corrections=1, or train longer"
            )
        return (
            f"reject: {found}, and corrections do not help enough "
            f"({100 * self.high_corrected:.3g} %): train longer, with more modes, or on a "
            "narrower prior"
        )


def certificates(model: LatentModel) -> Certificates:
    """Those of a few fresh draws; no PDE is solved."""
    # Where a residual takes long fewer must do: seconds each, of a million unknowns.
    n_dofs = model.problem.n_dofs
    share = 1 if n_dofs <= LARGE else min(8, max(2, n_dofs // (5 * LARGE)))
    z = model.problem.prior.sample((_N_DRAWS // share,), seed=_SEED)
    bars = model.relative_bars(z) if model.is_calibrated else None
    high_bar = 0.0 if bars is None else float(bars.quantile(0.95))
    plain, corrected = _summary(model, z, 0), _summary(model, z[: _N_CORRECTED // share], 1)
    return Certificates(plain[0], plain[1], corrected[0], corrected[1], high_bar)


def _summary(model: LatentModel, z: Tensor, corrections: int) -> list[float]:
    try:
        values = model.forward(z, corrections=corrections).residual_norm
    except ConvergenceError:
        return [math.inf, math.inf]
    levels = torch.tensor([0.5, 0.95], dtype=values.dtype, device=values.device)
    # What is not a number is no small residual.
    values = values.nan_to_num(nan=torch.inf)
    found: list[float] = values.quantile(levels, interpolation="higher").tolist()
    return found
