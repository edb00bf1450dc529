"""The p x p equations and their derivatives by the parameters.

    rho = G a + G_y y - g + f,  G, G_y by theta(z),   y(z),   g by phi(z), b(z) and theta(z) b(z)

    drho/dz = sum_i dtheta_i/dz (G_i a + G_yi y) + G_y dy/dz - dg/dz

theta and phi read the fields at a point each: one pass gives all of their derivatives. f, of terms
that are not linear, reads them at many: where there are such, rho is differentiated as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.linalg.derivatives import linearise
from pddlvm.trajectory.modes import Equations, Modes
from pddlvm.trajectory.steps import Drive

__all__ = ["LinearisedModes", "linearised_modes"]


@dataclass(frozen=True)
class LinearisedModes:
    """rho at some z, for any a.

    Attributes:
        modes: whose.
        equations: rho.
    """

    modes: Modes
    equations: Equations
    _drive: Drive
    _slopes: Drive

    def residual(self, a: Tensor) -> Tensor:
        """rho, (batch, p)."""
        return self.equations.residual(a)

    @property
    def boundary(self) -> Tensor:
        """Dirichlet values at the steps, (batch, N, R)."""
        return self.modes.steps.boundary(self._drive)

    @property
    def boundary_slope(self) -> Tensor:
        """Their derivatives by z, (batch, N, R, d)."""
        return self.modes.steps.boundary(self._slopes)

    def slope(self, a: Tensor) -> Tensor:
        """drho/dz at a (batch, p), (batch, p, d)."""
        modes, slopes = self.modes, self._slopes
        if modes.pointwise is not None:
            return linearise(lambda z: modes.residual(a, z), self._drive.z)[1]
        of_history = self.equations.of_history
        state = torch.cat([a, self.equations.known[:, : of_history.shape[2]]], dim=1)
        moved = torch.einsum("ipc,bc->bpi", modes.g_stiffness, state)
        found = moved @ slopes.theta.flatten(1, 2)[:, modes.pairs]
        of_y = torch.einsum("bhmd,hmi->bid", slopes.history, modes.starts)
        found = found + of_history @ of_y + modes.of_phi.T @ slopes.phi.flatten(1, 2)
        if self._drive.b.shape[2]:
            products = slopes.theta[..., None, :] * self._drive.b[:, :, None, :, None]
            products = products + self._drive.theta[..., None, None] * slopes.b[:, :, None]
            found = found + modes.of_b.T @ slopes.b.flatten(1, 2)
            found = found + modes.of_theta_b.T @ products.flatten(1, 3)
        return found

    def solve(self) -> tuple[Tensor, Tensor]:
        """a with rho = 0, (batch, p), and da/dz, (batch, p, d)."""
        if self.modes.pointwise is not None:
            a = self.modes.solve(self._drive.z)
            return a, -torch.linalg.solve(self.equations.tangent(a), self.slope(a))
        factors = torch.linalg.lu_factor(self.equations.g)
        a = torch.linalg.lu_solve(*factors, self.equations.right[..., None])[..., 0]
        return a, -torch.linalg.lu_solve(*factors, self.slope(a))


def linearised_modes(modes: Modes, z: Tensor) -> LinearisedModes:
    """The equations at parameters z (batch, d)."""
    drive, slopes = modes.steps.drive_with_slopes(z)
    return LinearisedModes(modes, modes.equations(drive), drive, slopes)
