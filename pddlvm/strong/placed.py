"""Points of the reference box with the derivatives there, between s and x = X(s).

    D_x^n  =  sum over the partitions P of n   prod_{B in P} S^(|B|)   D_s^|P|,     s = S(x)

coordinate by coordinate (`pddlvm.strong.partitions`), S the inverse of the stretch X:

    S' = 1 / X',    S'' = -X'' / X'^3,    S''' = (3 X''^2 - X' X''') / X'^5,
    S'''' = (10 X' X'' X''' - 15 X''^3 - X'^2 X'''') / X'^7

Of a stretch that is affine, S' alone is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product

import torch
from torch import Tensor

from pddlvm.strong.jets import Jet
from pddlvm.strong.partitions import Index, partitions

__all__ = ["Placed"]


@dataclass(frozen=True)
class Placed:
    """Where points are, (n_points,) or (n_samples, n_points) for each coordinate.

    Attributes:
        x: the coordinates.
        slopes: X', X'', ... of each, without those that vanish everywhere.
    """

    x: tuple[Tensor, ...]
    slopes: tuple[tuple[Tensor, ...], ...]

    @property
    def volume(self) -> Tensor:
        """dx / ds, the product of all X'."""
        return reduce(torch.mul, [own[0] for own in self.slopes])

    def chain(self, n: Mapping[Index, Tensor]) -> Jet:
        """From derivatives along s to derivatives along x."""
        return {
            index: sum_of([a * n[along] for along, a in self.along_s(index).items()]) for index in n
        }

    def pull_back(self, slopes: Mapping[Index, Tensor]) -> Jet:
        """Coefficients a_s with sum a_x D_x = sum a_s D_s, the transpose of `chain`."""
        found: dict[Index, list[Tensor]] = {}
        for index, slope in slopes.items():
            for along, a in self.along_s(index).items():
                found.setdefault(along, []).append(slope * a)
        return {index: sum_of(terms) for index, terms in found.items()}

    def along_s(self, index: Index) -> Jet:
        """D_x of an index as a sum over derivatives along s: their coefficients."""
        orders = [index.count(i) for i in range(len(self.x))]
        tables = [self._along(i, order) for i, order in enumerate(orders) if order]
        where = [i for i, order in enumerate(orders) if order]
        found = {}
        for chosen in product(*(table.items() for table in tables)):
            along = tuple(i for i, (k, _) in zip(where, chosen, strict=True) for _ in range(k))
            factors = [a for _, a in chosen]
            found[along] = reduce(torch.mul, factors, self.x[0].new_ones(()))
        return found

    def _along(self, i: int, order: int) -> dict[int, Tensor]:
        """Coefficients of D_s^k of one coordinate, by k."""
        found: dict[int, list[Tensor]] = {}
        for count, blocks in partitions((0,) * order):
            factors = [self._inverse[i][len(block) - 1] for block in blocks]
            if all(factor is not None for factor in factors):
                term = reduce(torch.mul, [f for f in factors if f is not None])
                found.setdefault(len(blocks), []).append(count * term)
        return {k: sum_of(terms) for k, terms in found.items()}

    @cached_property
    def _inverse(self) -> list[tuple[Tensor | None, ...]]:
        """S', S'', S''', S'''' of each coordinate; None for those that vanish."""
        return [_inverse_slopes(own) for own in self.slopes]


def _inverse_slopes(slopes: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if len(slopes) == 1:
        return 1 / slopes[0], None, None, None
    nothing = torch.zeros((), dtype=slopes[0].dtype, device=slopes[0].device)
    a, b, c, d = (*slopes, nothing, nothing)[:4]
    return (
        1 / a,
        -b / a**3,
        (3 * b**2 - a * c) / a**5,
        (10 * a * b * c - 15 * b**3 - a**2 * d) / a**7,
    )


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Of at least one."""
    return reduce(torch.add, terms)
