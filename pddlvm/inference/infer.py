"""`model.infer`: the posterior of parameters from data, by method."""

import time
from typing import Literal

import torch
from torch import Tensor

from pddlvm.errors import InputError
from pddlvm.inference.gaussian import GaussianDensity
from pddlvm.inference.laplace import laplace
from pddlvm.inference.posterior import Diagnostics, Posterior
from pddlvm.inference.surrogate import surrogate_of
from pddlvm.latent import LatentVariableModel, unflatten
from pddlvm.observation import Observation

__all__ = ["Method", "infer"]

Method = Literal["laplace"]

_METHODS = ("laplace",)


def infer(
    model: LatentVariableModel, y: Tensor, observation: Observation, method: Method
) -> Posterior:
    """See `LatentVariableModel.infer`."""
    start = time.perf_counter()
    if method not in _METHODS:
        raise InputError(f"method must be one of {_METHODS}, got {method!r}")
    data = observation.check(y).detach().double().cpu()
    batch = data.shape[:-1]
    flat = data.reshape(-1, observation.n)
    surrogate = surrogate_of(model, observation, corrections=1)
    centre = torch.zeros(len(flat), model.problem.n_parameters, dtype=torch.float64)
    found = laplace(surrogate, flat, centre)
    density = GaussianDensity(
        unflatten(found.density.xi_mean, batch),
        found.density.xi_covariance.reshape(*batch, *found.density.xi_covariance.shape[-2:]),
        model.problem.prior,
    )
    diagnostics = Diagnostics(
        converged=found.converged.reshape(batch),
        misfit=found.misfit.reshape(batch),
        n_seen=found.n_seen.reshape(batch),
        iterations=found.iterations,
        seconds=time.perf_counter() - start,
    )
    return Posterior(method, diagnostics, density, model)
