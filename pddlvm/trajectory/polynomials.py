"""Polynomials of the parameters, fitted to solutions: where the network of a forward map starts.

P(xi) = sum_k w_k xi^k,   |k| <= degree,   by least squares over draws of solved p x p equations
"""

from itertools import combinations_with_replacement
from math import comb

import torch
from torch import Tensor, nn

from pddlvm.basics.random import generator_of
from pddlvm.trajectory.modes import Modes

__all__ = ["Monomials", "fit_polynomial"]

_MOST_TERMS, _DEGREES = 1001, (4, 3, 2)
_PER_TERM, _LEAST = 8, 1024
"""Draws of a fit."""
_RIDGE, _SEED = 1e-6, 271828


class Monomials(nn.Module):
    """All products of at most so many coordinates as there is room for, (batch, d) -> (batch, n).

    Args:
        d: number of coordinates.
    """

    parents: Tensor
    factors: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        fitting = [degree for degree in _DEGREES if comb(d + degree, degree) <= _MOST_TERMS]
        degree = fitting[0] if fitting else 1
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


def fit_polynomial(modes: Modes) -> Tensor:
    """w for the coefficients a of all monomials, (n, p), float64."""
    prior = modes.steps.problem.prior
    monomials = Monomials(prior.size)
    n_draws = max(_LEAST, _PER_TERM * monomials.n)
    xi = prior.sample_standard((n_draws,), generator=generator_of(_SEED)).double()
    f, a = monomials(xi), modes.solve(prior.unstandardise(xi))
    gram = f.T @ f + _RIDGE * n_draws * torch.eye(monomials.n, dtype=torch.float64)
    return torch.linalg.solve(gram, f.T @ a)
