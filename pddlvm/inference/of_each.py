"""Methods that take one data set after the other, or some, side by side where there are workers.

What was found for each is kept where a job has checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch
from pddlvm.basics.progress import ProgressBar
from pddlvm.inference.exact import Exact, exact
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from pddlvm.inference.journal import journal
from pddlvm.inference.query import Query
from pddlvm.inference.resumed import parts_of
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.explore import dispersed
from pddlvm.sampling.nuts import nuts
from pddlvm.sampling.variational import variational

__all__ = ["density_of", "exact_of", "nuts_of", "of_each", "side_by_side", "variational_of"]

R = TypeVar("R")
I = TypeVar("I")  # noqa: E741 (an item)

_AT_ONCE, _ROOM = 16, 2**16
"""Data sets whose chains move together, and numbers of a chain of each that are in memory."""


def variational_of(query: Query, rows: range, watch: Watch) -> list[Tensor]:
    """Centres, factors and ELBOs of the modes of some data sets, one after the other."""
    density = query.density(rows)
    mean, factor, elbo = variational(density, query.generator)
    best = density.coordinates.moved(mean, factor)
    return [best.centre, best.factor, elbo]


@dataclass(frozen=True)
class Chains:
    """Chains (n_chains, n_draws, n_data, d); their densities, if these were not left behind."""

    xi: Tensor
    target: Charts | None = None


def nuts_of(query: Query, rows: range, watch: Watch) -> Chains:
    """Chains on the surrogate densities of some data sets, side by side."""
    found = query.standardised(rows, lambda share: watch(share / 2))
    generator = torch.Generator().manual_seed(query.seed + rows.start)
    # More chains than explorers: some begin at the same place and part at once.
    target, start = dispersed(found.target, found.w, query.n_chains, generator)
    step = found.step.repeat_interleave(query.n_chains)
    w = nuts(
        target, start, step, query.n_draws, generator, watch=lambda share: watch((1 + share) / 2)
    )
    xi = target.coordinates.xi_of(w).unflatten(0, (len(rows), -1))
    return Chains(xi.permute(1, 2, 0, 3), target)


def side_by_side(query: Query) -> list[range]:
    """Data sets whose chains move together, as many as their numbers have room for."""
    n, d = query.y.shape[1], query.surrogate.prior.size
    n_at_once = max(1, min(_AT_ONCE, _ROOM // (n * (1 + d + n))))
    return [range(i, min(i + n_at_once, len(query.y))) for i in range(0, len(query.y), n_at_once)]


def exact_of(query: Query, i: int, watch: Watch) -> Exact:
    """Chains on the finite element density; its solves are kept beside their end."""
    surrogate = query.standardised(range(i, i + 1)) if query.laplace.converged[i] else None
    start = partial(_of_finite_elements, query, i)
    generator = torch.Generator().manual_seed(query.seed + i)
    with journal(query.kept, f"solves-{i}") as solves:
        posterior = FiniteElementPosterior(query.sensors, query.y[i], solves)
        return exact(posterior, surrogate, start, query.n_chains, query.n_draws, generator)


def of_each(
    query: Query,
    method: Callable[[Query, I, Watch], R],
    bar: ProgressBar,
    items: Sequence[I],
) -> list[R]:
    """What a method finds for each item, data sets or some of them; several at once by workers."""
    _ = query.laplace  # Of all data sets together, once.
    pack, unpack = _FILED[method]
    return parts_of(
        (query.kept, "posteriors"),
        method,
        query,
        items,
        pack=pack,
        unpack=unpack,
        what=_named,
        watch=bar.show,
        same=(query.surrogate, query.surrogate.prior),
    )


def _named(item: Any) -> str:
    if isinstance(item, range) and len(item) > 1:
        return f"the posteriors of data sets {item.start} to {item.stop - 1}"
    return f"the posterior of data set {item.start if isinstance(item, range) else item}"


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


def density_of(query: Query, targets: Sequence[tuple[range, Charts | None]], xi: Tensor) -> Tensor:
    """Log densities of xi (n, n_data, d), (n, n_data).

    Args:
        query: what was asked.
        targets: those of some data sets each; None of chains that were read: they are made anew.
        xi: standard parameters.
    """
    found = []
    with torch.no_grad():
        for rows, known in targets:
            target = known or query.standardised(rows).target
            for k, i in enumerate(rows):
                own = target.on(torch.full((len(xi),), k))
                left_out = own.left_out(own.coordinates.eta_of(xi[:, i]))
                found.append(own.log_prob(xi[:, i]) + left_out)
    return torch.stack(found, dim=1)
