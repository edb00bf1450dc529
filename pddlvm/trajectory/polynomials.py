"""Polynomials of the parameters, fitted to solutions: where the network of a forward map starts.

P(xi) = sum_k w_k xi^k,   |k| <= degree,   by least squares over draws and their a
"""

from itertools import combinations_with_replacement
from math import comb

import torch
from torch import Tensor, nn

from pddlvm.parameters.space import ParameterSpace

__all__ = ["Monomials", "degree_of", "fit_polynomial", "n_draws_of"]

_MOST_DEGREE = 8
_PER_TERM, _LEAST = 8, 1024
"""Draws of a fit."""
_LEFT_OUT = 8
"""One in so many."""
_RIDGE = 1e-6


class Monomials(nn.Module):
    """All products of at most so many coordinates, (batch, d) -> (batch, n).

    Args:
        d: number of coordinates.
        degree: how many.
    """

    def __init__(self, d: int, degree: int) -> None:
        super().__init__()
        self.degree, self.n = degree, 1 + d
        place: dict[tuple[int, ...], int] = {(i,): i for i in range(d)}
        for k in range(2, degree + 1):
            own = list(combinations_with_replacement(range(d), k))
            # Among those of one degree less.
            parents = torch.tensor([place[one[:-1]] for one in own])
            factors = torch.tensor([one[-1] for one in own])
            self.register_buffer(f"parents{k}", parents, persistent=False)
            self.register_buffer(f"factors{k}", factors, persistent=False)
            place = {one: i for i, one in enumerate(own)}
            self.n += len(own)

    def forward(self, xi: Tensor) -> Tensor:
        """Their values."""
        found = [torch.ones_like(xi[:, :1]), xi]
        for k in range(2, self.degree + 1):
            parents, factors = getattr(self, f"parents{k}"), getattr(self, f"factors{k}")
            found.append(found[-1].index_select(1, parents) * xi.index_select(1, factors))
        return torch.cat(found, dim=1)


def degree_of(d: int, n: int) -> int:
    """That of all n monomials of d coordinates.

    Raises:
        ValueError: there is none.
    """
    found = [k for k in range(1, _MOST_DEGREE + 1) if comb(d + k, k) == n]
    if not found:
        raise ValueError(f"no degree has {n} monomials of {d} coordinates")
    return found[0]


def n_draws_of(d: int, most_terms: int) -> int:
    """Draws of a fit of d coordinates with at most so many monomials."""
    return max(_LEAST, _PER_TERM * max(comb(d + k, k) for k in (1, *_degrees(d, most_terms))))


def fit_polynomial(
    prior: ParameterSpace, z: Tensor, a: Tensor, per_term: int = _PER_TERM
) -> Tensor:
    """w for the coefficients a (n_draws, p) of all monomials, (n, p), float64.

    Of the degrees that the draws are enough for, the one that is best for draws that were left out.
    """
    d, n_draws = prior.size, len(z)
    degrees = _degrees(d, n_draws // per_term)
    monomials = Monomials(d, max(degrees, default=1))
    f = monomials(prior.standardise(z))
    fresh = torch.arange(n_draws) % _LEFT_OUT == 0
    own, right = f[~fresh], a[~fresh]
    gram = own.T @ own + _RIDGE * n_draws * torch.eye(monomials.n, dtype=torch.float64)
    moments = own.T @ right
    found = []
    for degree in (1, *degrees):
        n = comb(d + degree, degree)
        w = torch.linalg.solve(gram[:n, :n], moments[:n])
        found.append((float((f[fresh, :n] @ w - a[fresh]).square().mean()), w))
    return min(found, key=lambda pair: pair[0])[1]


def _degrees(d: int, most_terms: int) -> list[int]:
    """Those above one with so few monomials of d coordinates."""
    return [k for k in range(2, _MOST_DEGREE + 1) if comb(d + k, k) <= most_terms]
