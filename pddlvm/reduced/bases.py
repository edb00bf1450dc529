"""Bases for the solution, each K0-orthonormal and made from one factorisation of K0.

- `ResidualEnriched` (default): draw z, take the Galerkin solution in the current basis, append
  K0^{-1} r; then keep the principal components of Galerkin solutions of fresh draws.
- `EnergyModes`: K0 phi = lambda M phi, vibration modes on any geometry.
- `ChebyshevBasis`: products of Chebyshev polynomials in the bounding box (the paper's choice).
- `Nodal`: every degree of freedom; exact, for small problems.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from pddlvm.basics.checks import check_count, check_share
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import generator_of, normal_like
from pddlvm.linalg.newton import newton
from pddlvm.reduced.representation import Reference, orthonormalise
from pddlvm.weak.problem import Problem

__all__ = ["Basis", "ChebyshevBasis", "EnergyModes", "Galerkin", "Nodal", "ResidualEnriched"]

Array = NDArray[np.float64]

_BLOCK = 8
"""Draws per round of enrichment: their pointwise tangents are evaluated together."""
_MOST_ENTRIES = 2**26
"""Of products of polynomials at degrees of freedom: 512 MiB."""
_INEXACT, _TINY = 1e-2, 1e-300
_ROUNDINGS = 4.0
"""How many times what rounded boundary values leave may be as large as estimated."""


class Galerkin:
    """Galerkin solutions with the full operator, u = V c + lift(z), for any V.

    Args:
        problem: the problem.
        reference: supplies the lifting.
    """

    def __init__(self, problem: Problem, reference: Reference) -> None:
        self.problem = problem
        self.reference = reference
        self.operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self._lifts = torch.from_numpy(reference.lifts)
        self._phi = torch.from_numpy(reference.phi)
        self._fixed = torch.from_numpy(problem.fixed_dofs)

    def lift(self, z: Tensor) -> Tensor:
        """L a(z), (batch, n_dofs)."""
        values = self.operators.lift(z)[:, self._fixed]
        b = (values - self._lifts[self._fixed, 0]) @ self._phi
        return torch.cat([torch.ones(len(z), 1, dtype=z.dtype), b], dim=1) @ self._lifts.T

    def rounding(self, lift: Tensor) -> Tensor:
        """|K0^{-1} r| of residuals that are no more than rounding of lifts, (batch,)."""
        return _ROUNDINGS * self._rounded_share * self._energy_norm(lift)

    @cached_property
    def _rounded_share(self) -> float:
        """What a rounding of one lift changes of its residual, over the lift; in energy norms."""
        z = self.problem.prior.sample((1,), seed=0)
        lift = self.lift(z)
        if not (size := float(self._energy_norm(lift))):
            return 0.0
        rounding = torch.finfo(lift.dtype).eps * lift.abs() * normal_like(lift, (), generator_of(0))
        rounded = lift + rounding
        change = self.operators.residual(rounded, z) - self.operators.residual(lift, z)
        return float((self.reference.solve(change) * change).sum().sqrt()) / size

    def _energy_norm(self, lift: Tensor) -> Tensor:
        """|u|_K0 of the free part, (batch,)."""
        free = lift[:, self.operators.free].numpy()
        squares = (free * (self.reference.matrix @ free.T).T).sum(axis=1)
        return torch.from_numpy(np.sqrt(np.maximum(squares, 0.0)))

    def solve(self, v: Array, z: Tensor, tolerance: float = 1e-12) -> tuple[Array, Tensor]:
        """Coefficients (batch, n_modes) and the residual that they leave (batch, n_free)."""
        lift, test = self.lift(z), torch.from_numpy(v)

        def residual(rows: Tensor, c: Tensor) -> Tensor:
            u = lift[rows].index_add(1, self.operators.free, c @ test.T)
            return self.operators.residual(u, z[rows])

        def stiffness(rows: Tensor, c: Tensor) -> Tensor:
            u = lift[rows].index_add(1, self.operators.free, c @ test.T)
            found = []
            # As many pointwise tangents as there is memory for.
            for u_part, z_part in zip(u.split(_BLOCK), z[rows].split(_BLOCK), strict=True):
                tangents = self.operators.tangents(u_part, z_part)
                for i in range(len(z_part)):
                    k = self.problem.solver.assembler([t[i] for t in tangents])
                    found.append(torch.from_numpy(v.T @ (k @ v)))
            return torch.stack(found)

        c = z.new_zeros(len(z), v.shape[1])
        if v.shape[1]:
            # Boundary values that are a solution leave the rounding of what they cancel.
            noise = self.rounding(lift)
            c = newton(lambda rows, c: residual(rows, c) @ test, stiffness, c, tolerance, noise)
        return c.numpy(), residual(torch.arange(len(z)), c)


@dataclass(frozen=True)
class Basis(ABC):
    """How to make V, (n_free, n_modes), K0-orthonormal."""

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
            error = np.sqrt(np.maximum((reference.solve(r) * r).sum(dim=1).numpy(), 0))
            w = reference.solve_near(r, xi).numpy()
            size = np.sqrt((c**2).sum(axis=1) + error**2)
            share = float(np.clip(np.min(error / np.maximum(size, _TINY)), self.tolerance, 1.0))
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
