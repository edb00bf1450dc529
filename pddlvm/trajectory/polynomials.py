"""Polynomials of the parameters, fitted to solutions: where the network of a forward map starts.

P(xi) = sum_k w_k xi^k,   |k| <= degree,   by least squares over draws of solved p x p equations
"""

from itertools import combinations_with_replacement
from math import comb

import torch
from torch import Tensor, nn

from pddlvm.basics.random import generator_of
from pddlvm.trajectory.modes import Modes

__all__ = ["Monomials", "degree_of", "fit_polynomial"]

_MOST_TERMS, _MOST_DEGREE = 1001, 8
_PER_TERM, _LEAST = 8, 1024
"""Draws of a fit."""
_LEFT_OUT = 8
"""One in so many."""
_RIDGE, _SEED = 1e-6, 271828


class Monomials(nn.Module):
    """All products of at most so many coordinates, (batch, d) -> (batch, n).

    Args:
        d: number of coordinates.
        degree: how many.
    """

    parents: Tensor
    factors: Tensor

    def __init__(self, d: int, degree: int) -> None:
        super().__init__()
        place: dict[tuple[int, ...], int] = {(): 0}
        parents, factors, self._sizes = [], [], []
        for k in range(1, degree + 1):
            own = list(combinations_with_replacement(range(d), k))
            parents += [place[one[:-1]] for one in own]
            factors += [one[-1] for one in own]
            place |= {one: len(place) + i for i, one in enumerate(own)}
            self._sizes.append(len(own))
        self.register_buffer("parents", torch.tensor(parents), persistent=False)
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.n = len(place)

    def forward(self, xi: Tensor) -> Tensor:
        """Their values."""
        found = torch.ones_like(xi[:, :1])
        for parents, factors in zip(
            self.parents.split(self._sizes), self.factors.split(self._sizes), strict=True
        ):
            found = torch.cat([found, found[:, parents] * xi[:, factors]], dim=1)
        return found


def degree_of(d: int, n: int) -> int:
    """That of all n monomials of d coordinates.

    Raises:
        ValueError: there is none.
    """
    found = [k for k in range(1, _MOST_DEGREE + 1) if comb(d + k, k) == n]
    if not found:
        raise ValueError(f"no degree has {n} monomials of {d} coordinates")
    return found[0]


def fit_polynomial(modes: Modes) -> Tensor:
    """w for the coefficients a of all monomials, (n, p), float64."""
    prior = modes.steps.problem.prior
    d = prior.size
    degrees = [k for k in range(2, _MOST_DEGREE + 1) if comb(d + k, k) <= _MOST_TERMS]
    monomials = Monomials(d, max(degrees, default=1))
    n_draws = max(_LEAST, _PER_TERM * monomials.n)
    xi = prior.sample_standard((n_draws,), generator=generator_of(_SEED)).double()
    f, a = monomials(xi), modes.solve(prior.unstandardise(xi))
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
