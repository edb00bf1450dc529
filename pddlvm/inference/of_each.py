"""Methods that take one data set after the other, side by side where there are workers.

What was found for each is kept where a job has checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, nobody
from pddlvm.basics.progress import ProgressBar
from pddlvm.inference.exact import Exact, exact
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from pddlvm.inference.journal import journal
from pddlvm.inference.query import Query
from pddlvm.inference.resumed import parts_of
from pddlvm.inference.surrogate_density import standardise
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.explore import dispersed
from pddlvm.sampling.nuts import nuts
from pddlvm.sampling.variational import variational

__all__ = ["density_of", "exact_of", "nuts_of", "of_each", "variational_of"]

R = TypeVar("R")


def variational_of(query: Query, i: int, watch: Watch) -> list[Tensor]:
    """Centre, factor and ELBO of each mode."""
    found = []
    for target in query.targets(i)[0]:
        mean, spread, elbo = variational(target, query.generator)
        best = target.coordinates.moved(mean, spread)
        found.append((best.centre, best.factor, best.centre.new_tensor(elbo)))
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


@dataclass(frozen=True)
class Chains:
    """Chains (n_chains, n_draws, d) of one data set; their density, if it was not left behind."""

    xi: Tensor
    target: Charts | None = None


def nuts_of(query: Query, i: int, watch: Watch) -> Chains:
    """Chains on the surrogate density."""
    target, w, step = _standardised(query, i, lambda share: watch(share / 2))
    generator = torch.Generator().manual_seed(query.seed + i)
    # More chains than explorers: some begin at the same place and part at once.
    start = dispersed(target, w, query.n_chains, generator)
    w = nuts(
        target, start, step, query.n_draws, generator, watch=lambda share: watch((1 + share) / 2)
    )
    return Chains(target.coordinates.xi_of(w), target)


def _standardised(query: Query, i: int, watch: Watch = nobody) -> tuple[Charts, Tensor, float]:
    return standardise(*query.targets(i), query.generator, watch)


def exact_of(query: Query, i: int, watch: Watch) -> Exact:
    """Chains on the finite element density; its solves are kept beside their end."""
    surrogate = query.targets(i) if query.laplace.converged[i] else None
    start = partial(_of_finite_elements, query, i)
    generator = torch.Generator().manual_seed(query.seed + i)
    with journal(query.kept, f"solves-{i}") as solves:
        posterior = FiniteElementPosterior(query.sensors, query.y[i], solves)
        return exact(posterior, surrogate, start, query.n_chains, query.n_draws, generator)


def of_each(query: Query, method: Callable[[Query, int, Watch], R], bar: ProgressBar) -> list[R]:
    """What a method finds for each data set, side by side where there are workers."""
    _ = query.laplace  # Of all data sets together, once.
    pack, unpack = _FILED[method]
    return parts_of(
        (query.kept, "posteriors"),
        method,
        query,
        range(len(query.y)),
        pack=pack,
        unpack=unpack,
        what=lambda i: f"the posterior of data set {i}",
        watch=bar.show,
        same=(query.surrogate, query.surrogate.prior),
    )


_FILED: dict[Callable[..., Any], tuple[Callable[..., Any], Callable[..., Any]]] = {
    variational_of: (list, lambda *parts: list(parts)),
    nuts_of: (lambda found: [found.xi], Chains),
    exact_of: (lambda found: [found.xi, found.acceptance, found.khat], Exact),
}
"""What is kept of the answer for a data set, and the answer of that."""


def _of_finite_elements(query: Query, i: int) -> tuple[list[Coordinates], Tensor]:
    found = query.by_finite_elements(slice(i, i + 1))
    modes = found.modes_of(0)
    return modes, found.masses[: len(modes), 0]


def density_of(query: Query, targets: Sequence[Charts | None], xi: Tensor) -> Tensor:
    """Log densities of xi (n, n_data, d), (n, n_data); of chains that were read made anew."""
    with torch.no_grad():
        found = [t or _standardised(query, i)[0] for i, t in enumerate(targets)]
        return torch.stack([_log_prob(t, xi[:, i]) for i, t in enumerate(found)], dim=1)


def _log_prob(target: Charts, xi: Tensor) -> Tensor:
    return target.log_prob(xi) + target.left_out(target.coordinates.eta_of(xi))
