"""Unknown scales of a Gaussian field: length, smoothness and standard deviation as parameters.

    g(x; z) = std sum_i psi_i(x) c_i,    c = G(length, nu)^{1/2} w,    w_i ~ N(0, 1)

psi are the leading modes of the mean of the correlation over the prior of length and nu, those that
lose the least of the variance on average, and G, of mean 1, is the correlation projected on them,

    psi G psi^T  ~  k(|x - x'| / length; nu)

The symmetric root is a smooth function of the scales, and is interpolated by Chebyshev polynomials
of their logarithms. So w keep their meaning whatever the length is, unlike the terms of a
Karhunen-Loève series at each length, whose order and signs change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import ndtr, ndtri
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.parameters.priors import Normal, Prior
from pddlvm.parameters.product import Product

__all__ = ["Roots", "Scales", "Table", "Unknown", "positive"]

Array = NDArray[np.float64]
Kernel = Callable[[Array, float, float], Array]
"""Correlation as a function of distances, length and nu."""

_FAR, _REACH = 12.0, 4.0
"""Standard deviations within which a scale must be positive, and within which fields follow it."""
_N_MEAN = 24
"""Lengths, and nus, that the mean correlation is a mean over."""
_N_TABLE = 4000
_DEGREES = (8, 16, 32, 64)
_TOLERANCE = 1e-4
"""Of the interpolated root, in standard deviations of the field."""


def positive(name: str, value: "float | Prior") -> None:
    """Raise an InputError where a prior allows a scale that is not positive."""
    if isinstance(value, Prior):
        low = _values(value, np.array([-_FAR]))
        if value.size not in (None, 1) or not float(low[0]) > 0:
            raise InputError(
                f"the prior of {name} must be one of a positive number, as pddlvm.LogUniform(...) "
                f"or pddlvm.LogNormal(...), got {value!r}"
            )


@dataclass(frozen=True)
class Unknown:
    """A scale with a prior, between the ends up to which fields follow it.

    Attributes:
        prior: of the scale.
        low, high: the ends, of the support or four standard deviations from the middle.
    """

    prior: Prior
    low: float
    high: float

    @classmethod
    def of(cls, prior: "float | Prior") -> "Unknown | None":
        """With the ends of a prior; None of a number, which is known."""
        if not isinstance(prior, Prior):
            return None
        low, high = _values(prior, np.array([-_REACH, _REACH]))
        return cls(prior, float(low), float(high))

    def spread(self, n: int) -> Array:
        """Numbers that are spread as the prior is, (n,)."""
        return _values(self.prior, ndtri((0.5 + np.arange(n)) / n))

    def nodes(self, degree: int) -> Array:
        """Chebyshev points of the logarithm, (degree + 1,)."""
        t = chebyshev.chebpts1(degree + 1)
        return np.exp(0.5 * (np.log(self.low) * (1 - t) + np.log(self.high) * (1 + t)))

    def polynomials(self, value: Tensor, n: int) -> Tensor:
        """Chebyshev polynomials of the logarithm, (...,) -> (..., n)."""
        low, high = np.log(self.low), np.log(self.high)
        t = ((2 * value.log() - low - high) / (high - low)).clamp(-1, 1)
        found = [torch.ones_like(t), t]
        for _ in range(n - 2):
            found.append(2 * t * found[-1] - found[-2])
        return torch.stack(found, dim=-1)


@dataclass(frozen=True)
class Roots:
    """G^{1/2} by its Chebyshev coefficients.

    Attributes:
        tensor: (n_length, n_nu, m, m), of one where a scale is known.
        gram: mean of psi_i psi_j over the domain, (m, m).
    """

    tensor: Tensor
    gram: Tensor


@dataclass(frozen=True)
class Table:
    """A correlation by a spline in the root of the distance, up to the largest one."""

    spline: CubicSpline
    largest: float

    def __call__(self, distance: Array) -> Array:
        """Correlation at distances."""
        found: Array = self.spline(np.sqrt(np.minimum(distance, self.largest)))
        return found


@dataclass(frozen=True)
class Scales:
    """Which scales are unknown, in the order in which they stand in z before the terms.

    Attributes:
        length, nu, std: each one's prior and ends, None where it is a number.
        kernel: the correlation.
        known: length and nu where these are numbers.
    """

    length: Unknown | None
    nu: Unknown | None
    std: Unknown | None
    kernel: Kernel
    known: tuple[float, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scales."""
        named = {".length": self.length, ".nu": self.nu, ".std": self.std}
        return tuple(name for name, scale in named.items() if scale is not None)

    def prior(self, n_terms: int) -> Product:
        """Of scales and terms."""
        given = [(s.prior, 1) for s in (self.length, self.nu, self.std) if s is not None]
        return Product((*given, (Normal(), n_terms)))

    def mean_correlation(self, largest: float) -> "Table":
        """The mean over the prior as a function of distances up to `largest`."""
        # Finer where kernels that are not smooth have their corner.
        r = largest * np.linspace(0, 1, _N_TABLE) ** 2
        lengths, nus = self._spread(self.length, 0), self._spread(self.nu, 1)
        values = np.mean([self.kernel(r, length, nu) for length in lengths for nu in nus], axis=0)
        return Table(CubicSpline(np.sqrt(r), values), largest)

    def roots(self, modes: Array, distance: Array, gram: Array) -> Roots:
        """Roots for modes = lambda^{-1/2} sqrt(w) Q of the mean, (n, m), and distances (n, n).

        Raises:
            InputError: a prior is so wide that no polynomial follows the root.
        """
        heavy = np.linalg.cholesky(gram + 1e-14 * np.trace(gram) * np.eye(len(gram)))

        def root(length: float, nu: float) -> Array:
            values, vectors = np.linalg.eigh(modes.T @ self.kernel(distance, length, nu) @ modes)
            found: Array = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
            return found

        for degree in _DEGREES:
            lengths, nus = self._nodes(self.length, 0, degree), self._nodes(self.nu, 1, degree)
            at = np.array([[root(length, nu) for nu in nus] for length in lengths])
            tensor = torch.from_numpy(_coefficients(_coefficients(at, 0), 1))
            found = Roots(tensor, torch.from_numpy(gram))
            errors = [
                np.linalg.norm(heavy.T @ (self.root(found, length, nu) - root(length, nu)))
                for length in self._between(self.length, 0)
                for nu in self._between(self.nu, 1)
            ]
            if max(errors) < _TOLERANCE:
                return found
        raise InputError(
            f"no polynomial of degree {_DEGREES[-1]} follows a covariance whose length and "
            f"smoothness have the priors {[s.prior for s in (self.length, self.nu) if s]}, from "
            "the shortest to the longest: give narrower ones"
        )

    def root(self, roots: Roots, length: float, nu: float) -> Array:
        """G^{1/2} at scales that are numbers, (m, m)."""
        at = torch.tensor([length]).double(), torch.tensor([nu]).double()
        found: Array = self._root(roots.tensor, *at)[0].numpy()
        return found

    def coefficients(self, z: Tensor, roots: Roots | None) -> Tensor:
        """c times std where that is unknown, of a block z, (..., n_scales + m) -> (..., m)."""
        parts = dict(zip(self.names, z.unbind(-1), strict=False))
        c = z[..., len(self.names) :]
        if roots is not None:
            one = torch.ones_like(z[..., 0])
            length, nu = parts.get(".length", one), parts.get(".nu", one)
            c = (self._root(roots.tensor.to(z), length, nu) @ c[..., None])[..., 0]
        return c if self.std is None else parts[".std"][..., None] * c

    def lost(self, z: Tensor, roots: Roots) -> Tensor:
        """Share of the variance that no term has at the scales of z, (..., size) -> (...,)."""
        parts = dict(zip(self.names, z.unbind(-1), strict=False))
        one = torch.ones_like(z[..., 0])
        root = self._root(roots.tensor.to(z), parts.get(".length", one), parts.get(".nu", one))
        return 1 - (root @ root.mT * roots.gram.to(z)).sum((-2, -1))

    def _root(self, tensor: Tensor, length: Tensor, nu: Tensor) -> Tensor:
        of_nu = torch.einsum("...j,ijab->...iab", _polynomials(self.nu, nu, tensor, 1), tensor)
        of_length = _polynomials(self.length, length, tensor, 0)
        return (of_length[..., None, None] * of_nu).sum(-3)

    def _spread(self, scale: Unknown | None, which: int) -> Any:
        n = _N_MEAN if self.length is None or self.nu is None else _N_MEAN // 2
        return [self.known[which]] if scale is None else scale.spread(n)

    def _nodes(self, scale: Unknown | None, which: int, degree: int) -> Any:
        return [self.known[which]] if scale is None else scale.nodes(degree)

    def _between(self, scale: Unknown | None, which: int) -> Any:
        if scale is None:
            return [self.known[which]]
        share = np.linspace(0.02, 0.98, 6 if self.nu is None or self.length is None else 4)
        return np.exp(np.log(scale.low) * (1 - share) + np.log(scale.high) * share)


def _polynomials(scale: Unknown | None, value: Tensor, tensor: Tensor, axis: int) -> Tensor:
    if scale is None:
        return torch.ones_like(value)[..., None]
    return scale.polynomials(value, tensor.shape[axis])


def _coefficients(values: Array, axis: int) -> Array:
    """Chebyshev coefficients along an axis of values at the points of the first kind."""
    n = values.shape[axis]
    if n == 1:
        return values
    matrix = chebyshev.chebvander(chebyshev.chebpts1(n), n - 1).T * 2 / n
    matrix[0] /= 2
    return np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis)


def _values(prior: Prior, scores: Array) -> Array:
    """A prior at standard scores; where it has bounds at levels between them."""
    low, high = prior.standard_bounds
    xi = scores
    if np.isfinite(low):
        # The ends of the support are four standard deviations away.
        level = np.where(np.abs(scores) < _REACH, ndtr(scores), scores > 0)
        xi = low + (high - low) * level
    found: Array = prior.unstandardise(torch.from_numpy(xi)).numpy()
    return found
