"""Karhunen-Loève fields of a stationary covariance, on any mesh, by the Nyström method.

    int k(x, y) phi_i(y) dy = lambda_i phi_i(x),      g(x) = sum_i z_i sqrt(lambda_i) phi_i(x)

The integral is replaced by a sum over at most a thousand inducing points x_j with weights w_j
(farthest-point samples of the cell centroids, each weighted by the volume nearest to it), and

    psi_i(x) = sqrt(lambda_i) phi_i(x) = std lambda_i^{-1/2} sum_j k(x, x_j) sqrt(w_j) Q_ji

with Q and lambda the eigenvectors and eigenvalues of W^{1/2} K W^{1/2}, k the correlation. Only
kernel rows are ever formed, so the cost grows linearly with the number of points at which the field
is wanted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import gammaln, kve
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_real
from pddlvm.basics.errors import InputError
from pddlvm.fem import Points, Space
from pddlvm.linalg.eigenvectors import canonical_rotation
from pddlvm.linalg.farthest_points import farthest_points
from pddlvm.links import exp
from pddlvm.parameters.fields import Field, Link
from pddlvm.parameters.priors import Normal

__all__ = ["Covariance", "KarhunenLoeve", "Matern", "exponential", "gaussian"]

Array = NDArray[np.float64]
Covariance = Callable[[Array], Array]
"""Correlation as a function of the distance in correlation lengths."""

_N_INDUCING = 1000
_CHUNK = 20_000


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
    """Matérn correlation 2^{1-nu} / Gamma(nu) s^nu K_nu(s), s = sqrt(2 nu) r."""

    nu: float = 1.5

    def __post_init__(self) -> None:
        check_real(0, nu=self.nu)

    def __call__(self, distance: Array) -> Array:
        """Correlation at a distance in correlation lengths."""
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
        length: correlation length, in units of the mesh.
        std: pointwise standard deviation before truncation.
        inducing: points x_j, (n_inducing, dim).
        modes: lambda_i^{-1/2} sqrt(w_j) Q_ji, (n_inducing, n_terms).
    """

    covariance: Covariance
    length: float
    std: float = 1.0
    inducing: Tensor
    modes: Tensor

    @classmethod
    def on(
        cls,
        space: Space,
        n_terms: int,
        *,
        length: float,
        covariance: Covariance = gaussian,
        std: float = 1.0,
        link: Link = exp,
        shift: float = 0.0,
    ) -> "KarhunenLoeve":
        """The first `n_terms` modes on the mesh of a space; the terms have prior N(0, 1).

        Args:
            space: its mesh is the domain of the eigenvalue problem.
            n_terms: number of terms, the d of its block of z.
            length: correlation length > 0, in units of the mesh.
            covariance: `gaussian`, `exponential`, `Matern(nu)` or any correlation function.
            std: pointwise standard deviation of the field before truncation.
            link: from the Gaussian field to the coefficient.
            shift: mean of the Gaussian field.

        Raises:
            InputError: lengths or sizes out of range, more terms than the mesh can carry.
        """
        check_kind(Space, space=space)
        check_real(0, length=length, std=std)
        centroids = space.centroids.x
        most = min(len(centroids), _N_INDUCING)
        check_count(1, most, n_terms=n_terms)
        inducing, weights = _inducing_points(centroids, space.cell_volumes)
        root = np.sqrt(weights)
        distance = cdist(inducing, inducing) / length
        kernel = covariance(distance) if callable(covariance) else None
        if np.shape(kernel) != distance.shape or not np.isfinite(kernel).all():
            raise InputError(
                "covariance must be a function of an array of distances that returns an array of "
                f"correlations, such as gaussian, exponential or Matern(1.5), got {covariance!r}"
            )
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
        return cls(
            prior=Normal(),
            link=link,
            shift=shift,
            covariance=covariance,
            length=length,
            std=std,
            inducing=torch.from_numpy(inducing),
            modes=torch.from_numpy(modes),
        )

    @property
    def size(self) -> int:  # noqa: D102
        return int(self.modes.shape[1])

    @property
    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return {"inducing": self.inducing, "modes": self.modes}

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        inducing, modes = self.inducing.numpy(), self.std * self.modes.numpy()
        chunks = [
            self.covariance(cdist(points.x[i : i + _CHUNK], inducing) / self.length) @ modes
            for i in range(0, len(points.x), _CHUNK)
        ]
        return torch.from_numpy(np.concatenate(chunks))


def _inducing_points(x: Array, volumes: Array) -> tuple[Array, Array]:
    """Farthest-point samples of x, and the volume that is nearest to each."""
    if len(x) <= _N_INDUCING:
        return x, volumes
    middle = int(np.argmin(((x - x.mean(axis=0)) ** 2).sum(axis=1)))
    chosen = farthest_points(x, _N_INDUCING, middle)
    _, owner = cKDTree(x[chosen]).query(x)
    weights = np.bincount(owner, weights=volumes, minlength=_N_INDUCING)
    return x[chosen], weights.astype(np.float64)
