"""Bases for the solution, each X-orthonormal and made from one factorisation of X, mostly K0.

- `ResidualEnriched` (default): draw z, take the Galerkin solution in the current basis, append
  K0^{-1} r; then keep the principal components of reduced solutions of fresh draws.
- `EnergyModes`: X phi = lambda M phi, vibration modes on any geometry.
- `ChebyshevBasis`: products of Chebyshev polynomials in the bounding box (the paper's choice).
- `Nodal`: every degree of freedom; exact, for small problems.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from pddlvm.basics.checks import check_count, check_share
from pddlvm.basics.errors import InputError
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.reference import orthonormalise

__all__ = ["Basis", "ChebyshevBasis", "EnergyModes", "Nodal", "ResidualEnriched"]

Array = NDArray[np.float64]

_BLOCK = 8
"""Draws per round of enrichment: their pointwise tangents are evaluated together."""
_MOST_ENTRIES = 2**26
"""Of products of polynomials at degrees of freedom: 512 MiB."""
_INEXACT, _TINY = 1e-2, 1e-300
_NEAR = 1e-2
"""What most draws of a round leave outside of V, over their size, where their solutions in V are
kept."""


@dataclass(frozen=True)
class Basis(ABC):
    """How to make V, (n_free, n_modes), X-orthonormal."""

    @property
    def n_kept(self) -> int | None:
        """Modes to keep after compression by principal components; None: keep V as it is."""
        return None

    @abstractmethod
    def build(self, galerkin: Galerkin, generator: torch.Generator) -> Array:
        """V for a problem."""


@dataclass(frozen=True)
class ResidualEnriched(Basis):
    """Residual-enriched basis, compressed.

    Attributes:
        n_modes: at most this many modes are kept, from twice as many enrichments.
        tolerance: stop enriching when fresh draws leave a smaller |K0^{-1} r| / |u|, and keep no
            principal components below it, both in the reference energy norm. It may be as small as
            round-off, 1e-12 for one, where the basis itself is to be that good.
    """

    n_modes: int = 64
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_count(1, n_modes=self.n_modes)
        check_share(tolerance=self.tolerance)

    @property
    def n_kept(self) -> int | None:  # noqa: D102
        return self.n_modes

    def build(self, galerkin: Galerkin, generator: torch.Generator) -> Array:  # noqa: D102
        prior, reference = galerkin.problem.prior, galerkin.reference
        n_free = galerkin.problem.n_free
        n_wanted = min(2 * self.n_modes, n_free)
        v, share = np.zeros((n_free, 0)), 1.0
        while v.shape[1] < n_wanted:
            xi = prior.sample_standard((_BLOCK,), generator=generator)
            z = prior.unstandardise(xi)
            # What is left in the basis need be small beside what is left outside of it.
            c, r = galerkin.solve(v, z, _INEXACT * share)
            w = reference.solve_near(r, xi).numpy()
            if reference.is_dual:
                squares = w * (reference.matrix @ w.T).T
            else:
                riesz = reference.solve(r).numpy() if len(reference.centres) else w
                squares = riesz * r.numpy()
            error = np.sqrt(np.maximum(squares.sum(axis=1), 0))
            size = np.sqrt((c**2).sum(axis=1) + error**2)
            left = error / np.maximum(size, _TINY)
            if np.median(left) <= _NEAR:
                # All of them: those that are far from V are the ones that cubatures are to know.
                galerkin.keep(z, c)
            share = float(np.clip(left.min(), self.tolerance, 1.0))
            noise = galerkin.rounding(galerkin.lift(z)).numpy()
            large = error > np.maximum(self.tolerance * size, noise)
            if not large.any():
                break
            wider = orthonormalise(v, w[large].T, reference.matrix)
            if wider.shape[1] == v.shape[1]:
                # What is left of the residual is round-off, in directions that V has already.
                break
            v = wider
        return v[:, :n_wanted]


@dataclass(frozen=True)
class EnergyModes(Basis):
    """The lowest modes of K0 phi = lambda M phi, scaled to unit energy."""

    n_modes: int = 64

    def __post_init__(self) -> None:
        check_count(1, n_modes=self.n_modes)

    def build(self, galerkin: Galerkin, generator: torch.Generator) -> Array:  # noqa: D102
        problem, reference = galerkin.problem, galerkin.reference
        if self.n_modes >= problem.n_free:
            raise InputError(
                f"n_modes must be between 1 and {problem.n_free - 1}, got {self.n_modes}"
            )
        mass = problem.space.gram_matrices()[0][problem.free_dofs][:, problem.free_dofs]
        inverse = LinearOperator(
            reference.matrix.shape, matvec=reference.factors.solve, dtype=np.float64
        )
        start = np.ones(problem.n_free)
        values, vectors = eigsh(
            reference.matrix, self.n_modes, M=mass.tocsc(), sigma=0.0, OPinv=inverse, v0=start
        )
        return np.asarray(vectors / np.sqrt(values))


@dataclass(frozen=True)
class ChebyshevBasis(Basis):
    """Products of `n_terms` Chebyshev polynomials per axis of the bounding box.

    They need not vanish on the Dirichlet boundary: the free degrees of freedom are fitted, the
    fixed ones are set. Dependent products are dropped.
    """

    n_terms: int = 8

    def __post_init__(self) -> None:
        check_count(1, n_terms=self.n_terms)

    def build(self, galerkin: Galerkin, generator: torch.Generator) -> Array:  # noqa: D102
        problem = galerkin.problem
        if not problem.space.is_value.all():
            raise InputError(
                "ChebyshevBasis needs elements whose degrees of freedom are values at points, and "
                f"those of problem {problem.name!r} are fluxes, slopes or bubbles too; take "
                "ResidualEnriched or EnergyModes"
            )
        x = problem.space.dof_points[problem.free_dofs]
        n_products = problem.space.n_components * self.n_terms ** x.shape[1]
        if n_products * len(x) > _MOST_ENTRIES:
            raise InputError(
                f"n_terms={self.n_terms} makes {n_products:.0e} products on {len(x)} degrees of "
                "freedom; take fewer"
            )
        low, high = problem.space.mesh.p.min(axis=1), problem.space.mesh.p.max(axis=1)
        s = 2 * (x - low) / (high - low) - 1
        products = np.ones((len(x), 1))
        for axis in range(x.shape[1]):
            along = np.polynomial.chebyshev.chebvander(s[:, axis], self.n_terms - 1)
            products = np.einsum("ni,nj->nij", products, along).reshape(len(x), -1)
        # A bubble makes each product vanish towards the fixed degrees of freedom.
        products = products * galerkin.reference.factors.solve(np.ones(problem.n_free))[:, None]
        component = problem.space.dof_components[problem.free_dofs]
        columns = [products * (component == i)[:, None] for i in range(problem.space.n_components)]
        empty = np.zeros((problem.n_free, 0))
        return orthonormalise(empty, np.column_stack(columns), galerkin.reference.matrix)


@dataclass(frozen=True)
class Nodal(Basis):
    """All free degrees of freedom, whitened by the Cholesky factor of K0."""

    def build(self, galerkin: Galerkin, generator: torch.Generator) -> Array:  # noqa: D102
        k0: sp.csc_matrix = galerkin.reference.matrix
        return np.asarray(np.linalg.inv(np.linalg.cholesky(k0.toarray())).T)
