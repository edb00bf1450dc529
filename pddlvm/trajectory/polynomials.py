"""Polynomials of the parameters, fitted to solutions: where the network of a forward map starts.

    P(xi) = sum_alpha w_alpha prod_i p_i,alpha_i(xi_i)

by least squares over draws; p_i,k are polynomials of degree k of one coordinate, orthonormal over
the draws, so that |w_alpha| is the share of a product in the mean square. Which products there are
is found by the fit, degree after degree: those come first whose factors count (in the spirit of
Blatman and Sudret, J. Comput. Phys. 230, 2011). There are many of coordinates that bend the
solution, and few of those that it is linear in. Half of the draws are spread wider than the prior:
a polynomial is worst in its tails.
"""

from dataclasses import dataclass, replace
from math import comb, exp, log

import torch
from torch import Tensor, nn

from pddlvm.basics.random import generator_of
from pddlvm.parameters.space import ParameterSpace

__all__ = ["Polynomial", "Products", "draws_of_fit", "fit_polynomial"]

_MOST_DEGREE = 12
_PER_TERM, _LEAST, _SPREAD = 8, 1024, 1.2
"""Draws of a fit."""
_LEFT_OUT = 8
"""One in so many."""
_RIDGE = 1e-9
_NOISE = 3.0
"""Weights that draws alone make, in their standard deviations."""
_LEAST_SIZE = 1e-300

Term = tuple[int, ...]
"""Of a product, the coordinates, each as often as its degree is, ascending."""


@dataclass(frozen=True)
class Polynomial:
    """P, float64 on the CPU.

    Attributes:
        degrees: alpha of the products, (n, d), in the order of how many coordinates they have.
        columns: coefficients of x^l in p_i,k, (d, l, k), l and k up to the highest degree.
        weights: w, (n, p).
    """

    degrees: Tensor
    columns: Tensor
    weights: Tensor

    def __call__(self, xi: Tensor) -> Tensor:
        """P, (batch, d) -> (batch, p)."""
        found: Tensor = Products(self.degrees, self.columns)(xi) @ self.weights
        return found


class Products(nn.Module):
    """The products of a polynomial, (batch, d) -> (batch, n).

    Each is the one without its last coordinate, times the polynomial of that coordinate.

    Args:
        degrees: see `Polynomial`.
        columns: see there.

    Raises:
        ValueError: they are not in order, or the one without its last coordinate is none of them.
    """

    parents: Tensor
    factors: Tensor
    columns: Tensor

    def __init__(self, degrees: Tensor, columns: Tensor) -> None:
        super().__init__()
        n_powers, rows = columns.shape[1], [tuple(row) for row in degrees.tolist()]
        counts = (degrees > 0).sum(1)
        in_order = not any(rows[0]) and (counts[1:] > 0).all() and (counts.diff() >= 0).all()
        if not in_order:
            raise ValueError("products of a polynomial are not in order")
        place, parents, factors, self._sizes = {rows[0]: 0}, [], [], []
        for level in range(1, int(counts.max()) + 1):
            own = [row for row, n in zip(rows, counts.tolist(), strict=True) if n == level]
            last = [max(i for i, k in enumerate(row) if k) for row in own]
            shorter = [(*row[:i], 0, *row[i + 1 :]) for row, i in zip(own, last, strict=True)]
            if not place.keys() >= set(shorter):
                raise ValueError("products of a polynomial lack some that they consist of")
            parents += [place[row] for row in shorter]
            factors += [i * n_powers + row[i] for row, i in zip(own, last, strict=True)]
            self._sizes.append(len(own))
            place = {row: i for i, row in enumerate(own)}
        self.register_buffer("parents", torch.tensor(parents), persistent=False)
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, xi: Tensor) -> Tensor:
        """Their values."""
        powers = [torch.ones_like(xi), xi]
        for _ in range(2, self.columns.shape[1]):
            powers.append(powers[-1] * xi)
        of_each = (torch.stack(powers).permute(2, 1, 0) @ self.columns).transpose(0, 1).flatten(1)
        found = [powers[0][:, :1]]
        factors = of_each.index_select(1, self.factors).split(self._sizes, dim=1)
        for own, parents in zip(factors, self.parents.split(self._sizes), strict=True):
            # Of the first level all are one.
            is_first = len(found) == 1
            found.append(own if is_first else own * found[-1].index_select(1, parents))
        return torch.cat(found, dim=1)


def draws_of_fit(prior: ParameterSpace, most_terms: int, seed: int) -> Tensor:
    """Parameters for a fit with at most so many products, (n, d)."""
    n = max(_LEAST, _PER_TERM * min(most_terms, comb(prior.size + _MOST_DEGREE, prior.size)))
    xi = prior.sample_standard((n,), generator=generator_of(seed)).double()
    xi[1::2] *= _SPREAD
    return prior.unstandardise(prior.clamp_standard(xi))


def fit_polynomial(
    prior: ParameterSpace, z: Tensor, a: Tensor, per_term: int = _PER_TERM
) -> Polynomial:
    """P for the coefficients a (n_draws, p) of draws z.

    With as many products as the draws are enough for. Of the degrees the one that is best for draws
    that were left out.
    """
    xi, d = prior.standardise(z), prior.size
    # Products are compared by logarithms, whose rounding would hang on the units of a.
    unit = 2.0 ** int(a.abs().max().frexp().exponent)
    a = a / unit
    fresh = torch.arange(len(xi)) % _LEFT_OUT == 0
    own, right, columns = xi[~fresh], a[~fresh], _columns(xi)
    most, n_least = max(len(xi) // per_term, 1 + d), min(_LEAST, len(own))
    terms: list[Term] = [(), *((i,) for i in range(d))]
    sizes: dict[Term, float] = {}
    found = []
    for _ in range(_MOST_DEGREE):
        n = min(len(own), max(n_least, per_term * len(terms)))
        polynomial, left = _fit(terms, columns, own[:n], right[:n])
        error = float((polynomial(xi[fresh]) - a[fresh]).square().mean())
        found.append((error, polynomial))
        noise = left / n**0.5
        weights = polynomial.weights.norm(dim=1).clamp(min=noise).tolist()
        sizes |= dict(zip(terms, weights, strict=True))
        if len(terms) >= most:
            break
        large = [term for term in terms if len(term) < 2 or sizes[term] > _NOISE * noise]
        terms = _chosen(large + _likely(sizes, d, set(large)), most)
    _, best = min(found, key=lambda pair: pair[0])
    return replace(best, weights=unit * best.weights)


def _fit(terms: list[Term], columns: Tensor, xi: Tensor, a: Tensor) -> tuple[Polynomial, float]:
    """By least squares, and the root mean square of |a - P|."""
    highest = max(len(term) for term in terms)
    columns = columns[:, : highest + 1, : highest + 1]
    degrees = torch.tensor([[term.count(i) for i in range(xi.shape[1])] for term in terms])
    f = Products(degrees, columns)(xi)
    gram = f.T @ f + _RIDGE * len(f) * torch.eye(len(terms), dtype=f.dtype)
    w = torch.linalg.solve(gram, f.T @ a)
    return Polynomial(degrees, columns, w), float((f @ w - a).square().sum(1).mean().sqrt())


def _columns(xi: Tensor) -> Tensor:
    """Orthonormal polynomials of each coordinate, (d, l, k)."""
    powers = torch.stack([xi**k for k in range(_MOST_DEGREE + 1)], dim=2).transpose(0, 1)
    r = torch.linalg.qr(powers).R
    return torch.linalg.inv(r) * len(xi) ** 0.5


def _likely(sizes: dict[Term, float], d: int, known: set[Term]) -> list[Term]:
    """Products of those that were tried with one coordinate more, those first that may count most.

    What was seen of a product once is believed; else it is taken to be like its factors.
    """
    likely = {term: size for term, size in sizes.items() if term not in known}
    for term in sizes:
        for i in range(d):
            more = tuple(sorted((*term, i)))
            factors = _factors(more)
            if more not in sizes and sizes.keys() >= factors:
                logs = [log(max(sizes[one], _LEAST_SIZE)) for one in factors]
                likely[more] = exp(sum(logs) / len(logs)) / len(logs) ** 0.5
    return sorted(likely, key=lambda term: -likely[term])


def _chosen(terms: list[Term], most: int) -> list[Term]:
    """The first so many, with those that they are evaluated by, in the order of `Polynomial`."""
    chosen: dict[Term, None] = {}
    for term in terms:
        parts = [term[: term.index(i)] for i in sorted(set(term))]
        new = {part: None for part in (*parts, term) if part not in chosen}
        if len(chosen) + len(new) <= most:
            chosen |= new
    return sorted(chosen, key=lambda term: len(set(term)))


def _factors(term: Term) -> set[Term]:
    """Products of one degree less."""
    return {term[:i] + term[i + 1 :] for i in range(len(term))}
