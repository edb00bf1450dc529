"""The solution in a basis that is orthonormal in the reference energy.

    u = V c + L a,    V^T K0 V = I,    a = (1, b(z))

K0 is the stiffness at the centre of the prior. L lifts the Dirichlet values: they are
u_D(z) = mean + Phi b(z), and each column is extended K0-harmonically into the domain, so that
c = V^T K0 u holds for any u, whatever its boundary values: coefficients need no lifting.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pddlvm.errors import InputError
from pddlvm.factors import SparseFactors, factorise
from pddlvm.problem import Problem

__all__ = ["Reference", "Representation", "orthonormalise"]

Array = NDArray[np.float64]

_N_LIFT_DRAWS = 64
_RANK_TOLERANCE = 1e-10
_N_CENTRES = 16
_BOUNDARY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Reference:
    """The reference operator K0, factorised, and the lifting of boundary values.

    K0 is symmetric and defines the norm. Where K is not (advection), K0 is its symmetric part, and
    a few K(z_k) approximate K(z)^{-1}: the one with z_k next to z.

    Attributes:
        matrix: K0 on the free degrees of freedom, symmetric.
        coupling: K0 between free and fixed degrees of freedom, (n_free, n_fixed).
        factors: of K0.
        lifts: L, (n_dofs, 1 + rank): harmonic extension of the mean boundary values, then of Phi.
        phi: orthonormal directions of the boundary values, (n_fixed, rank).
        centres: standard parameters of the K(z_k), (n_centres, d); none where K is symmetric.
        factors_at: of the K(z_k).
    """

    matrix: sp.csc_matrix
    coupling: sp.csc_matrix
    factors: SparseFactors
    lifts: Array
    phi: Array
    centres: Tensor
    factors_at: tuple[SparseFactors, ...]

    @classmethod
    def of(cls, problem: Problem) -> "Reference":
        """Factorise K0 at the centre of the prior, and find the directions of the boundary data."""
        operators = problem.discretisation(torch.float64, torch.device("cpu"))
        free, fixed = problem.free_dofs, problem.fixed_dofs
        generator = torch.Generator().manual_seed(0)
        xi = problem.prior.sample_standard((_N_LIFT_DRAWS,), generator=generator)
        centre = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters))
        boundary = operators.lift(problem.prior.unstandardise(xi)).numpy()[:, fixed]
        mean = boundary.mean(axis=0)
        _, values, directions = np.linalg.svd(boundary - mean, full_matrices=False)
        size = float(np.linalg.norm(boundary))
        rank = int((values > _RANK_TOLERANCE * size).sum())
        phi = directions[:rank].T

        z0 = centre.double()
        tangents = [t[0] for t in operators.tangents(operators.lift(z0), z0)]
        whole = problem.solver.assemble_unconstrained(tangents)
        whole = (0.5 * (whole + whole.T)).tocsr()
        matrix, coupling = whole[free][:, free].tocsc(), whole[free][:, fixed].tocsc()
        factors = factorise(matrix, symmetric=True)
        columns = np.column_stack([mean, phi])
        lifts = np.zeros((problem.n_dofs, 1 + rank))
        lifts[fixed] = columns
        lifts[free] = -factors.solve(coupling @ columns)
        centres = xi[: 0 if problem.is_coercive else _N_CENTRES]
        factors_at = []
        for z in problem.prior.unstandardise(centres)[:, None]:
            matrix_at = problem.solver.matrix(torch.from_numpy(lifts[:, 0]), z[0])
            factors_at.append(factorise(matrix_at, symmetric=False))
        return cls(matrix, coupling, factors, lifts, phi, centres, tuple(factors_at))

    def solve(self, r: Tensor) -> Tensor:
        """K0^{-1} r for a batch, (batch, n_free), float64 on the CPU inside."""
        return _solve(self.factors, r)

    def solve_near(self, r: Tensor, xi: Tensor) -> Tensor:
        """About K(z)^{-1} r: K(z_k)^{-1} r with the nearest centre, or K0^{-1} r without centres.

        Args:
            r: (batch, n_free).
            xi: standard parameters, (batch, d).
        """
        if not len(self.centres):
            return self.solve(r)
        w = torch.empty_like(r)
        nearest = torch.cdist(xi.double().cpu(), self.centres).argmin(dim=1)
        for k in nearest.unique().tolist():
            w[nearest == k] = _solve(self.factors_at[k], r[nearest == k])
        return w


def _solve(factors: SparseFactors, r: Tensor) -> Tensor:
    rows = np.ascontiguousarray(r.detach().cpu().double().numpy().T)
    return torch.from_numpy(factors.solve(rows).T).to(r)


def orthonormalise(v: Array, w: Array, k0: sp.csc_matrix) -> Array:
    """V extended by the K0-orthonormalised columns of W; dependent columns are dropped."""
    w = w / np.sqrt((w * (k0 @ w)).sum(axis=0))
    for _ in range(2):
        w = w - v @ (v.T @ (k0 @ w))
    values, vectors = np.linalg.eigh(w.T @ (k0 @ w))
    keep = values > 1e-8
    w = w @ (vectors[:, keep] / np.sqrt(values[keep]))
    w = w - v @ (v.T @ (k0 @ w))
    w = w / np.sqrt((w * (k0 @ w)).sum(axis=0))
    return np.column_stack([v, w])


class Representation(nn.Module):
    """u from coefficients and back, for batches, in one dtype.

    Args:
        problem: for degrees of freedom and boundary values.
        reference: K0 and the lifting.
        v: basis on the free degrees of freedom, (n_free, n_modes), K0-orthonormal.
        dtype: of the buffers.
    """

    rows: Tensor
    coordinates: Tensor
    phi: Tensor
    fixed: Tensor

    def __init__(
        self, problem: Problem, reference: Reference, v: Array, dtype: torch.dtype
    ) -> None:
        super().__init__()
        free, fixed = problem.free_dofs, problem.fixed_dofs
        n_modes = v.shape[1]
        basis = np.zeros((problem.n_dofs, n_modes))
        basis[free] = v
        coordinates = np.zeros((problem.n_dofs, n_modes))
        coordinates[free] = reference.matrix @ v
        coordinates[fixed] = reference.coupling.T @ v
        self.n_modes = n_modes
        self.n_lifts = reference.lifts.shape[1]
        self.problem = problem
        rows = np.ascontiguousarray(np.column_stack([basis, reference.lifts]).T)
        self.register_buffer("rows", torch.from_numpy(rows).to(dtype))
        self.register_buffer("coordinates", torch.from_numpy(coordinates).to(dtype))
        self.register_buffer("phi", torch.from_numpy(reference.phi).to(dtype))
        self.register_buffer("fixed", torch.from_numpy(fixed))

    @property
    def basis(self) -> Tensor:
        """(V, L), (n_dofs, n_modes + n_lifts)."""
        return self.rows.T

    @property
    def vectors(self) -> Tensor:
        """V, zero on the Dirichlet boundary, (n_dofs, n_modes)."""
        return self.basis[:, : self.n_modes]

    def boundary_coordinates(self, z: Tensor) -> Tensor:
        """b(z), (batch, rank)."""
        if self.n_lifts == 1:
            return z.new_zeros(len(z), 0)
        operators = self.problem.discretisation(z.dtype, z.device)
        return self.boundary_coordinates_of(operators.lift(z))

    def boundary_coordinates_of(self, u: Tensor) -> Tensor:
        """b of a solution, read from its boundary values, (batch, rank)."""
        return self._boundary_values(u) @ self.phi

    def boundary_misfit(self, u: Tensor) -> Tensor:
        """Boundary values of u less those of its b, (batch, n_fixed): zero for a solution."""
        values = self._boundary_values(u)
        return values - (values @ self.phi) @ self.phi.T

    def check_boundary(self, u: Tensor) -> None:
        """Refuse solutions (batch, n_dofs) whose Dirichlet values are not those of any z."""
        u = u.to(self.rows)
        wrong = self.boundary_misfit(u).abs().amax(1)
        if (wrong > _BOUNDARY_TOLERANCE * u.abs().amax(1)).any():
            raise InputError(
                "u does not have the Dirichlet values of the problem; inverse() wants full "
                "solutions, boundary included, or the noise_std of their values"
            )

    def _boundary_values(self, u: Tensor) -> Tensor:
        """Boundary values of u less their mean, (batch, n_fixed)."""
        return u[..., self.fixed] - self.basis[self.fixed, self.n_modes]

    def augment(self, c: Tensor, b: Tensor) -> Tensor:
        """(c, 1, b): what multiplies the columns of (V, L)."""
        return torch.cat([c, torch.ones_like(c[..., :1]), b], dim=-1)

    def expand(self, c: Tensor, z: Tensor) -> Tensor:
        """u = V c + L a(z), (batch, n_dofs)."""
        return self.augment(c, self.boundary_coordinates(z)) @ self.basis.T

    def project(self, u: Tensor) -> Tensor:
        """c = V^T K0 u, (batch, n_dofs) -> (batch, n_modes)."""
        return u @ self.coordinates
