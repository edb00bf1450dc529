"""Calibration of an inverse map and its search, on nearly exact solutions of fresh draws.

Each set of known blocks has errors of its own, of which few draws would say little: each draw
answers with several sets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.galerkin.gauss_newton import Minimum, inverse_features
from pddlvm.latent.uncertainty import Uncertainty

__all__ = ["InverseAnswers", "fit_inverse", "is_astray", "repeats_of"]

_N_INVERSE, _MOST_REPEATS = 1536, 4
"""Answers of the inverse map, each draw with several sets of known blocks."""
_ASTRAY = 2.0


@dataclass(frozen=True)
class InverseAnswers:
    """What an inverse map says of solutions whose parameters are known.

    Attributes:
        xi: the true parameters, (batch, d), float64.
        known: 1 where they were told, (batch, d).
        mean: of the map alone, (batch, d).
        log_variance: the same.
        found: end of the search.
        misfit_of_truth: of the true parameters, (batch,).
    """

    xi: Tensor
    known: Tensor
    mean: Tensor
    log_variance: Tensor
    found: Minimum
    misfit_of_truth: Tensor


def repeats_of(n_draws: int, has_known: bool) -> int:
    """How often each draw answers."""
    return min(_MOST_REPEATS, max(1, round(_N_INVERSE / n_draws))) if has_known else 1


@torch.no_grad()
def fit_inverse(uncertainty: Uncertainty, answers: InverseAnswers, n_draws: int) -> None:
    """Variances and shapes of the map alone, and of its search; the draws come again after n."""
    known, found, like = answers.known, answers.found, answers.mean
    levels = (
        (like, *inverse_features(like, answers.log_variance, None, known)),
        (found.xi, *inverse_features(found.xi, 2 * found.std.log(), found.misfit, known)),
    )
    # A search that went astray says so by its misfit, and no bar is meant to reach to its end;
    # unless most do, and it is bars that tell how far one may trust.
    none = torch.zeros_like(found.misfit, dtype=torch.bool)
    xi = answers.xi.to(found.xi)
    lost = is_astray(found.misfit, found.xi, answers.misfit_of_truth, xi)
    astray = (none, lost if lost.double().mean() < 0.5 else none)
    for level, (mean, features, base) in enumerate(levels):
        # In float64: a difference of float32 numbers would hide their rounding.
        errors = (mean.double() - answers.xi.to(mean.device)).to(like)
        unknown = (known == 0) & ~astray[level][:, None]
        variance = uncertainty.xi[level]
        std = variance.fit(features, base, errors, unknown.to(like), n_draws=n_draws)
        scores = errors / (0.5 * std).exp()
        uncertainty.fit_inverse_shapes(level, known, scores, unknown)


def is_astray(misfit: Tensor, found: Tensor, misfit_of_truth: Tensor, truth: Tensor) -> Tensor:
    """Which searches ended far above the truth, (batch,)."""
    limit = _ASTRAY * (misfit_of_truth + truth.square().sum(-1))
    return ~(misfit + found.square().sum(-1) <= limit)
