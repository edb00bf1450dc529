"""Answers of the forward map of a problem in time: coefficients now, variances when asked for.

They are differentiable in a z that requires a gradient, but for marches.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import check_predictions, is_recorded
from pddlvm.basics.unchanged import Unchanged
from pddlvm.trajectory.forward import TrajectoryForward
from pddlvm.trajectory.implicit import solved

__all__ = ["MARCH", "forward_of"]

MARCH = 2
"""Corrections that are a march in the spatial basis."""


def forward_of(
    model: Any,
    z: Tensor,
    corrections: int,
    times: "ArrayLike | Tensor | None" = None,
    a: Tensor | None = None,
) -> TrajectoryForward:
    """What a model says of u at z, (..., d).

    Args:
        model: `TrajectoryMaps`.
        z: parameters in the support of the prior.
        corrections: none, the p x p equations, or a march.
        times: where, (n_times,); by default at all steps.
        a: the coefficients, (batch, p), where they are known.
    """
    recorded = is_recorded(z)
    like, modes, problem = model.sigma_residual, model.modes, model.problem
    with torch.set_grad_enabled(recorded):
        flat = z.to("cpu", torch.float64, copy=True).reshape(-1, z.shape[-1])
        xi = problem.prior.standardise(flat).to(like)
        log_variance = None if corrections or model.is_calibrated else model.forward_map(xi)[1]
        if a is None and corrections:
            a = solved(modes, flat) if recorded else modes.solve(flat)
        elif a is None:
            a = model.unit * model.forward_map.mean(xi).double().cpu()
    check_predictions(a, xi)
    found, calibrated = a, Unchanged(model.uncertainty)

    def variances() -> tuple[Tensor, Tensor]:
        calibrated().warn_if_not_fitted()
        with torch.set_grad_enabled(recorded):
            if model.is_calibrated:
                known: tuple[Tensor, Tensor] = model.variances(xi, flat, found, corrections)
                return known
            own = like.new_full((1,), -np.inf) if log_variance is None else log_variance
            var_a = model.unit**2 * own.double().cpu().exp().expand_as(found)
            return var_a, found.new_zeros(len(found))

    def marched() -> Tensor:
        states: Tensor = modes.steps.march(modes.steps.drive(flat))
        return states

    at, shown = model.at_steps, problem.times
    if times is not None:
        at, shown = problem.between(times), problem.check_times(times)
    return TrajectoryForward(
        times=shown,
        coefficients=a.reshape(*z.shape[:-1], a.shape[-1]).to(z),
        level=corrections,
        _like=z.detach(),
        _z=flat,
        _a=a,
        _modes=modes,
        _marched=marched if corrections == MARCH else None,
        _at=at,
        _kept=model.functionals,
        _uncertainty=calibrated,
        _variances=variances,
        _certificate=lambda c: model.reduction.certificate(c, flat),
        _law=model.law_of(corrections),
    )
