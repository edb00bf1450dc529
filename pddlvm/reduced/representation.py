"""The solution in a basis that is orthonormal in the reference energy.

    u = V c + L a,    V^T K0 V = E I,    a = (1, b(z))

K0 is the stiffness at the centre of the prior. L lifts the Dirichlet values: they are
u_D(z) = mean + U Phi b(z), and each column is extended K0-harmonically into the domain, so that
c = V^T K0 u / E holds for any u, whatever its boundary values: coefficients need no lifting.

U is the size of u less its mean boundary values, E that of its energy: c and b have no units and
are of size one, whatever the units of the problem. V / U is kept in the dtype of the maps, the way
from it to u is in the dtype that is asked for.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pddlvm.basics.errors import InputError
from pddlvm.linalg.derivatives import root
from pddlvm.linalg.low_rank import columns_of
from pddlvm.reduced.reference import Reference
from pddlvm.weak.problem import Problem

__all__ = ["Representation", "Units"]

Array = NDArray[np.float64]

_BOUNDARY_TOLERANCE, _ROUNDINGS = 1e-3, 4
_RANGE = 1e-3
"""Of the largest number of a dtype: solutions are sums of some ten modes."""


@dataclass(frozen=True)
class Units:
    """Sizes over the prior.

    Attributes:
        u: of a solution, less its mean boundary values.
        energy: of its energy.
    """

    u: float = 1.0
    energy: float = 1.0


class Representation(nn.Module):
    """u from coefficients and back, for batches, in one dtype.

    Args:
        problem: for degrees of freedom and boundary values.
        reference: K0 and the lifting.
        v: basis on the free degrees of freedom, (n_free, n_modes), K0-orthonormal.
        dtype: of c and b.
        units: sizes of u and of its energy.
        w: test functions on the free degrees of freedom, (n_free, n_tests), X-orthonormal; by
            default those of the basis.
    """

    rows: Tensor
    coordinates: Tensor
    offset: Tensor
    phi: Tensor
    fixed: Tensor

    def __init__(
        self,
        problem: Problem,
        reference: Reference,
        v: Array,
        dtype: torch.dtype,
        units: Units = Units(),
        w: Array | None = None,
    ) -> None:
        super().__init__()
        free, fixed = problem.free_dofs, problem.fixed_dofs
        n_modes = v.shape[1]
        scale = units.energy**0.5 / units.u
        rows = np.zeros((n_modes + reference.lifts.shape[1], problem.n_dofs))
        rows[:n_modes, free] = scale * v.T
        # The row of the mean boundary values stays zero: they are added in the end.
        rows[n_modes + 1 :] = reference.lifts[:, 1:].T
        coordinates = np.zeros((problem.n_dofs, n_modes))
        coordinates[free] = reference.matrix @ v / units.energy**0.5 * units.u
        coordinates[fixed] = reference.coupling.T @ v / units.energy**0.5 * units.u
        self.n_modes = n_modes
        self.n_lifts = reference.lifts.shape[1]
        self.problem = problem
        self.units = units
        self.w: Array | None = None
        self.n_tests = n_modes
        if w is not None:
            self.n_tests = w.shape[1]
            self.w = np.zeros((problem.n_dofs, self.n_tests))
            self.w[free] = units.energy**0.5 * w
        self.register_buffer("rows", torch.tensor(rows, dtype=dtype))
        self.register_buffer("offset", torch.tensor(reference.lifts[:, 0]))
        self._largest = float(np.abs(reference.lifts[:, 0]).max())
        self.register_buffer("coordinates", torch.tensor(coordinates, dtype=dtype))
        self.register_buffer("phi", torch.tensor(reference.phi, dtype=dtype))
        self.register_buffer("fixed", torch.from_numpy(fixed))

    @property
    def basis(self) -> Tensor:
        """(V, L) in the units of u, (n_dofs, n_modes + n_lifts), float64."""
        basis = self.units.u * self.rows.double()
        basis[self.n_modes] += self.offset
        return basis.T

    @property
    def vectors(self) -> Tensor:
        """V / U, zero on the Dirichlet boundary, (n_dofs, n_modes)."""
        return self.rows[: self.n_modes].T

    def boundary_coordinates(self, z: Tensor) -> Tensor:
        """b(z), (batch, rank)."""
        if self.n_lifts == 1:
            return self.phi.new_zeros(len(z), 0)
        return self._coordinates_of_values(self.boundary_values(z))

    def boundary_values(self, z: Tensor) -> Tensor:
        """Those of z, float64, (batch, n_fixed)."""
        z = z.double()
        return self.problem.discretisation(z.dtype, z.device).boundary_values(z)

    def boundary_coordinates_of(self, u: Tensor) -> Tensor:
        """b of a solution, read from its boundary values, (batch, rank)."""
        return self._coordinates_of_values(u[..., self.fixed])

    def _coordinates_of_values(self, values: Tensor) -> Tensor:
        return self._relative_values(values) @ self.phi

    def boundary_misfit(self, u: Tensor) -> Tensor:
        """Boundary values of u less those of its b, (batch, n_fixed): zero for a solution."""
        values = self._relative_values(u[..., self.fixed])
        return self.units.u * (values - (values @ self.phi) @ self.phi.T)

    def check_boundary(self, u: Tensor) -> None:
        """Refuse solutions (batch, n_dofs) whose Dirichlet values are not those of any z."""
        rounding, u = _ROUNDINGS * torch.finfo(u.dtype).eps, u.to(self.offset)
        allowed = _BOUNDARY_TOLERANCE * (u - self.offset).abs().amax(1)
        allowed = allowed + rounding * u.abs().amax(1)
        if (self.boundary_misfit(u).abs() > allowed[:, None]).any():
            raise InputError(
                "u does not have the Dirichlet values of the problem; inverse() wants full "
                "solutions, boundary included, or the noise_std of their values"
            )

    def _relative_values(self, values: Tensor) -> Tensor:
        """Boundary values (batch, n_fixed) less their mean, relative to U."""
        own = self.rows[self.n_modes, self.fixed]
        return self._relative(values, self.offset[self.fixed]) - own

    def _relative(self, u: Tensor, offset: Tensor) -> Tensor:
        """(u - offset) / U in the dtype of c."""
        return ((u.double() - offset) / self.units.u).to(self.rows.dtype)

    def augment(self, c: Tensor, b: Tensor) -> Tensor:
        """(c, 1, b): what multiplies the columns of (V, L)."""
        return torch.cat([c, torch.ones_like(c[..., :1]), b], dim=-1)

    def seen(self, rows: sp.csr_matrix) -> tuple[Tensor, Tensor]:
        """What sensors H (n, n_dofs) see of (V, L) / U and of the mean boundary values, float64.

        (n, n_columns) and (n,); nothing is read but the columns of H that are not zero.
        """
        few, touched = columns_of(rows)
        columns = self.rows[:, touched.to(self.rows.device)].double().cpu().numpy()
        offset = self.offset[touched.to(self.offset.device)].cpu().numpy()
        return torch.from_numpy(few @ columns.T), torch.from_numpy(few @ offset)

    def expand(self, c: Tensor, z: Tensor) -> Tensor:
        """u = V c + L a(z), (batch, n_dofs), float64."""
        a = self.augment(c, self.boundary_coordinates(z))
        return self.units.u * (a @ self.rows).double() + self.offset

    def solution(self, a: Tensor, dtype: torch.dtype) -> Tensor:
        """u of augmented coefficients (..., n_columns), (..., n_dofs).

        Raises:
            InputError: u leaves the range of the dtype.
        """
        self.check_range(a, dtype)
        shape = (a @ self.rows).to(dtype)
        unit = torch.tensor(self.units.u, dtype=dtype, device=shape.device)
        # In place: the mesh may be large. A graph needs what would be written over.
        where = None if shape.requires_grad else shape
        return torch.addcmul(self.offset.to(dtype), shape, unit, out=where)

    def check_range(self, a: Tensor, dtype: torch.dtype) -> None:
        """Raise an InputError if u of augmented coefficients leaves the range of the dtype."""
        self.check_size(float(a.detach().abs().max()) if a.numel() else 0.0, dtype)

    def check_size(self, a: float, dtype: torch.dtype) -> None:
        """The same, for the largest of the coefficients."""
        info = torch.finfo(dtype)
        largest = max(self.units.u, self.units.u * a, self._largest)
        if info.tiny < self.units.u and largest < _RANGE * info.max:
            return
        raise InputError(
            f"solutions of problem {self.problem.name!r} have a size of about {self.units.u:.0e}, "
            f"which leaves the range of {dtype}: ask in float64, model.forward(z.double()), or "
            "choose other units"
        )

    def std(self, var_c: Tensor, var_rest: Tensor, like: Tensor) -> Tensor:
        """Standard deviation of u, (batch, n_dofs), from those of c and of the rest, relative to U.

        Args:
            var_c: (batch, n_modes).
            var_rest: (batch, n_dofs).
            like: its dtype and device are those of the result: U may leave the range of others.
        """
        return self.units.u * root(var_c @ self.vectors.square().T + var_rest).to(like)

    def test(self, r: Tensor) -> Tensor:
        """W^T r / E of residuals on the free degrees of freedom, (batch, n_free), float64, CPU."""
        free = self.problem.free_dofs
        if self.w is not None:
            return r @ torch.from_numpy(self.w[free]) / self.units.energy
        return (r @ self.vectors[free].double()) * (self.units.u / self.units.energy)

    def project(self, u: Tensor) -> Tensor:
        """c = V^T K0 u / E, (batch, n_dofs) -> (batch, n_modes)."""
        return self._relative(u, self.offset) @ self.coordinates
