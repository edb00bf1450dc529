"""`model.infer`: the posterior of parameters from data, by method.

Most methods start from the Laplace approximation of each data set, which costs milliseconds: it
gives the coordinates in which a posterior is about standard normal. The misfit that the verdict is
about comes from there too, when somebody asks for the verdict.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind
from pddlvm.basics.errors import InputError
from pddlvm.basics.owned import owned
from pddlvm.basics.progress import ProgressBar
from pddlvm.basics.random import check_seed
from pddlvm.basics.unchanged import Unchanged
from pddlvm.inference.centred import MOST_CENTRED, centred
from pddlvm.inference.density import Density, Draws, Later
from pddlvm.inference.diagnostics import Diagnostics
from pddlvm.inference.laplace import Laplace
from pddlvm.inference.mixture import Mixture
from pddlvm.inference.of_each import (
    density_of,
    exact_of,
    nuts_of,
    of_each,
    side_by_side,
    variational_of,
)
from pddlvm.inference.posterior import Posterior
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.inference.query import Network, Query
from pddlvm.inference.resumed import job
from pddlvm.inference.reweighted import FEW, Gaussians, reweighted, tails
from pddlvm.latent.core import LatentModel
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.statistics import bulk_size, rhat, tail_size
from pddlvm.sensors.observation import Observation
from pddlvm.training.checkpoints import Checkpoints

__all__ = ["Method", "Network", "Query", "infer", "posterior_of"]

Method = Literal["amortized", "laplace", "variational", "nuts", "exact"]
"""A method of `infer`, by its name."""
R = TypeVar("R")
LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Found:
    """What a method answers.

    Attributes:
        density: of z, for all data sets.
        log_density: xi (n, n_data, d) -> unnormalised log density of xi, (n, n_data); None where it
            is that of the finite element posterior itself.
        xi: draws of chains, (n_chains, n_draws, n_data, d), where there are chains.
        acceptance: of the finite element density.
        khat: of the surrogate, (n_data,).
        search: gives the most probable parameters, where not those of the surrogate are meant.
        tails: gives k-hat of Gaussians under the surrogate's posterior, (n_data,).
    """

    density: Density
    log_density: LogDensity | None
    xi: Tensor | None = None
    acceptance: Tensor | None = None
    khat: Tensor | None = None
    search: Callable[[], Laplace] | None = None
    tails: Callable[[], Tensor] | None = None


def _laplace(query: Query, bar: ProgressBar) -> Found:
    found = query.laplace if query.start is not None else query.searched(bar.show)
    search = partial(_found, found)
    if FEW < query.surrogate.prior.size <= MOST_CENTRED:
        around = _Around(query, found)
        density = Later(around.density)
        return Found(density, _of_density(query, density), search=search, tails=around.tails)
    return _gaussian(query, Gaussians(found.modes, found.masses), found.density, search)


@dataclass(frozen=True)
class _Around:
    """Gaussians around means, made when they are first asked for: they cost as much as a search."""

    query: Query
    found: Laplace

    @cached_property
    def _means(self) -> Laplace:
        modes = centred(self.query.surrogate, self.query.y, self.found.modes)
        return replace(self.found, modes=modes)

    def density(self) -> Density:
        return self._means.density

    def tails(self) -> Tensor:
        gaussians = Gaussians(self._means.modes, self._means.masses)
        return tails(self.query.surrogate, self.query.y, gaussians)


def _amortized(query: Query, bar: ProgressBar) -> Found:
    density = query.network(query.observation, query.y)
    return Found(density, _of_density(query, density))


def _variational(query: Query, bar: ProgressBar) -> Found:
    centre, factor = query.laplace.modes.centre.clone(), query.laplace.modes.factor.clone()
    elbo = torch.full_like(query.laplace.masses, -torch.inf)
    together = side_by_side(query)
    for rows, best in zip(together, of_each(query, variational_of, bar, together), strict=True):
        # Modes follow on each other, data set by data set.
        where = (query.laplace.masses[:, rows.start : rows.stop].T > 0).nonzero()
        for part, found in zip((centre, factor, elbo), best, strict=True):
            part[where[:, 1], rows.start + where[:, 0]] = found
    coordinates = Coordinates(query.surrogate.prior, centre, factor)
    parts = [PushedGaussian(coordinates.of(k)) for k in range(len(elbo))]
    # The best masses of Gaussians that do not overlap.
    masses = elbo.softmax(0)
    density = parts[0] if len(parts) == 1 else Mixture(parts, masses)
    return _gaussian(query, Gaussians(coordinates, masses), density)


def _gaussian(
    query: Query,
    gaussians: Gaussians,
    density: Density,
    search: Callable[[], Laplace] | None = None,
) -> Found:
    """Gaussians; of few parameters weighted draws where these are not what they should be."""
    shapes: Callable[[], Tensor] = partial(tails, query.surrogate, query.y, gaussians)
    if query.surrogate.prior.size <= FEW:
        density, known = reweighted(query.surrogate, query.y, gaussians, density)
        shapes = partial(_found, known)
    return Found(density, _of_density(query, density), search=search, tails=shapes)


def _nuts(query: Query, bar: ProgressBar) -> Found:
    together = side_by_side(query)
    found = of_each(query, nuts_of, bar, together)
    xi = torch.cat([one.xi for one in found], dim=2)
    targets = [(rows, one.target) for rows, one in zip(together, found, strict=True)]
    return Found(_draws(query, xi), partial(density_of, query, targets), xi)


def _exact(query: Query, bar: ProgressBar) -> Found:
    found = of_each(query, exact_of, bar, range(len(query.y)))
    xi = torch.stack([one.xi for one in found], dim=2)
    acceptance = torch.tensor([one.acceptance for one in found], dtype=torch.float64)
    shape = torch.tensor([one.khat for one in found], dtype=torch.float64)
    return Found(
        _draws(query, xi),
        None,
        xi,
        acceptance,
        shape,
        search=partial(_search_finite_elements, query),
    )


# Functions of the module, so that a posterior can be pickled.


def _found(value: R) -> R:
    return value


def _search_surrogate(query: Query) -> Laplace:
    return query.laplace


def _search_finite_elements(query: Query) -> Laplace:
    return query.finite_elements


def _jumps(query: Query, xi: Tensor) -> Tensor:
    """How often chains (n_chains, n_draws, n_data, d) changed between modes, (n_data,)."""
    eta = Coordinates.plain(query.surrogate.prior).eta_of(xi)
    modes = query.laplace.modes
    change = (eta - modes.centre[:, None, None])[..., None]
    factor = modes.factor[:, None, None]
    squares = torch.linalg.solve_triangular(factor, change, upper=False).square().sum((-2, -1))
    size = modes.factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)[:, None, None]
    is_absent = (query.laplace.masses == 0)[:, None, None]
    region = torch.where(is_absent, torch.inf, 0.5 * squares + size).argmin(0)
    return (region[:, 1:] != region[:, :-1]).sum((0, 1))


_METHODS: dict[Method, Callable[[Query, ProgressBar], Found]] = {
    "amortized": _amortized,
    "laplace": _laplace,
    "variational": _variational,
    "nuts": _nuts,
    "exact": _exact,
}


def infer(
    model: LatentModel,
    y: Tensor,
    observation: Observation,
    method: Method,
    network: Network,
    *,
    n_samples: int,
    n_chains: int,
    seed: int,
    progress: bool,
    checkpoints: Checkpoints | None,
    resume: bool,
) -> Posterior:
    """See `LatentVariableModel.infer`."""
    start = time.perf_counter()
    check_kind(Observation, observation=observation)
    check_seed(seed)
    if not isinstance(method, str) or method not in _METHODS:
        raise InputError(f"method must be one of {get_args(Method)}, got {method!r}")
    check_count(0, n_chains=n_chains, n_samples=n_samples)
    if n_chains < 1 or n_samples < 4 * n_chains:
        raise InputError(
            f"n_samples must be at least 4 for each of {n_chains} chains, got {n_samples}"
        )
    y = owned(observation.check(y))
    if not y.shape[:-1].numel():
        raise InputError(f"y has no data set, its shape is {tuple(y.shape)}; give at least one")
    flat = y.reshape(-1, observation.n).double().cpu()
    surrogate = model.surrogate(observation, corrections=1)
    asked = {"y": flat, "method": method, "n_samples": n_samples, "n_chains": n_chains}
    if checkpoints is not None and method == "amortized":
        raise InputError(
            "'amortized' has nothing to keep but its network: "
            "model.amortize(observation).save(path), and model.load_amortized(path, observation)"
        )
    with (
        job(checkpoints, resume, model, observation, {**asked, "seed": seed}) as kept,
        ProgressBar(progress) as bar,
    ):
        query = Query(
            model, observation, network, surrogate, flat, n_samples, n_chains, seed, kept=kept
        )
        bar.say(method)
        return posterior_of(query, method, y, bar, start)


def posterior_of(
    query: Query, method: Method, y: Tensor, bar: ProgressBar, start: float
) -> Posterior:
    """What a method answers to data y, (..., n), and evidence; `start` is when it was asked."""
    found, batch = _METHODS[method](query, bar), y.shape[:-1]
    evidence: dict[str, Any] = {
        name: None if value is None else value.reshape((*batch, *value.shape[1:]))
        for name, value in {
            "jumps": None if found.xi is None else _jumps(query, found.xi),
            "acceptance": found.acceptance,
            "khat": found.khat,
            **_sizes(found.xi),
        }.items()
    }
    diagnostics = Diagnostics(
        batch=batch,
        search=found.search or partial(_search_surrogate, query),
        seconds=time.perf_counter() - start,
        n_draws=0 if found.xi is None else found.xi.shape[0] * found.xi.shape[1],
        covers_modes=method != "amortized",
        is_exact=found.log_density is None,
        tails=found.tails,
        **evidence,
    )
    return Posterior(
        method,
        diagnostics,
        query.sensors,
        y,
        Unchanged(query.model),
        found.density,
        found.log_density,
        found.xi,
    )


def _draws(query: Query, xi: Tensor) -> Draws:
    return Draws(query.surrogate.prior.unstandardise(xi))


def _sizes(xi: Tensor | None) -> dict[str, Tensor]:
    """R-hat and effective sample sizes of the chains of each data set, (n_data, d)."""
    if xi is None:
        return {}
    each = xi.unbind(2)
    return {
        "rhat": torch.stack([rhat(x) for x in each]),
        "bulk_size": torch.stack([bulk_size(x) for x in each]),
        "tail_size": torch.stack([tail_size(x) for x in each]),
    }


def _of_density(query: Query, density: Density) -> LogDensity:
    return partial(_log_prob_of_xi, query.surrogate.prior, density)


def _log_prob_of_xi(prior: ParameterSpace, density: Density, xi: Tensor) -> Tensor:
    return density.log_prob(prior.unstandardise(xi)) - prior.log_slope(xi)
