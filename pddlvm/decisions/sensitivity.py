"""Which parameter does the spread of a quantity come from? Sobol's indices, of the surrogate.

    S_i = var E[q | z_i] / var q          what z_i explains alone
    T_i = 1 - var E[q | z_not_i] / var q  with all that it does together with others

By `scipy.stats.sobol_indices` (Saltelli et al., Comput. Phys. Commun. 181, 2010) on nets of Sobol;
intervals by its bootstrap: they know of the draws, not of the error of the surrogate.
"""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from scipy.stats import sobol_indices as by_scipy
from scipy.stats import uniform
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_level
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import check_seed
from pddlvm.decisions.answers import Answers
from pddlvm.decisions.draws import normal_of
from pddlvm.latent.core import LatentModel
from pddlvm.sensors.quantity import Quantity

__all__ = ["SobolIndices", "sobol_indices"]

_CONSTANT = 1e-12
"""Spread of values relative to their size: rounding."""


@dataclass(frozen=True)
class SobolIndices:
    """Indices of n numbers by d parameters.

    Attributes:
        names: of the parameters.
        first, total: S and T, (n, d).
        first_interval, total_interval: lower and upper ends, (n, d) each.
        level: of the intervals.
    """

    names: tuple[str, ...]
    first: Tensor
    total: Tensor
    first_interval: tuple[Tensor, Tensor]
    total_interval: tuple[Tensor, Tensor]
    level: float

    def __str__(self) -> str:
        head = f"{'parameter':<16}{'first':>8}{'interval':>18}{'total':>8}{'interval':>18}"
        lines = [head]
        for k in range(len(self.first)):
            lines += [""] if k else []
            for i, name in enumerate(self.names):
                cells = (
                    f"{value[k, i]:>8.3f}" + f"{low[k, i]:.3f} to {high[k, i]:.3f}".rjust(18)
                    for value, (low, high) in (
                        (self.first, self.first_interval),
                        (self.total, self.total_interval),
                    )
                )
                lines.append(f"{name:<16}" + "".join(cells))
        return "\n".join(lines)


def sobol_indices(
    model: LatentModel, quantity: Quantity, n: int = 1024, *, level: float = 0.95, seed: int = 0
) -> SobolIndices:
    """Sobol's indices of a quantity over the prior.

    Args:
        model: a trained model.
        quantity: of `model.problem`.
        n: a power of two; the surrogate is asked n (d + 2) times.
        level: of the intervals, between 0 and 1.
        seed: of the draws.

    Raises:
        InputError: a quantity of another problem or one that does not vary, n no power of two.
    """
    check_kind(LatentModel, model=model)
    check_kind(Quantity, quantity=quantity)
    check_count(2, n=n)
    if n & (n - 1):
        raise InputError(f"n must be a power of two, 1024 for one, got {n}")
    check_level(level)
    answers, prior = Answers(model, quantity), model.problem.prior

    def function(levels: NDArray[Any]) -> NDArray[Any]:
        at = prior.from_normal(normal_of(torch.from_numpy(levels.T.copy())))
        return answers(at).T.numpy()

    spread = torch.from_numpy(function(_some(prior.size, check_seed(seed))))
    if (spread.std(1) <= _CONSTANT * spread.abs().amax(1)).any():
        raise InputError(
            f"the quantity {quantity.name!r} is the same for all draws of the prior: there is "
            "nothing to explain"
        )
    levels: Any = [uniform()] * prior.size
    found: Any = by_scipy(func=function, n=n, dists=levels, rng=seed)
    drawn = found.bootstrap(confidence_level=level)
    ends = [
        (_rows(own.confidence_interval.low), _rows(own.confidence_interval.high))
        for own in (drawn.first_order, drawn.total_order)
    ]
    return SobolIndices(
        names=model.problem.parameter_names,
        first=_rows(found.first_order),
        total=_rows(found.total_order),
        first_interval=ends[0],
        total_interval=ends[1],
        level=level,
    )


def _some(d: int, seed: int) -> NDArray[Any]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(d, 16, generator=generator, dtype=torch.float64).numpy()


def _rows(values: NDArray[Any]) -> Tensor:
    found = torch.tensor(values, dtype=torch.float64)
    return found[None] if found.ndim == 1 else found
