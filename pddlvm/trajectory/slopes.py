"""The p x p equations and their derivatives by the parameters.

    rho = G a + G_y y - g,      G, G_y by theta(z),   y(z),   g by phi(z), b(z) and theta(z) b(z)

    drho/dz = sum_i dtheta_i/dz (G_i a + G_yi y) + G_y dy/dz - dg/dz

theta and phi read the fields at a point each: one pass gives all of their derivatives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.steps import Drive

__all__ = ["LinearisedModes", "linearised_modes"]


@dataclass(frozen=True)
class LinearisedModes:
    """rho at some z, for any a.

    Attributes:
        modes: whose.
        matrix: G, (batch, p, p).
        right: g, with the history, (batch, p).
    """

    modes: Modes
    matrix: Tensor
    right: Tensor
    _of_history: Tensor
    _y: Tensor
    _drive: Drive
    _slopes: Drive

    def residual(self, a: Tensor) -> Tensor:
        """rho, (batch, p)."""
        return (self.matrix @ a[..., None])[..., 0] - self.right

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
        state = torch.cat([a, self._y], dim=1)
        moved = torch.einsum("ipc,bc->bpi", modes.g_stiffness, state)
        found = moved @ slopes.theta.flatten(1, 2)[:, modes.pairs]
        of_y = torch.einsum("bhmd,hmi->bid", slopes.history, modes.starts)
        found = found + self._of_history @ of_y + modes.of_phi.T @ slopes.phi.flatten(1, 2)
        if self._drive.b.shape[2]:
            products = slopes.theta[..., None, :] * self._drive.b[:, :, None, :, None]
            products = products + self._drive.theta[..., None, None] * slopes.b[:, :, None]
            found = found + modes.of_b.T @ slopes.b.flatten(1, 2)
            found = found + modes.of_theta_b.T @ products.flatten(1, 3)
        return found

    def solve(self) -> tuple[Tensor, Tensor]:
        """a with rho = 0, (batch, p), and da/dz, (batch, p, d)."""
        factors = torch.linalg.lu_factor(self.matrix)
        a = torch.linalg.lu_solve(*factors, self.right[..., None])[..., 0]
        return a, -torch.linalg.lu_solve(*factors, self.slope(a))


def linearised_modes(modes: Modes, z: Tensor) -> LinearisedModes:
    """The equations at parameters z (batch, d)."""
    drive, slopes = modes.steps.drive_with_slopes(z)
    whole, y, right = modes.operators_of(drive)
    p = modes.n
    return LinearisedModes(modes, whole[..., :p], right, whole[..., p:], y, drive, slopes)
