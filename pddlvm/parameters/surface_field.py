"""Gaussian fields on surfaces, along the surface instead of through the air.

    g(x; z) = std sum_i z_i s_i phi_i(x),     -Laplace phi_i = lambda_i phi_i on the surface,
    s_i^2 proportional to (2 nu / length^2 + lambda_i)^{-(nu + 1)}

the field of Matérn covariance as the solution of a stochastic PDE (Lindgren, Rue and Lindström,
J. R. Stat. Soc. B 73, 2011), cut after a number of terms.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_real
from pddlvm.fem import Points, SurfaceMesh, barycentric, surface_gram_matrices
from pddlvm.linalg.automatic import Automatic
from pddlvm.linalg.eigenvectors import canonical_rotation
from pddlvm.linalg.factorisation import rough
from pddlvm.links import exp
from pddlvm.parameters.fields import Field, Link
from pddlvm.parameters.priors import Normal

__all__ = ["SurfaceField"]

_MOST_EQUAL = 5
"""Most eigenvalues that a symmetry of a body makes equal: those of an icosahedron."""


@dataclass(frozen=True, kw_only=True)
class SurfaceField(Field):
    """A Matérn field on a surface, through a link; made by `SurfaceField.on`.

    Attributes:
        mesh: the surface.
        length, smoothness, std: of the covariance, with which the modes were made.
        modes: std s_i phi_i at its vertices, (n_vertices, n_terms).
    """

    mesh: SurfaceMesh
    length: float
    smoothness: float
    std: float
    modes: Tensor

    @classmethod
    def on(
        cls,
        mesh: SurfaceMesh,
        n_terms: int,
        *,
        length: float,
        smoothness: float = 1.5,
        std: float = 1.0,
        link: Link = exp,
    ) -> "SurfaceField":
        """The leading `n_terms` modes; the terms have prior N(0, 1).

        Args:
            mesh: the surface, open (no flux through its boundary) or closed.
            n_terms: number of terms, the d of its block of z.
            length: correlation length > 0 along the surface, in units of the mesh.
            smoothness: nu > 0 of the Matérn covariance.
            std: standard deviation of the field, in the mean over the surface.
            link: from the Gaussian field to the coefficient.

        Raises:
            InputError: a number out of range.
        """
        check_kind(SurfaceMesh, mesh=mesh)
        n = mesh.p.shape[1]
        check_count(1, n - 2, n_terms=n_terms)
        check_real(0, length=length, std=std, smoothness=smoothness)
        mass, stiffness = surface_gram_matrices(mesh)
        area = float(mass.sum())
        # Shifted to the left of the eigenvalue zero of constants.
        shift = -1.0 / area
        shifted = (stiffness - shift * mass).tocsc()
        factors = Automatic().factorise(shifted, symmetric=True, many=True)
        inverse = LinearOperator((n, n), matvec=factors.solve, dtype=np.float64)
        start = rough(n)
        n_found = min(n_terms + _MOST_EQUAL, n - 1)
        values, vectors = eigsh(stiffness, n_found, M=mass, sigma=shift, OPinv=inverse, v0=start)
        order = np.argsort(values)
        values, vectors = np.maximum(values[order], 0), vectors[:, order]
        variance = (2 * smoothness * (1 / length) ** 2 + values) ** (-(smoothness + 1))
        # The eigenvectors have unit mass: the mean variance is the sum over the area.
        variance *= std**2 * area / variance[:n_terms].sum()
        scaled = vectors * np.sqrt(variance)
        rotation = canonical_rotation(variance, mass @ scaled, mesh.p.T, n_terms)
        modes = torch.from_numpy(scaled @ rotation)
        return cls(
            prior=Normal(),
            link=link,
            mesh=mesh,
            length=length,
            smoothness=smoothness,
            std=std,
            modes=modes,
        )

    @property
    def size(self) -> int:  # noqa: D102
        return int(self.modes.shape[1])

    @property
    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return {"modes": self.modes}

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        corners = torch.from_numpy(self.mesh.t.T[points.cells])
        weights = torch.from_numpy(barycentric(self.mesh, points))
        return torch.einsum("na,nai->ni", weights, self.modes[corners])
