"""Karhunen-Loève fields of a stationary covariance, on any mesh, by the Nyström method.

    int k(x, y) phi_i(y) dy = lambda_i phi_i(x),      g(x) = sum_i z_i sqrt(lambda_i) phi_i(x)

The integral is replaced by a sum over at most a thousand inducing points x_j with weights w_j
(farthest-point samples of the cell centroids, each weighted by the volume nearest to it), and

    psi_i(x) = sqrt(lambda_i) phi_i(x) = std lambda_i^{-1/2} sum_j k(x, x_j) sqrt(w_j) Q_ji

with Q and lambda the eigenvectors and eigenvalues of W^{1/2} K W^{1/2}, k the correlation. Only
kernel rows are ever formed, so the cost grows linearly with the number of points at which the field
is wanted. Where length, nu or std are unknown, k is the mean correlation; see
`pddlvm.parameters.scales`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import gammaln, kve
from torch import Tensor
from torch.distributions import Distribution

from pddlvm.basics.checks import check_count, check_kind, check_real, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.fem import Points, Space
from pddlvm.linalg.eigenvectors import canonical_rotation
from pddlvm.linalg.farthest_points import farthest_points
from pddlvm.links import exp, identity
from pddlvm.parameters.distributions import prior_of
from pddlvm.parameters.fields import Field, Link
from pddlvm.parameters.priors import Normal, Prior
from pddlvm.parameters.scales import Roots, Scales, Unknown, positive

__all__ = ["Covariance", "KarhunenLoeve", "Matern", "exponential", "gaussian"]

Array = NDArray[np.float64]
Covariance = Callable[[Array], Array]
"""Correlation as a function of the distance in correlation lengths."""

_N_INDUCING = 1000
_N_CANDIDATES = 2**18
"""Points among which these are chosen: of millions each choice would read all."""
_CHUNK = 256
"""Points whose correlations with these stay in a cache."""


def gaussian(distance: Array) -> Array:
    """exp(-r^2 / 2), r in correlation lengths."""
    check_kind(np.ndarray | float | int, distance=distance)
    return np.exp(-0.5 * distance**2)


def exponential(distance: Array) -> Array:
    """exp(-r), r in correlation lengths."""
    check_kind(np.ndarray | float | int, distance=distance)
    return np.exp(-distance)


@dataclass(frozen=True)
class Matern:
    """Matérn correlation 2^{1-nu} / Gamma(nu) s^nu K_nu(s), s = sqrt(2 nu) r.

    Attributes:
        nu: > 0, or its prior.
    """

    nu: "float | Prior" = 1.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "nu", prior_of(self.nu))
        if isinstance(self.nu, Prior):
            positive("nu of Matern", self.nu)
        else:
            check_real(0, nu=self.nu)

    def __call__(self, distance: Array) -> Array:
        """Correlation at a distance in correlation lengths."""
        if isinstance(self.nu, Prior):
            raise InputError(
                f"a Matérn correlation whose nu has a prior, {self.nu!r}, is for fields with "
                "unknown scales: KarhunenLoeve.on(..., covariance=Matern(prior))"
            )
        s = np.sqrt(2 * self.nu) * np.maximum(distance, 1e-10)
        # exp of logarithms: the factors alone overflow where nu is large and s small.
        with np.errstate(divide="ignore"):
            log_k = np.log(kve(self.nu, s)) - s
        far = (1 - self.nu) * np.log(2) - gammaln(self.nu) + self.nu * np.log(s) + log_k
        return cast(Array, np.where(distance == 0, 1.0, np.exp(np.minimum(far, 0.0))))


@dataclass(frozen=True, kw_only=True)
class KarhunenLoeve(Field):
    """The leading terms of a Gaussian field, through a link; made by `KarhunenLoeve.on`.

    Attributes:
        covariance: correlation function.
        length: correlation length, in units of the mesh, or its prior.
        std: pointwise standard deviation before truncation, or its prior.
        inducing: points x_j, (n_inducing, dim).
        modes: lambda_i^{-1/2} sqrt(w_j) Q_ji, (n_inducing, n_terms).
        roots: of the correlation for unknown length or nu, see `pddlvm.parameters.scales`.
        gram: mean of psi_i psi_j over the domain, where there are roots.
    """

    covariance: Covariance
    length: "float | Prior"
    std: "float | Prior" = 1.0
    inducing: Tensor
    modes: Tensor
    roots: Tensor | None = None
    gram: Tensor | None = None

    @classmethod
    def on(
        cls,
        space: Space,
        n_terms: int,
        *,
        length: "float | Prior | Distribution",
        covariance: Covariance = gaussian,
        std: "float | Prior | Distribution" = 1.0,
        link: Link = exp,
        shift: float = 0.0,
    ) -> "KarhunenLoeve":
        """The first `n_terms` modes on the mesh of a space; the terms have prior N(0, 1).

        Scales that are not known have a prior, `length=LogUniform(0.1, 0.5)`, and are parameters
        of the field before its terms, in the order length, nu, std: `kappa.length`.

        Args:
            space: its mesh is the domain of the eigenvalue problem.
            n_terms: number of terms: with the unknown scales the d of its block of z.
            length: correlation length > 0, in units of the mesh, or its prior. Beyond four standard
                deviations the field is that of the length there.
            covariance: `gaussian`, `exponential`, `Matern(nu)` or any correlation function; nu of
                `Matern` may have a prior.
            std: pointwise standard deviation of the field before truncation, or its prior.
            link: from the Gaussian field to the coefficient.
            shift: mean of the Gaussian field.

        Raises:
            InputError: lengths or sizes out of range, more terms than the mesh can carry, a prior
                of a scale that is not positive, or too wide a one.
        """
        check_kind(Space, space=space)
        a, s = _given("length", length), _given("std", std)
        centroids = space.centroids.x
        most = min(len(centroids), _N_INDUCING)
        check_count(1, most, n_terms=n_terms)
        inducing, weights = _inducing_points(centroids, space.cell_volumes)
        root = np.sqrt(weights)
        distance = cdist(inducing, inducing)
        scales = _scales(covariance, a, s)
        _check_covariance(covariance, distance)
        kernel = _correlation(scales, covariance, a, inducing)(distance)
        values, vectors = np.linalg.eigh(root[:, None] * kernel * root)
        kept = values > 1e-12 * values[-1]
        values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
        if len(values) < n_terms:
            raise InputError(
                f"the covariance has fewer than {n_terms} terms above round-off; ask for fewer"
            )
        weighted, sizes = root[:, None] * vectors, np.sqrt(values)
        rotation = canonical_rotation(values, weighted * sizes, inducing, n_terms)
        modes = weighted / sizes @ rotation
        roots = None
        if scales is not None and (scales.length or scales.nu):
            psi = root[:, None] * (kernel @ modes)
            roots = scales.roots(modes, distance, psi.T @ psi / weights.sum())
        return cls(
            prior=Normal() if scales is None else scales.prior(n_terms),
            link=link,
            shift=shift,
            covariance=covariance,
            length=a,
            std=s,
            inducing=torch.from_numpy(inducing),
            modes=torch.from_numpy(modes),
            roots=None if roots is None else roots.tensor,
            gram=None if roots is None else roots.gram,
        )

    @cached_property
    def scales(self) -> Scales | None:
        """Those that are unknown."""
        return _scales(self.covariance, self.length, self.std)

    @cached_property
    def _correlation(self) -> Covariance:
        return _correlation(self.scales, self.covariance, self.length, self.inducing.numpy())

    @property
    def size(self) -> int:  # noqa: D102
        return self.n_shapes + (0 if self.scales is None else len(self.scales.names))

    @property
    def n_shapes(self) -> int:  # noqa: D102
        return int(self.modes.shape[1])

    @property
    def names(self) -> tuple[str, ...]:  # noqa: D102
        own = () if self.scales is None else self.scales.names
        return (*own, *(f"[{i}]" for i in range(self.n_shapes))) if own else ()

    @property
    def coefficients(self) -> Link:  # noqa: D102
        if self.scales is None:
            return identity
        return partial(self.scales.coefficients, roots=self._roots)

    @property
    def state(self) -> dict[str, Tensor]:  # noqa: D102
        found = {"inducing": self.inducing, "modes": self.modes}
        if self.roots is None or self.gram is None:
            return found
        return {**found, "roots": self.roots, "gram": self.gram}

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        std = 1.0 if isinstance(self.std, Prior) else self.std
        inducing, modes = self.inducing.numpy(), std * self.modes.numpy()
        chunks = [
            self._correlation(cdist(points.x[i : i + _CHUNK], inducing)) @ modes
            for i in range(0, len(points.x), _CHUNK)
        ]
        return torch.from_numpy(np.concatenate(chunks))

    def lost_variance(self, z: Tensor) -> Tensor:
        """Share of the variance that the terms leave out at scales z, (..., size) -> (...,).

        A mean over the domain, of fields with unknown length or nu: the shorter the length, the
        more of it is lost.

        Raises:
            InputError: length and nu are known, or z has another size.
        """
        if self.scales is None or self._roots is None:
            raise InputError("lost_variance is for fields whose length or nu is unknown")
        z = check_vectors(z, "z", self.size, f"have the {self.size} parameters of the field")
        return self.scales.lost(z, self._roots)

    @property
    def _roots(self) -> Roots | None:
        if self.roots is None or self.gram is None:
            return None
        return Roots(self.roots, self.gram)


def _given(name: str, scale: "float | Prior | Distribution") -> "float | Prior":
    found: float | Prior = prior_of(scale)
    if isinstance(found, Prior):
        positive(name, found)
    else:
        check_real(0, **{name: found})
    return found


def _check_covariance(covariance: Covariance, distance: Array) -> None:
    if isinstance(covariance, Matern):
        return
    few = distance[:8, :8]
    found = covariance(few) if callable(covariance) else None
    if np.shape(found) != few.shape or not np.isfinite(found).all():
        raise InputError(
            "covariance must be a function of an array of distances that returns an array of "
            f"correlations, such as gaussian, exponential or Matern(1.5), got {covariance!r}"
        )


def _scales(covariance: Covariance, length: "float | Prior", std: "float | Prior") -> Scales | None:
    """Those that are unknown, None where all are known."""
    nu = covariance.nu if isinstance(covariance, Matern) else 0.0
    of_length, of_nu, of_std = (Unknown.of(s) for s in (length, nu, std))
    if of_length is of_nu is of_std is None:
        return None
    known = [0.0 if isinstance(s, Prior) else s for s in (length, nu)]
    kernel = partial(_scaled if of_nu is None else _matern, covariance)
    return Scales(of_length, of_nu, of_std, kernel, (known[0], known[1]))


def _scaled(covariance: Covariance, distance: Array, length: float, nu: float = 0.0) -> Array:
    return covariance(distance / length)


def _matern(covariance: Covariance, distance: Array, length: float, nu: float) -> Array:
    return Matern(float(nu))(distance / length)


def _correlation(
    scales: Scales | None, covariance: Covariance, length: "float | Prior", inducing: Array
) -> Covariance:
    """Correlation as a function of distances; its mean where length or nu is unknown."""
    if scales is not None and (scales.length or scales.nu):
        # Points of the mesh are a little outside of the box of those that are its centroids.
        return scales.mean_correlation(2 * float(np.linalg.norm(np.ptp(inducing, axis=0))))
    assert not isinstance(length, Prior)
    return partial(_scaled, covariance, length=length)


def _inducing_points(x: Array, volumes: Array) -> tuple[Array, Array]:
    """Farthest-point samples of x, and the volume that is nearest to each."""
    if len(x) <= _N_INDUCING:
        return x, volumes
    few = x
    if len(x) > _N_CANDIDATES:
        few = x[np.random.default_rng(0).choice(len(x), _N_CANDIDATES, replace=False)]
    middle = int(np.argmin(((few - few.mean(axis=0)) ** 2).sum(axis=1)))
    chosen = few[farthest_points(few, _N_INDUCING, middle)]
    _, owner = cKDTree(chosen).query(x)
    weights = np.bincount(owner, weights=volumes, minlength=_N_INDUCING)
    return chosen, weights.astype(np.float64)
